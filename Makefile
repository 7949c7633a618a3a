# make        the release library, target/release/libmadang.{so,a}
# make run    the textbook listings, then a file tree through a ring, both checksums shown
# make check  all tests
# make bench  ours and the peers, measured side by side; QUICK=1, ROWS=spsc8,...: benches/README.md
# make every-instruction  kills all through the calls, and stops: half an hour
# make storm  processes killed and stopped at random on every kind of ring, for minutes
# make fuzz   the fuzz targets under AddressSanitizer, SECONDS=60 each, TARGETS="cells ..."; nightly Rust
# make hostile  processes that scribble on objects in use, SECONDS=10 on each kind
# make mutants  all faults that the models and tests must notice: half an hour and more
# make sanitize  examples and tests under the address, undefined-behaviour and thread sanitizers
# make valgrind  the examples under valgrind
# make clean

CARGO ?= cargo
BUILT = $(abspath $(or $(CARGO_TARGET_DIR),target))/release

.PHONY: all run check bench every-instruction storm fuzz hostile mutants sanitize valgrind clean

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
	MADANG_LONG=1 $(CARGO) test --test 'every_instruction_*' -- --nocapture

storm:
	MADANG_STRIKES=$(or $(STRIKES),2000) $(CARGO) test --release --test storm -- --test-threads=1

fuzz:
	$(MAKE) -C fuzz fuzz

# Of the make variable: the shell's own counts the seconds that it runs.
hostile:
	MADANG_SCRIBBLE_MS=$(or $(SECONDS),10)000 $(CARGO) test --release --test hostile -- --nocapture
	MADANG_OVERLAY_MS=$(or $(SECONDS),10)000 $(CARGO) test --release --test overlays -- --nocapture

mutants:
	tests/mutants.py

sanitize:
	tests/sanitize.sh

valgrind: all
	$(MAKE) -C c_examples check BUILT=$(BUILT) \
	    WRAP="valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"

clean:
	$(CARGO) clean
	$(MAKE) -C c_examples clean
