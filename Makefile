# make        the release library, target/release/libmadang.{so,a}
# make run    the textbook listings, then a file tree through a ring, both checksums shown
# make check  all tests
# make clean

CARGO ?= cargo

.PHONY: all run check clean

all:
	$(CARGO) build --release --lib

run: all
	$(MAKE) -C c_examples run

check:
	$(CARGO) test

clean:
	$(CARGO) clean
	$(MAKE) -C c_examples clean
