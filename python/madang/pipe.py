"""Pipes and FIFOs: ordinary file descriptors, with timeouts, full writes and messages."""

import ctypes
import errno
import os
import select
import threading
from ctypes import c_int
from typing import Any, Callable, Iterator, Optional, Tuple

from ._check import Buffer, Deadline, Input, Path, c_path, check, failure, lib, unsigned
from ._handle import Process, chars_type

MESSAGE_MAX = 1 << 20
"""Longest message that ``send`` takes."""


class Pipe(Process):
    """A pipe, or one side of a two-way pair, or an open FIFO.

    ``Pipe()`` makes a pipe with both ends; ``Pipe.pair()`` makes the two sides of a two-way
    connection, each with an end to read and an end to write. ``reader`` and ``writer`` are plain
    descriptors for ``os.read``, ``select`` or a child; they are blocking and close-on-exec (unless
    made with ``INHERIT``).

    After a fork each process closes the end that it does not use (``close_reader``,
    ``close_writer``), or the other side never sees the end of the file.
    """

    _elsewhere = (
        "a descriptor number means nothing in another process. Let the child inherit it by "
        "os.fork() or subprocess's pass_fds, or send it with madang.fd.send(socket, pipe.reader), "
        "and take it there with Pipe.from_fds(); or use a Fifo, which is opened by its path"
    )
    _another = "duplicate its descriptors: Pipe.from_fds(os.dup(pipe.reader))"

    def __init__(self, flags: int = 0) -> None:
        fds = (c_int * 2)()
        self._reader: Optional[int] = None
        self._writer: Optional[int] = None
        check(lib.mdg_pipe_open(fds, flags))
        self._reader, self._writer = fds

    @classmethod
    def pair(cls, flags: int = 0) -> "Tuple[Pipe, Pipe]":
        """The two sides of a two-way connection: (parent, child)."""
        parent, child = (c_int * 2)(), (c_int * 2)()
        check(lib.mdg_pipe_pair(parent, child, flags))
        return cls.from_fds(*parent), cls.from_fds(*child)

    @classmethod
    def from_fds(cls, reader: Optional[int] = None, writer: Optional[int] = None) -> "Pipe":
        """Takes over descriptors that exist; closing the object closes them."""
        pipe = cls.__new__(cls)
        pipe._reader, pipe._writer = reader, writer
        return pipe

    @property
    def reader(self) -> int:
        """The descriptor to read from."""
        return self._fd(self._reader, "reading")

    @property
    def writer(self) -> int:
        """The descriptor to write to."""
        return self._fd(self._writer, "writing")

    @staticmethod
    def _fd(fd: Optional[int], what: str) -> int:
        if fd is None:
            raise ValueError("the %s end is closed" % what)
        return fd

    def fileno(self) -> int:
        """The descriptor of the only end there is; ValueError when there are two or none."""
        ends = {fd for fd in (self._reader, self._writer) if fd is not None}
        if len(ends) != 1:
            raise ValueError("%s: say reader or writer" % ("two ends" if ends else "closed"))
        return ends.pop()

    def read(self, count: int = 65536, timeout: Optional[float] = None) -> bytes:
        """What is there, at most `count` bytes, waiting for the first; ``b""`` is end of file."""
        fd = self.reader
        size = unsigned(count, "count")
        buffer = _scratch.take(size)
        deadline = Deadline(timeout)
        while True:
            got = lib.mdg_pipe_read(fd, buffer, size, deadline.slice())
            if got >= 0:
                return _scratch.give(buffer, got)
            _again_or_raise(deadline, got)

    def read_full(self, count: int, timeout: Optional[float] = None) -> bytes:
        """Exactly `count` bytes; fewer when the file, or the time after some came, ended before."""
        fd = self.reader
        size = unsigned(count, "count")
        buffer = chars_type(size)()
        deadline = Deadline(timeout)
        done = 0
        # What came is counted by every slice, so none of it is lost between two.
        while True:
            got = lib.mdg_pipe_read_full(
                fd, ctypes.byref(buffer, done), size - done, deadline.slice()
            )
            if got > 0:
                done += got
            if got == 0 or done == size:
                break
            if got < 0 and not deadline.again(got):
                if done and got in _NO_MORE_TIME:
                    break
                raise _ended(got)
        return memoryview(buffer)[:done].tobytes()

    def write(self, data: Buffer, timeout: Optional[float] = None) -> int:
        """Writes all of it; fewer bytes than that only when the time ended after some went.

        BrokenPipeError, never SIGPIPE, when nobody reads.
        """
        fd = self.writer
        deadline = Deadline(timeout)
        done = 0
        with Input(data) as source:
            while True:
                put: int = lib.mdg_pipe_write(
                    fd, source.address + done, source.length - done, deadline.slice()
                )
                if put >= 0:
                    done += put
                    if done >= source.length:
                        return done
                elif not deadline.again(put):
                    if done and put in _NO_MORE_TIME:
                        return done
                    raise _ended(put)

    def send(self, message: Buffer, timeout: Optional[float] = None) -> None:
        """Writes one message, never mixed with another writer's; ``receive`` gets it whole."""
        fd = self.writer
        with Input(message) as data:
            _when_ready(
                fd,
                select.POLLOUT,
                timeout,
                lambda ns: lib.mdg_pipe_send(fd, data.address, data.length, ns),
            )

    def receive(self, limit: int = MESSAGE_MAX, timeout: Optional[float] = None) -> bytes:
        """One message that ``send`` wrote. BrokenPipeError at the end of the file.

        One longer than `limit` is taken off the pipe and lost: OSError with EMSGSIZE.
        """
        fd = self.reader
        size = unsigned(limit, "limit")
        buffer = _scratch.take(size)
        got = _when_ready(
            fd,
            select.POLLIN,
            timeout,
            lambda ns: lib.mdg_pipe_receive(fd, buffer, size, ns),
        )
        return _scratch.give(buffer, got)

    def __iter__(self) -> Iterator[bytes]:
        """The messages up to the end of the file."""
        while True:
            try:
                message = self.receive()
            except BrokenPipeError:
                return
            yield message

    def close_reader(self) -> None:
        """Closes the reading end; more than once does no harm."""
        fd, self._reader = self._reader, None
        if fd is not None and fd != self._writer:
            os.close(fd)

    def close_writer(self) -> None:
        """Closes the writing end; more than once does no harm."""
        fd, self._writer = self._writer, None
        if fd is not None and fd != self._reader:
            os.close(fd)

    @property
    def closed(self) -> bool:
        """Whether neither end is open."""
        return self._reader is None and self._writer is None

    def close(self) -> None:
        """Closes what is open; more than once does no harm."""
        try:
            self.close_reader()
        finally:
            self.close_writer()

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (AttributeError, OSError):
            pass  # half-made, or the descriptor was closed by other means

    def __repr__(self) -> str:
        ends = (self._reader, self._writer)
        return "<madang.Pipe reader=%s writer=%s>" % ends


