# make        the release library, target/release/libmadang.{so,a}
# make run    the textbook listings, then a file tree through a ring, both checksums shown
# make check  all tests
# make bench  ours and the peers, measured side by side; QUICK=1, ROWS=spsc8,...: benches/README.md
# make every-instruction  kills after each instruction of the calls, all kinds: some ten minutes
# make storm  processes killed and stopped at random on every kind of ring, for minutes
# make clean

CARGO ?= cargo
BUILT = $(abspath $(or $(CARGO_TARGET_DIR),target))/release

.PHONY: all run check bench storm every-instruction clean

all:
	$(CARGO) build --release --lib
	ln -sf libmadang.so $(BUILT)/libmadang.so.0

run: all
	$(MAKE) -C c_examples run BUILT=$(BUILT)

check:
	$(CARGO) test

bench: all
	$(MAKE) -C benches bench CARGO="$(CARGO)" BUILT=$(BUILT)

every-instruction:
	MADANG_LONG=1 $(CARGO) test --test every_instruction --test every_instruction_named -- --nocapture

storm:
	MADANG_STRIKES=$(or $(STRIKES),2000) $(CARGO) test --release --test storm -- --test-threads=1

clean:
	$(CARGO) clean
	$(MAKE) -C c_examples clean
