"""Ownership of library handles and of the memory they map.

A handle is closed when nobody needs it any more: its object was closed (or collected) and the last
memoryview into its memory is gone. A view therefore never outlives the mapping it looks at.
"""

import ctypes
import errno
import os
import weakref
from functools import lru_cache
from typing import Any, Callable, List, NoReturn, Tuple


@lru_cache(maxsize=256)
def bytes_type(length: int) -> Any:
    """The ctypes type of `length` bytes; making one costs far more than using it."""
    return ctypes.c_ubyte * length


@lru_cache(maxsize=256)
def chars_type(length: int) -> Any:
    """As `bytes_type`, with ``.raw`` for a quick copy out."""
    return ctypes.c_char * length


class Process:
    """What belongs to one process: it cannot be copied, and pickled only where its class says how.

    A pointer or a descriptor number means nothing in the process that unpickles it. A class of
    objects with names overrides ``_reopening``.
    """

    __slots__ = ()

    _elsewhere = "make it in the process that uses it"
    """How another process gets one, for the text of the TypeError."""
    _another = "open another one"
    """How this process gets another one."""

    def _reopening(self) -> Tuple[Any, ...]:
        """A function and its arguments that open the same object in another process."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        kind = type(self).__name__
        raise TypeError("cannot pickle this madang.%s: %s" % (kind, self._elsewhere))

    def __reduce_ex__(self, _protocol: Any) -> Tuple[Any, ...]:
        return self._reopening()

    def __copy__(self) -> NoReturn:
        kind = type(self).__name__
        raise TypeError("cannot copy a madang.%s: %s" % (kind, self._another))

    def __deepcopy__(self, _memo: Any) -> NoReturn:
        self.__copy__()


def identity(fd: int) -> Tuple[int, int]:
    """Which file a descriptor refers to."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def expect(found: Tuple[int, int], expected: Tuple[int, int], what: str) -> None:
    """Refuses an object that has taken the name of the one that was pickled."""
    if found != expected:
        text = "%s: the object of this name is another one than that which was pickled" % what
        raise OSError(errno.ESTALE, text)


class Handle(Process):
    """One C handle and whatever must stay alive as long as it does."""

    __slots__ = ("pointer", "_views", "_closer", "__weakref__")

    def __init__(self, pointer: int, close: Callable[[int], None], keep: Any = None) -> None:
        self.pointer = pointer
        self._views: List[Any] = []
        self._closer = weakref.finalize(self, _close, close, pointer, keep)
        # Not at exit: a view may still be read then, and the kernel unmaps in any case.
        self._closer.atexit = False

    def view(self, address: int, length: int, readonly: bool = False) -> memoryview:
        """A view of mapped memory that keeps the handle open while it, or a slice of it, lives."""
        memory = bytes_type(length).from_address(address)
        memory.owner = self
        self._views = [view for view in self._views if view() is not None]
        self._views.append(weakref.ref(memory))
        view = memoryview(memory).cast("B")
        return view.toreadonly() if readonly else view

    @property
    def viewed(self) -> bool:
        """Whether a view is alive."""
        return any(view() is not None for view in self._views)

    def close_by(self, close: Callable[[int], None]) -> None:
        """From now on closing calls this function."""
        held = self._closer.detach()
        if held is not None:
            self._closer = weakref.finalize(self, _close, close, *held[2][1:])
            self._closer.atexit = False

    def close_at_exit(self) -> None:
        """Closes now, unless a view could still be used."""
        if not self.viewed:
            # Called itself, a finalizer does nothing any more when the interpreter is ending.
            held = self._closer.detach()
            if held is not None:
                _, close, arguments, _ = held
                close(*arguments)


def _close(close: Callable[[int], None], pointer: int, _keep: Any) -> None:
    close(pointer)
