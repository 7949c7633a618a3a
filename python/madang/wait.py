"""Waiting for any of many rings and descriptors."""

from contextlib import ExitStack
from typing import List, Optional, Sequence, Tuple, Union

from ._check import Descriptor, WaitEntry, descriptor, lib, unsigned, wait
from .ring import Ring

POLL_IN = 0x1
"""Event: a pop, or a read from a descriptor, may go on."""
POLL_OUT = 0x4
"""Event: a push, or a write to a descriptor, may go on."""
POLL_ERR = 0x8
"""Found only: an error that lasts."""
POLL_HUP = 0x10
"""Found only: the end of the stream, or, alone, the death of the process at the other end."""
WAIT_MAX = 64
"""Most entries of one ``wait_any``."""

Source = Union[Ring, Descriptor]


def wait_any(
    entries: Sequence[Tuple[Source, int]], timeout: Optional[float] = None
) -> List[Tuple[Source, int]]:
    """Waits until one of `entries` is ready; those that are, as pairs (source, what was found).

    An entry is a ring, a descriptor or an object with ``fileno()``, and ``POLL_IN``, ``POLL_OUT``
    or both. A ring is ready for an event when its pop, or push, would not raise BlockingIOError: it
    would move an item, or fail for good (``POLL_HUP`` or ``POLL_ERR`` beside the event).
    ``POLL_HUP`` alone says that the process at the other end died. Raises BlockingIOError or
    TimeoutError when nothing is ready in time, OSError with ECANCELED after ``Ring.cancel()``.
    """
    entries = list(entries)
    if not 1 <= len(entries) <= WAIT_MAX:
        raise ValueError("from 1 to %d entries, not %d" % (WAIT_MAX, len(entries)))
    raw = (WaitEntry * len(entries))()
    rings = []
    for entry, (source, events) in zip(raw, entries):
        entry.events = unsigned(events, "events", 0xFFFFFFFF)
        if isinstance(source, Ring):
            rings.append(source)
        else:
            entry.fd = descriptor(source)

    def call(ns: int) -> int:
        # Not held between the slices of a wait: a signal handler may use the rings.
        with ExitStack() as stack:
            pointers = {id(ring): stack.enter_context(ring._in_use()) for ring in set(rings)}
            for entry, (source, _) in zip(raw, entries):
                if isinstance(source, Ring):
                    entry.ring = pointers[id(source)]
            ready: int = lib.mdg_wait_any(raw, len(raw), ns)
            return ready

    wait(call, timeout)
    return [(source, entry.ready) for entry, (source, _) in zip(raw, entries) if entry.ready]