class Fifo:
    """FIFOs: pipes with a path, which programs that know nothing of each other open."""

    @staticmethod
    def create(path: Path, mode: int = 0o600) -> None:
        """Makes the FIFO; FileExistsError when something is there."""
        check(lib.mdg_fifo_create(c_path(path), mode))

    @staticmethod
    def unlink(path: Path) -> None:
        """Removes the FIFO; anything else under that path is refused."""
        check(lib.mdg_fifo_unlink(c_path(path)))

    @staticmethod
    def open(path: Path, flags: int = os.O_RDONLY, timeout: Optional[float] = None) -> Pipe:
        """Opens one end, waiting for the other; what comes back has that end only."""
        raw = c_path(path)
        deadline = Deadline(timeout)
        # A reader that waits is there for writers to find: going away between slices would break
        # the pipe of one that came just then. A writer that waits is not to be seen.
        sliced = flags & os.O_ACCMODE != os.O_RDONLY
        while True:
            ns = deadline.slice() if sliced else deadline.left()
            fd = lib.mdg_fifo_open(raw, flags, ns)
            if fd >= 0:
                break
            _again_or_raise(deadline, fd)
        access = flags & os.O_ACCMODE
        return Pipe.from_fds(
            fd if access != os.O_WRONLY else None, fd if access != os.O_RDONLY else None
        )


_NO_MORE_TIME = (-errno.ETIMEDOUT, -errno.EINTR, -errno.EAGAIN)


def _ended(result: int) -> OSError:
    """The exception after a wait; a signal that came with its end is the end."""
    return failure(-errno.ETIMEDOUT if result == -errno.EINTR else result)


def _again_or_raise(deadline: Deadline, result: int) -> None:
    if not deadline.again(result):
        raise _ended(result)


def _when_ready(
    fd: int, event: int, timeout: Optional[float], call: Callable[[int], int]
) -> int:
    """A call that must not be cut into slices: waits in slices until there is something to do.

    A large message is in parts, and a call that has begun one ends with it.
    """
    deadline = Deadline(timeout)
    poll = None
    while True:
        if not deadline.nowait:
            if poll is None:
                poll = select.poll()
                poll.register(fd, event)
            ready = poll.poll(deadline.slice() / 1e6)
            if not ready and deadline.again(-errno.ETIMEDOUT):
                continue
        result = call(deadline.left())
        if result >= 0:
            return result
        _again_or_raise(deadline, result)


class _Scratch(threading.local):
    """A large buffer per thread; making one costs more than a short read or message."""

    _kept: Any = None

    def take(self, size: int) -> Any:
        # Taken out while it is used: a signal handler that reads gets another.
        buffer, self._kept = self._kept, None
        if buffer is None or len(buffer) < size:
            buffer = chars_type(max(size, 65536))()
        return buffer

    def give(self, buffer: Any, length: int) -> bytes:
        data = memoryview(buffer)[:length].tobytes()
        if len(buffer) <= MESSAGE_MAX:
            self._kept = buffer
        return data


_scratch = _Scratch()
