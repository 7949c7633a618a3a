"""Finds libmadang and loads it.

The places, in this order:

1. ``MADANG_LIBRARY``, a path. When it is set nothing else is tried, so that a mistake in it never
   ends in another library being used.
2. The directory of this package (a wheel that carries the library).
3. The build tree this package is part of: ``target/release``, then ``target/debug``.
4. The system: ``libmadang.so.0`` where the dynamic linker looks, then what
   ``ctypes.util.find_library`` knows.
"""

import ctypes
import ctypes.util
import errno
import os
from typing import Iterator, List, Optional, Tuple

_FILES = ("libmadang.so.0", "libmadang.so")

path: str = ""
"""Where the loaded library was found."""


def _places(package: str) -> Iterator[Tuple[str, str]]:
    """Pairs of a place in words and what to hand to dlopen."""
    given = os.environ.get("MADANG_LIBRARY")
    if given:
        yield "MADANG_LIBRARY", given
        return
    for name in _FILES:
        yield "beside the package", os.path.join(package, name)
    root = os.path.dirname(os.path.dirname(package))
    for profile in ("release", "debug"):
        for name in _FILES:
            yield "build tree", os.path.join(root, "target", profile, name)
    yield "system", "libmadang.so.0"
    found: Optional[str] = ctypes.util.find_library("madang")
    if found:
        yield "ctypes.util.find_library", found


def load(package: Optional[str] = None) -> ctypes.CDLL:
    """Loads the first library found; OSError naming every place when there is none."""
    global path
    package = package or os.path.dirname(os.path.abspath(__file__))
    tried: List[str] = []
    for place, file in _places(package):
        if place != "MADANG_LIBRARY" and os.path.isabs(file) and not os.path.exists(file):
            tried.append("%s: %s (no such file)" % (place, file))
            continue
        try:
            library = ctypes.CDLL(file)
        except OSError as error:
            tried.append("%s: %s (%s)" % (place, file, error))
            continue
        path = file
        return library
    raise OSError(
        errno.ENOENT,
        "libmadang was not found. Build it with `cargo build --release`, or set MADANG_LIBRARY "
        "to the path of libmadang.so. Tried:\n  " + "\n  ".join(tried),
    )
