"""Madang: shared memory, rings, semaphores and pipes between processes.

The same objects a C program sees through ``libmadang``: a segment, ring, semaphore or FIFO made
here is opened there, and the other way round. See ``docs/python.md`` for the rules (timeouts,
exceptions, views, fork, Ctrl-C).
"""

from . import fd
from . import object  # madang.object; not in __all__: it is the name of a builtin
from ._check import FOREVER, FRESH, INHERIT, NOWAIT, SEALED, OwnerDead, version
from ._library import path as library_path
from .mutex import Cond, Mutex
from .pipe import MESSAGE_MAX, Fifo, Pipe
from .ring import Ring, RingEnd, RingKind, RingPolicy, RingStart, RingStats
from .sem import UNDO_VALUE_MAX, VALUE_MAX, Holder, Semaphore
from .shm import Shm, sigbus_guard
from .wait import POLL_ERR, POLL_HUP, POLL_IN, POLL_OUT, WAIT_MAX, wait_any

__all__ = [
    "Cond",
    "FOREVER",
    "FRESH",
    "Fifo",
    "Holder",
    "INHERIT",
    "MESSAGE_MAX",
    "Mutex",
    "NOWAIT",
    "OwnerDead",
    "POLL_ERR",
    "POLL_HUP",
    "POLL_IN",
    "POLL_OUT",
    "Pipe",
    "Ring",
    "RingEnd",
    "RingKind",
    "RingPolicy",
    "RingStart",
    "RingStats",
    "SEALED",
    "Semaphore",
    "Shm",
    "UNDO_VALUE_MAX",
    "VALUE_MAX",
    "WAIT_MAX",
    "fd",
    "library_path",
    "sigbus_guard",
    "version",
    "wait_any",
]

__version__ = "0.1.0"
