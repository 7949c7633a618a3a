"""Counting semaphores."""

import ctypes
import os
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from ._check import Name, OwnerDead, SemHolderStruct, SemOpts, WriteableBuffer, c_name, check
from ._check import lib, unsigned, wait
from ._handle import Handle, Process, bytes_type
from .shm import Shm


VALUE_MAX = 2147483647
"""The greatest value of a semaphore."""
UNDO_VALUE_MAX = 1048575
"""The greatest value of one made with ``undo=True``, and the most permits an object holds."""


class Holder(NamedTuple):
    """Who holds permits of a semaphore made with ``undo=True``."""

    pid: int
    count: int  # type: ignore[assignment]  # hides a method of tuple
    alive: bool


# Kinds of semaphores.
_POSIX = 0
_UNDO = 16


def _opts(value: int, undo: bool, tell: bool, max_handles: int) -> SemOpts:
    handles = unsigned(max_handles, "max_handles", 0xFFFFFFFF)
    number = unsigned(value, "value", 0xFFFFFFFF)
    kind = _UNDO if undo else _POSIX
    return SemOpts(ctypes.sizeof(SemOpts), number, kind, int(tell), handles)


class Semaphore(Process):
    """A counting semaphore, by name or in shared memory.

    ``Semaphore("/name", value=3, flags=os.O_CREAT)`` makes or opens glibc's own named semaphore;
    any program that uses ``sem_open`` is a full peer. ``value`` counts only when it is made.

    As with ``threading.Semaphore`` and ``posix_ipc``, ``with sem:`` acquires it and releases it
    (it does not close it). Threads may share it.

    With ``undo=True`` it is a semaphore of this library's own kind: permits of a process that dies
    come back by themselves, and ``holders()`` tells who has any. With ``tell=True`` besides, the
    first wait that takes a permit after such a death raises `OwnerDead` once, *with the permit
    taken*; ``acquire`` and ``with`` do not raise then, they set ``owner_died``.

    In a segment, ``from_buffer`` makes or attaches glibc's kind, ``init`` and ``attach`` that of
    ``undo=True``.

    One with a name can be pickled: unpickling opens it again by its name. What this process holds
    of it stays this process's.
    """

    _elsewhere = (
        "it has no name. Pass the segment that it lies in (its name, or its descriptor by "
        "madang.fd.send) and the offset, and take it there by from_buffer() or attach()"
    )
    _another = "open it again by its name, or by from_buffer() or attach(); threads may share one"

    owner_died = False
    """Whether the last ``acquire`` or ``with`` of this object was told of a death."""

    SIZE = 4 * ctypes.sizeof(ctypes.c_long)
    """Bytes an unnamed semaphore takes in a segment: sizeof(sem_t)."""
    ALIGN = ctypes.sizeof(ctypes.c_long)
    """Its offset must be a multiple of this."""

    def __init__(
        self,
        name: Name,
        value: int = 0,
        flags: int = 0,
        mode: int = 0o600,
        undo: bool = False,
        tell: bool = False,
        max_handles: int = 0,
    ) -> None:
        opts = _opts(value, undo, tell, max_handles)
        out = ctypes.c_void_p()
        raw = c_name(name)
        check(lib.mdg_sem_open(ctypes.byref(out), raw, ctypes.byref(opts), flags, mode))
        self._handle: Optional[Handle] = Handle(out.value or 0, lib.mdg_sem_close)
        self._name: Optional[str] = os.fsdecode(name)
        self._kind = (undo, tell)

    @classmethod
    def from_buffer(
        cls, buffer: WriteableBuffer, value: Optional[int] = None, offset: int = 0
    ) -> "Semaphore":
        """An unnamed semaphore in shared memory, such as ``Shm.buf``.

        With a ``value`` the semaphore is made there: exactly one process does that, before any
        other uses it. Without, the one that is there is attached. The memory stays mapped as long
        as this object is open.
        """
        offset = unsigned(offset, "offset")
        memory = bytes_type(cls.SIZE).from_buffer(buffer, offset)
        address = ctypes.addressof(memory)
        out = ctypes.c_void_p()
        if value is None:
            check(lib.mdg_sem_attach(ctypes.byref(out), address))
        else:
            value = unsigned(value, "value", 0xFFFFFFFF)
            check(lib.mdg_sem_init(ctypes.byref(out), address, value))
        sem = cls.__new__(cls)
        sem._handle = Handle(out.value or 0, lib.mdg_sem_close, memory)
        sem._name = None
        return sem

    @staticmethod
    def footprint(max_handles: int = 0) -> int:
        """Bytes that one with ``undo=True`` takes up in a segment: a multiple of 4096."""
        return check(lib.mdg_sem_undo_footprint(ctypes.byref(_opts(0, True, False, max_handles))))

    @classmethod
    def _made(cls, call: Callable[[Any], int]) -> "Semaphore":
        out = ctypes.c_void_p()
        check(call(ctypes.byref(out)))
        sem = cls.__new__(cls)
        sem._handle = Handle(out.value or 0, lib.mdg_sem_close)
        sem._name = None
        return sem

    @classmethod
    def init(
        cls, shm: Shm, offset: int, value: int = 0, *, tell: bool = False, max_handles: int = 0
    ) -> "Semaphore":
        """Makes one as with ``undo=True`` inside a segment, at a multiple of 4096 with
        ``footprint()`` bytes free.

        What was there is overwritten, unless it is a semaphore or ring in use: OSError with EBUSY.
        The semaphore may outlive `shm`, the object.
        """
        opts = ctypes.byref(_opts(value, True, tell, max_handles))
        place, handle = unsigned(offset, "offset"), shm._open()
        return cls._made(lambda out: lib.mdg_sem_undo_init(out, handle.pointer, place, opts))

    @classmethod
    def attach(
        cls, shm: Shm, offset: int = 0, *, tell: bool = False, max_handles: int = 0
    ) -> "Semaphore":
        """Opens the one that ``init`` made in a segment; OSError with EPROTO if there is none."""
        opts = ctypes.byref(_opts(0, True, tell, max_handles))
        place, handle = unsigned(offset, "offset"), shm._open()
        return cls._made(lambda out: lib.mdg_sem_undo_attach(out, handle.pointer, place, opts))

    @staticmethod
    def unlink(name: Name) -> None:
        """Removes the name; those who have the semaphore open go on using it."""
        check(lib.mdg_sem_unlink(c_name(name)))

    def _open(self) -> Handle:
        if self._handle is None:
            raise ValueError("the semaphore is closed")
        return self._handle

    def _reopening(self) -> Tuple[Any, ...]:
        self._open()
        if self._name is None:
            self._refuse()
        return type(self), (self._name, 0, 0, 0, *self._kind)

    def wait(self, timeout: Optional[float] = None) -> None:
        """Takes one. TimeoutError when the time is over; BlockingIOError with a timeout of 0;
        OwnerDead, with one taken, if it was opened with ``tell``."""
        handle = self._open()
        wait(lambda ns: lib.mdg_sem_wait(handle.pointer, ns), timeout)

    def acquire(self, blocking: bool = True, timeout: Optional[float] = None) -> bool:
        """As ``threading.Semaphore.acquire``: whether one was taken in time."""
        if not isinstance(blocking, bool):
            raise TypeError("blocking must be a bool; write acquire(timeout=%r)" % (blocking,))
        if not blocking and timeout is not None:
            raise ValueError("a timeout makes no sense without blocking")
        self.owner_died = False
        try:
            self.wait(timeout if blocking else 0)
        except OwnerDead:
            self.owner_died = True
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def post(self) -> None:
        """Gives one back, waking a waiter."""
        handle = self._open()
        check(lib.mdg_sem_post(handle.pointer))

    def release(self, n: int = 1) -> None:
        """As ``threading.Semaphore.release``: gives back `n`."""
        if n < 1:
            raise ValueError("n must be one or more")
        for _ in range(n):
            self.post()

    @property
    def value(self) -> int:
        """How many could be taken right now."""
        handle = self._open()
        return check(lib.mdg_sem_value(handle.pointer))

    def holders(self) -> List[Holder]:
        """Who holds permits, handle by handle; with ``undo=True`` only."""
        handle = self._open()
        count = 16
        while True:
            rows = (SemHolderStruct * count)()
            total = check(lib.mdg_sem_holders(handle.pointer, rows, count))
            if total <= count:
                return [Holder(row.pid, row.count, row.alive == 1) for row in rows[:total]]
            count = total

    @property
    def name(self) -> Optional[str]:
        """The name it was opened by; None for an unnamed one."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._handle is None

    def close(self) -> None:
        """Lets go of the semaphore; more than once does no harm."""
        self._handle = None

    def __enter__(self) -> "Semaphore":
        self.acquire()
        return self

    def __exit__(self, *_: Any) -> None:
        self.post()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "value %d" % self.value
        return "<madang.Semaphore %s, %s>" % (self._name or "(unnamed)", state)
