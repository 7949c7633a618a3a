"""Mutexes and condition variables between processes, that survive the death of who holds them."""

import ctypes
import errno
import os
import time
from typing import Any, Callable, Optional, Tuple, Type, TypeVar

from ._check import Deadline, Name, OwnerDead, WriteableBuffer, c_name, check, failure, lib
from ._check import unsigned, wait
from ._handle import Handle, Process, bytes_type


_T = TypeVar("_T", bound="_Named")


def _place(buffer: WriteableBuffer, offset: int, size: int) -> Any:
    return bytes_type(size).from_buffer(buffer, unsigned(offset, "offset"))


class _Named(Process):
    """What a mutex and a condition variable share."""

    _elsewhere = (
        "it has no name. Pass the segment that it lies in (its name, or its descriptor by "
        "madang.fd.send) and the offset, and take it there by from_buffer()"
    )
    _another = "open it again by its name, or by from_buffer(); threads may share one"

    SIZE: int
    _kind: str
    _handle: Optional[Handle]
    _name: Optional[str]

    def _take(self, call: Callable[[Any], int], keep: Any = None) -> None:
        out = ctypes.c_void_p()
        check(call(ctypes.byref(out)))
        close = getattr(lib, "mdg_%s_close" % self._kind)
        self._handle = Handle(out.value or 0, close, keep)

    def __init__(self, name: Name, flags: int = 0, mode: int = 0o600) -> None:
        raw, function = c_name(name), getattr(lib, "mdg_%s_open" % self._kind)
        self._take(lambda out: function(out, raw, flags, mode))
        self._name = os.fsdecode(name)

    @classmethod
    def from_buffer(
        cls: Type[_T], buffer: WriteableBuffer, offset: int = 0, create: bool = False
    ) -> _T:
        """One in shared memory, such as ``Shm.buf``, at a multiple of 8. With ``create`` it is made
        there: exactly one process does that, before any other uses it."""
        memory = _place(buffer, offset, cls.SIZE)
        function = getattr(lib, "mdg_%s_%s" % (cls._kind, "init" if create else "attach"))
        this = cls.__new__(cls)
        address = ctypes.addressof(memory)
        this._take(lambda out: function(out, address), memory)
        this._name = None
        return this

    @classmethod
    def unlink(cls, name: Name) -> None:
        """Removes the name; those who have it open go on using it."""
        check(getattr(lib, "mdg_%s_unlink" % cls._kind)(c_name(name)))

    def _reopening(self) -> Tuple[Any, ...]:
        self._open()
        if self._name is None:
            self._refuse()
        return type(self), (self._name,)

    def _open(self) -> Handle:
        if self._handle is None:
            raise ValueError("the %s is closed" % self._kind)
        return self._handle

    @property
    def name(self) -> Optional[str]:
        """The name it was opened by; None for one in memory."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._handle is None

    def close(self) -> None:
        """Lets go of it; more than once does no harm."""
        self._handle = None

    def __repr__(self) -> str:
        state = " (closed)" if self.closed else ""
        return "<madang.%s %s%s>" % (type(self).__name__, self._name or "(unnamed)", state)


class Mutex(_Named):
    """A mutex between processes. A lock belongs to the thread that took it.

    ``lock()`` raises `OwnerDead` *with the mutex held* when the holder before died with it: mend
    what it protects, call ``consistent()``, go on. ``with mutex:`` does not raise then; it sets
    ``owner_died``, and calls ``consistent()`` at the end of a block that ends without an exception.

    One with a name can be pickled: unpickling opens it again by its name, not locked.
    """

    SIZE = 128
    """Bytes one takes in a segment."""
    _kind = "mutex"

    owner_died = False
    """Whether the last ``with`` of this object found its holder dead."""

    def lock(self, timeout: Optional[float] = None) -> None:
        """Takes it. TimeoutError when the time is over; BlockingIOError with a timeout of 0;
        OwnerDead with the mutex held."""
        handle = self._open()
        wait(lambda ns: lib.mdg_mutex_lock(handle.pointer, ns), timeout)

    def unlock(self) -> None:
        """Lets go of it; PermissionError if this thread does not hold it."""
        check(lib.mdg_mutex_unlock(self._open().pointer))

    def consistent(self) -> None:
        """Declares what it protects whole again, after OwnerDead and before ``unlock()``."""
        check(lib.mdg_mutex_consistent(self._open().pointer))

    def __enter__(self) -> "Mutex":
        self.owner_died = False
        try:
            self.lock()
        except OwnerDead:
            self.owner_died = True
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.owner_died and kind is None:
            self.consistent()
        self.unlock()


class Cond(_Named):
    """A condition variable between processes, used with a `Mutex`."""

    SIZE = 64
    """Bytes one takes in a segment."""
    _kind = "cond"

    def wait(self, mutex: Mutex, timeout: Optional[float] = None) -> None:
        """Lets go of the mutex, waits to be woken, takes it again. It may return without having been
        woken, and does at times: look in a loop, or use ``wait_for``. TimeoutError and OwnerDead
        come with the mutex held."""
        handle, other = self._open(), mutex._open()
        deadline = Deadline(timeout)
        result = lib.mdg_cond_wait(handle.pointer, other.pointer, deadline.slice())
        # Between the end of a sleep and the mutex somebody else may have had it, and have signalled:
        # the caller looks, before another sleep would miss that.
        if result == -errno.EINTR and deadline.expired:
            result = -errno.ETIMEDOUT
        if result < 0 and not deadline.again(result):
            raise failure(result)

    def wait_for(
        self, mutex: Mutex, predicate: Callable[[], Any], timeout: Optional[float] = None
    ) -> Any:
        """As ``threading.Condition.wait_for``: waits until the predicate is true, or the time over;
        what it said last."""
        end = None if timeout is None else time.monotonic() + timeout
        result = predicate()
        while not result:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            try:
                self.wait(mutex, left)
            except TimeoutError:
                pass
            result = predicate()
        return result

    def signal(self) -> None:
        """Wakes one who waits."""
        check(lib.mdg_cond_signal(self._open().pointer))

    def broadcast(self) -> None:
        """Wakes all who wait."""
        check(lib.mdg_cond_broadcast(self._open().pointer))
