"""Madang: shared memory, rings, semaphores and pipes between processes.

The same objects a C program sees through ``libmadang``: a segment, ring, semaphore or FIFO made
here is opened there, and the other way round. See ``docs/python.md`` for the rules (timeouts,
exceptions, views, fork, Ctrl-C).
"""

from . import object  # madang.object; not in __all__: it is the name of a builtin
from ._check import FOREVER, INHERIT, NOWAIT, SEALED, OwnerDead, version
from ._library import path as library_path
from .pipe import MESSAGE_MAX, Fifo, Pipe
from .ring import Ring, RingEnd, RingKind, RingPolicy, RingStats
from .sem import Semaphore
from .shm import Shm

__all__ = [
    "FOREVER",
    "Fifo",
    "INHERIT",
    "MESSAGE_MAX",
    "NOWAIT",
    "OwnerDead",
    "Pipe",
    "Ring",
    "RingEnd",
    "RingKind",
    "RingPolicy",
    "RingStats",
    "SEALED",
    "Semaphore",
    "Shm",
    "library_path",
    "version",
]

__version__ = "0.1.0"
