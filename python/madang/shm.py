"""Shared-memory segments."""

import ctypes
import errno
import os
from typing import Any, Optional, Tuple

from ._check import Name, Path, c_name, c_path, check, lib, unsigned
from ._handle import Handle, Process, expect, identity


def sigbus_guard() -> None:
    """From now on touching memory that a peer has cut off a segment or ring reads as zeros.

    Without it that is SIGBUS, which ends the process. Installs a signal handler, once; SIGBUS from
    elsewhere goes where it went before. ``Shm.is_intact`` and the calls on a ring tell.
    """
    check(lib.mdg_sigbus_guard())


class Shm(Process):
    """A shared-memory segment, mapped.

    ``Shm("/name", 4096, os.O_CREAT | os.O_RDWR)`` makes or opens a POSIX segment; any program that
    uses ``shm_open`` is a full peer. ``size`` 0 takes an existing segment whole. With ``O_RDONLY``
    the mapping, and so ``buf``, is read-only.

    ``close()`` (or leaving ``with``) detaches the object; the memory stays mapped until the last
    view of it is gone. It never removes the name: ``Shm.unlink(name)`` does. Threads may share it.

    One with a name or a path can be pickled: unpickling opens it again, and raises OSError with
    ESTALE if the name has been given to another object since. The size is not passed on.
    """

    _elsewhere = (
        "it has no name. Let the child inherit it by os.fork(), or send its descriptor with "
        "madang.fd.send(socket, shm) and open it there with Shm.from_fd()"
    )
    _another = "open it again by its name, or with Shm.from_fd(shm.fileno())"

    def __init__(
        self, name: Name, size: int = 0, flags: int = os.O_RDWR, mode: int = 0o600
    ) -> None:
        out = ctypes.c_void_p()
        size = unsigned(size, "size")
        check(lib.mdg_shm_open(ctypes.byref(out), c_name(name), size, flags, mode))
        self._adopt(out, flags, os.fsdecode(name))

    def _adopt(self, out: ctypes.c_void_p, flags: int, name: Optional[str]) -> None:
        self._handle: Optional[Handle] = Handle(out.value or 0, lib.mdg_shm_close)
        self._readonly = flags & os.O_ACCMODE == os.O_RDONLY
        self._name = name
        self._path: Optional[str] = None

    @classmethod
    def _made(cls, out: ctypes.c_void_p, flags: int, name: Optional[str]) -> "Shm":
        shm = cls.__new__(cls)
        shm._adopt(out, flags, name)
        return shm

    @classmethod
    def anonymous(cls, size: int, flags: int = 0) -> "Shm":
        """A segment without a name, for children and for peers that are sent its descriptor."""
        out = ctypes.c_void_p()
        check(lib.mdg_shm_anonymous(ctypes.byref(out), unsigned(size, "size"), flags))
        return cls._made(out, os.O_RDWR, None)

    @classmethod
    def from_fd(cls, fd: int, flags: int = os.O_RDWR) -> "Shm":
        """Maps what a descriptor refers to. The descriptor is duplicated: yours stays yours.

        With ``madang.SEALED`` in the flags one is refused that its sender could still truncate.
        """
        out = ctypes.c_void_p()
        check(lib.mdg_shm_from_fd(ctypes.byref(out), fd, flags))
        return cls._made(out, flags, None)

    @classmethod
    def map_file(
        cls, path: Path, size: int = 0, flags: int = os.O_RDWR, mode: int = 0o600
    ) -> "Shm":
        """Maps an ordinary file or a device."""
        out = ctypes.c_void_p()
        size = unsigned(size, "size")
        check(lib.mdg_shm_map_file(ctypes.byref(out), c_path(path), size, flags, mode))
        shm = cls._made(out, flags, os.fsdecode(path))
        shm._path = os.path.abspath(shm._name or "")
        return shm

    @staticmethod
    def unlink(name: Name) -> None:
        """Removes the name; those who have the segment open go on using it."""
        check(lib.mdg_shm_unlink(c_name(name)))

    def _open(self) -> Handle:
        if self._handle is None:
            raise ValueError("the segment is closed")
        return self._handle

    def _reopening(self) -> Tuple[Any, ...]:
        self._open()
        if self._name is None:
            self._refuse()
        access = os.O_RDONLY if self._readonly else os.O_RDWR
        return _reopen, (type(self), self._name, self._path, access, identity(self.fileno()))

    @property
    def buf(self) -> memoryview:
        """A view of the whole segment; it keeps the memory mapped even after ``close()``."""
        handle = self._open()
        address = lib.mdg_shm_addr(handle.pointer)
        return handle.view(address, lib.mdg_shm_size(handle.pointer), self._readonly)

    @property
    def size(self) -> int:
        """The bytes mapped: what the creator asked for, not rounded to pages."""
        handle = self._open()
        size: int = lib.mdg_shm_size(handle.pointer)
        return size

    @property
    def name(self) -> Optional[str]:
        """The name or path it was opened by; None for an anonymous one."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._handle is None

    def fileno(self) -> int:
        """The descriptor, to be inherited or sent; it lives as long as the mapping."""
        handle = self._open()
        return check(lib.mdg_shm_fd(handle.pointer))

    def resize(self, size: int) -> None:
        """Grows or shrinks the segment. The memory may move, so no view may exist: BufferError."""
        handle = self._open()
        size = unsigned(size, "size")
        if handle.viewed:
            raise BufferError("the segment cannot be resized while views of it exist")
        check(lib.mdg_shm_resize(handle.pointer, size))

    @property
    def is_intact(self) -> bool:
        """False when ``sigbus_guard`` had to put zeros in the place of bytes that somebody cut off."""
        handle = self._open()
        result = lib.mdg_shm_intact(handle.pointer)
        return result == 0 if result == -errno.EBADMSG else check(result) == 0

    def sync(self) -> None:
        """Writes a mapped file's pages to its storage."""
        handle = self._open()
        check(lib.mdg_shm_sync(handle.pointer))

    def close(self) -> None:
        """Detaches from the segment; more than once does no harm."""
        self._handle = None

    def __enter__(self) -> "Shm":
        self._open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "%d bytes" % self.size
        return "<madang.Shm %s, %s>" % (self._name or "(anonymous)", state)


def _reopen(
    cls: Any, name: str, path: Optional[str], access: int, expected: Tuple[int, int]
) -> Shm:
    shm: Shm = cls(name, 0, access) if path is None else cls.map_file(path, 0, access)
    expect(identity(shm.fileno()), expected, name)
    return shm
