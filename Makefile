# make        the release library, target/release/libmadang.{so,a}
# make run    the textbook listings, then a file tree through a ring, both checksums shown
# make check  all tests
# make clean

CARGO ?= cargo
BUILT = $(abspath $(or $(CARGO_TARGET_DIR),target))/release

.PHONY: all run check clean

all:
	$(CARGO) build --release --lib
	ln -sf libmadang.so $(BUILT)/libmadang.so.0

run: all
	$(MAKE) -C c_examples run BUILT=$(BUILT)

check:
	$(CARGO) test

clean:
	$(CARGO) clean
	$(MAKE) -C c_examples clean
