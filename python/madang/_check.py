"""The C functions, their prototypes, and the way from a result to an exception.

Nothing else in this package touches the raw library: a module calls ``lib.mdg_x(...)`` and hands
the result to ``check``, or hands a waiting call to ``wait``.
"""

import ctypes
import errno
import math
import operator
import os
import sys
from ctypes import POINTER, c_char, c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint, c_uint32
from ctypes import c_uint64, c_void_p
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Protocol, Tuple, Union

from . import _library

if TYPE_CHECKING:
    # What type checkers call the buffers of C: bytes, bytearray, memoryview, array, NumPy arrays.
    import _typeshed

    Buffer = _typeshed.ReadableBuffer
    WriteableBuffer = _typeshed.WriteableBuffer
else:
    Buffer = WriteableBuffer = Any

NOWAIT = 0
"""Timeout: never wait."""
FOREVER = None
"""Timeout: wait without limit."""
INHERIT = 0x1
"""Flag of calls that make descriptors: keep them open across exec."""
SEALED = 0x4000_0000
"""Bit of the flags of ``Shm.from_fd``: refuse what is not sealed against shrinking."""

FRESH = 0x2000_0000
"""Bit of the flags of ``Ring``, with ``os.O_CREAT``: a ring that nobody uses is made anew."""

Name = Union[str, bytes]
Path = Union[str, bytes, "os.PathLike[Any]"]


class HasFileno(Protocol):
    """Such as a socket or a file."""

    def fileno(self) -> int:
        """The number of its descriptor."""
        ...


Descriptor = Union[int, HasFileno]
"""A number, or an object with ``fileno()``."""


class OwnerDead(OSError):
    """``EOWNERDEAD``: the peer, or the holder, is proven dead."""


class RingOpts(ctypes.Structure):
    """struct mdg_ring_opts"""

    _fields_ = [
        ("size", c_size_t),
        ("capacity", c_uint64),
        ("item_size", c_uint32),
        ("kind", c_uint32),
        ("max_handles", c_uint32),
        ("policy", c_uint32),
        ("flags", c_uint32),
        ("item_align", c_uint32),
    ]


class RingStatsStruct(ctypes.Structure):
    """struct mdg_ring_stats"""

    _fields_ = [
        ("size", c_size_t),
        ("capacity", c_uint64),
        ("item_size", c_uint32),
        ("kind", c_uint32),
        ("length", c_uint64),
        ("written", c_uint64),
        ("read", c_uint64),
        ("dropped", c_uint64),
        ("recovered", c_uint64),
        ("push_waits", c_uint64),
        ("pop_waits", c_uint64),
        ("producer_pid", c_uint32),
        ("consumer_pid", c_uint32),
        ("producer_state", c_uint32),
        ("consumer_state", c_uint32),
        ("max_handles", c_uint32),
        ("flags", c_uint32),
        ("lost", c_uint64),
        ("pending", c_uint64),
        ("policy", c_uint32),
        ("reserved", c_uint32),
        ("redelivered", c_uint64),
        ("producers", c_uint32),
        ("consumers", c_uint32),
        ("notify_failures", c_uint64),
    ]


class WaitEntry(ctypes.Structure):
    """struct mdg_wait"""

    _fields_ = [
        ("ring", c_void_p),
        ("fd", c_int),
        ("events", c_uint32),
        ("ready", c_uint32),
        ("reserved", c_uint32),
    ]


class ObjectInfoStruct(ctypes.Structure):
    """struct mdg_object_info"""

    _fields_ = [
        ("size", c_size_t),
        ("mechanism", c_uint32),
        ("state", c_uint32),
        ("bytes", c_uint64),
        ("capacity", c_uint64),
        ("length", c_uint64),
        ("kind", c_uint32),
        ("item_size", c_uint32),
        ("max_handles", c_uint32),
        ("handles_live", c_uint32),
        ("handles_dead", c_uint32),
        ("creator_pid", c_uint32),
        ("uid", c_uint32),
        ("mode", c_uint32),
        ("name", c_char * 256),
    ]


class ObjectHolderStruct(ctypes.Structure):
    """struct mdg_object_holder"""

    _fields_ = [
        ("pid", c_uint32),
        ("uid", c_uint32),
        ("slot", c_uint32),
        ("roles", c_uint32),
        ("alive", c_uint32),
        ("permits", c_uint32),
        ("since_ns", c_uint64),
        ("command", c_char * 16),
    ]


class FdPeer(ctypes.Structure):
    """struct mdg_fd_peer"""

    _fields_ = [("pid", c_uint32), ("uid", c_uint32), ("gid", c_uint32)]


class SemOpts(ctypes.Structure):
    """struct mdg_sem_opts"""

    _fields_ = [
        ("size", c_size_t),
        ("value", c_uint32),
        ("kind", c_uint32),
        ("flags", c_uint32),
        ("max_handles", c_uint32),
    ]


class SemHolderStruct(ctypes.Structure):
    """struct mdg_sem_holder"""

    _fields_ = [("pid", c_uint32), ("count", c_uint32), ("alive", c_uint32)]


_handle = c_void_p
_out = POINTER(c_void_p)
_timeout = c_int64
_mode = c_uint
_fds = POINTER(c_int)

# Name: (result, argument...); a result of None is a C function that returns nothing.
_PROTOTYPES: Dict[str, Tuple[Any, ...]] = {
    "mdg_version": (c_uint32,),
    "mdg_strerror": (c_char_p, c_int),
    "mdg_last_error": (c_char_p,),
    "mdg_interrupt": (c_int,),
    "mdg_shm_open": (c_int, _out, c_char_p, c_size_t, c_int, _mode),
    "mdg_shm_anonymous": (c_int, _out, c_size_t, c_uint32),
    "mdg_shm_from_fd": (c_int, _out, c_int, c_int),
    "mdg_shm_map_file": (c_int, _out, c_char_p, c_size_t, c_int, _mode),
    "mdg_shm_addr": (c_void_p, _handle),
    "mdg_shm_size": (c_size_t, _handle),
    "mdg_shm_fd": (c_int, _handle),
    "mdg_shm_resize": (c_int, _handle, c_size_t),
    "mdg_shm_intact": (c_int, _handle),
    "mdg_shm_sync": (c_int, _handle),
    "mdg_shm_close": (None, _handle),
    "mdg_shm_unlink": (c_int, c_char_p),
    "mdg_sigbus_guard": (c_int,),
    "mdg_fd_send": (c_int, c_int, c_int, _timeout),
    "mdg_fd_receive": (c_int, c_int, POINTER(FdPeer), _timeout),
    "mdg_ring_open": (c_int, _out, c_char_p, POINTER(RingOpts), c_int, _mode),
    "mdg_ring_footprint": (c_ssize_t, POINTER(RingOpts)),
    "mdg_ring_init": (c_int, _out, _handle, c_size_t, POINTER(RingOpts), c_int),
    "mdg_ring_attach": (c_int, _out, _handle, c_size_t, POINTER(RingOpts), c_int),
    "mdg_ring_from_fd": (c_int, _out, c_int, POINTER(RingOpts), c_int),
    "mdg_ring_memory": (c_int, _handle),
    "mdg_ring_memory_readonly": (c_int, _handle),
    "mdg_ring_dup": (c_int, _out, _handle, c_int),
    "mdg_ring_push": (c_int, _handle, c_void_p, _timeout),
    "mdg_ring_pop": (c_int, _handle, c_void_p, _timeout),
    "mdg_ring_push_many": (c_ssize_t, _handle, c_void_p, c_size_t, _timeout),
    "mdg_ring_pop_many": (c_ssize_t, _handle, c_void_p, c_size_t, _timeout),
    "mdg_ring_reserve": (c_ssize_t, _handle, _out, c_size_t, _timeout),
    "mdg_ring_commit": (c_int, _handle, c_size_t),
    "mdg_ring_peek": (c_ssize_t, _handle, _out, c_size_t, _timeout),
    "mdg_ring_release": (c_int, _handle, c_size_t),
    "mdg_ring_skip": (c_int64, _handle, c_uint64),
    "mdg_ring_lost": (c_int64, _handle),
    "mdg_ring_shutdown": (c_int, _handle),
    "mdg_ring_fd": (c_int, _handle, c_uint32),
    "mdg_ring_cancel": (c_int, _handle),
    "mdg_wait_any": (c_int, POINTER(WaitEntry), c_size_t, _timeout),
    "mdg_ring_stat": (c_int, _handle, POINTER(RingStatsStruct)),
    "mdg_ring_close": (None, _handle),
    "mdg_ring_abandon": (None, _handle),
    "mdg_ring_unlink": (c_int, c_char_p),
    "mdg_sem_open": (c_int, _out, c_char_p, POINTER(SemOpts), c_int, _mode),
    "mdg_sem_init": (c_int, _out, c_void_p, c_uint),
    "mdg_sem_attach": (c_int, _out, c_void_p),
    "mdg_sem_undo_footprint": (c_ssize_t, POINTER(SemOpts)),
    "mdg_sem_undo_init": (c_int, _out, _handle, c_size_t, POINTER(SemOpts)),
    "mdg_sem_undo_attach": (c_int, _out, _handle, c_size_t, POINTER(SemOpts)),
    "mdg_sem_wait": (c_int, _handle, _timeout),
    "mdg_sem_post": (c_int, _handle),
    "mdg_sem_value": (c_int, _handle),
    "mdg_sem_holders": (c_ssize_t, _handle, POINTER(SemHolderStruct), c_size_t),
    "mdg_sem_close": (None, _handle),
    "mdg_sem_unlink": (c_int, c_char_p),
    "mdg_mutex_open": (c_int, _out, c_char_p, c_int, _mode),
    "mdg_mutex_init": (c_int, _out, c_void_p),
    "mdg_mutex_attach": (c_int, _out, c_void_p),
    "mdg_mutex_lock": (c_int, _handle, _timeout),
    "mdg_mutex_unlock": (c_int, _handle),
    "mdg_mutex_consistent": (c_int, _handle),
    "mdg_mutex_close": (None, _handle),
    "mdg_mutex_unlink": (c_int, c_char_p),
    "mdg_cond_open": (c_int, _out, c_char_p, c_int, _mode),
    "mdg_cond_init": (c_int, _out, c_void_p),
    "mdg_cond_attach": (c_int, _out, c_void_p),
    "mdg_cond_wait": (c_int, _handle, _handle, _timeout),
    "mdg_cond_signal": (c_int, _handle),
    "mdg_cond_broadcast": (c_int, _handle),
    "mdg_cond_close": (None, _handle),
    "mdg_cond_unlink": (c_int, c_char_p),
    "mdg_object_list": (c_ssize_t, POINTER(ObjectInfoStruct), c_size_t),
    "mdg_object_holders": (c_int, c_uint32, c_char_p, POINTER(ObjectHolderStruct), c_size_t),
    "mdg_object_check": (c_int, c_uint32, c_char_p, c_char_p, c_size_t),
    "mdg_object_repair": (c_int, c_uint32, c_char_p),
    "mdg_object_reap": (c_int, c_uint32, c_char_p, c_uint32),
    "mdg_pipe_open": (c_int, _fds, c_uint32),
    "mdg_pipe_pair": (c_int, _fds, _fds, c_uint32),
    "mdg_fifo_create": (c_int, c_char_p, _mode),
    "mdg_fifo_unlink": (c_int, c_char_p),
    "mdg_fifo_open": (c_int, c_char_p, c_int, _timeout),
    "mdg_pipe_read": (c_ssize_t, c_int, c_void_p, c_size_t, _timeout),
    "mdg_pipe_read_full": (c_ssize_t, c_int, c_void_p, c_size_t, _timeout),
    "mdg_pipe_write": (c_ssize_t, c_int, c_void_p, c_size_t, _timeout),
    "mdg_pipe_send": (c_int, c_int, c_void_p, c_size_t, _timeout),
    "mdg_pipe_receive": (c_ssize_t, c_int, c_void_p, c_size_t, _timeout),
}


def _lacking(name: str) -> Callable[..., int]:
    """Stands in for a function that an older library does not have."""

    def missing(*_: Any) -> int:
        text = "%s has no function %s: it is older than this package" % (_library.path, name)
        raise OSError(errno.ENOSYS, text)

    return missing


class _Functions:
    """The C functions as attributes; CDLL, so the interpreter lock is released during each."""

    def __init__(self) -> None:
        library = _library.load()
        for name, (result, *arguments) in _PROTOTYPES.items():
            try:
                function: Any = getattr(library, name)
            except AttributeError:
                function = _lacking(name)
            else:
                function.restype = result
                function.argtypes = arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


lib = _Functions()


def version() -> Tuple[int, int, int]:
    """Version of the loaded library: (major, minor, patch)."""
    number = lib.mdg_version()
    return number >> 16, number >> 8 & 0xFF, number & 0xFF


# The expected answers: the words of mdg_strerror are enough.
_EXPECTED = (errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR)


def failure(result: int) -> OSError:
    """The exception for a negative result."""
    code = -result
    if code not in _EXPECTED:
        text = lib.mdg_last_error()
    else:
        text = lib.mdg_strerror(result)
    words = (text or lib.mdg_strerror(result)).decode("utf-8", "replace")
    if code == errno.EOWNERDEAD:
        return OwnerDead(code, words)
    return OSError(code, words)  # which picks FileNotFoundError, TimeoutError, ... by itself


def check(result: int) -> int:
    """A result of 0 or more as it is; a negative one as an exception."""
    if result < 0:
        raise failure(result)
    return result


# A signal that arrives after Python last looked and before the C call sleeps wakes nobody: no wait
# is longer than this, so its handler runs at most this late.
SLICE_NS = 400_000_000


def nanoseconds(timeout: Optional[float]) -> int:
    """Seconds as the library's timeout: None is -1; what is above 0 never becomes 0."""
    if timeout is None:
        return -1
    seconds = float(timeout)
    if not seconds >= 0:
        raise ValueError("timeout must be None or at least 0, not %r" % (timeout,))
    if seconds > 9.2e9:  # beyond int64 nanoseconds: 292 years
        return -1
    return math.ceil(seconds * 1e9)


class Deadline:
    """The end of a wait on the monotonic clock, spent in slices."""

    __slots__ = ("_limit", "_end", "_started")

    def __init__(self, timeout: Optional[float]) -> None:
        self._limit = nanoseconds(timeout)
        self._end = monotonic_ns() + self._limit if self._limit > 0 else 0
        self._started = False

    @property
    def nowait(self) -> bool:
        """Whether the caller must not wait at all."""
        return self._limit == 0

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self._limit > 0 and monotonic_ns() >= self._end

    def left(self) -> int:
        """All that is left, as a C timeout: -1 for no limit, at least 1 otherwise."""
        return self._limit if self._limit <= 0 else max(1, self._end - monotonic_ns())

    def slice(self) -> int:
        """The C timeout of the next call: the whole timeout, or as much as fits in a slice."""
        if self._limit == 0:
            return 0
        if self._limit < 0:
            return SLICE_NS
        if not self._started:
            self._started = True
            return min(self._limit, SLICE_NS)
        return min(max(1, self._end - monotonic_ns()), SLICE_NS)

    def again(self, result: int) -> bool:
        """Whether a call that answered `result` is to be made once more."""
        if result == -errno.EINTR:
            return self._limit <= 0 or monotonic_ns() < self._end
        if result == -errno.ETIMEDOUT:
            return self._limit < 0 or monotonic_ns() < self._end
        return False


def wait(call: Callable[[int], int], timeout: Optional[float]) -> int:
    """Runs ``call(timeout_ns)`` until it answers or the time is over (PEP 475).

    A caught signal ends the C call; Python then runs the handler, which may raise
    (KeyboardInterrupt does), and when it returns the call goes on with the time that is left.
    """
    deadline = Deadline(timeout)
    while True:
        result = call(deadline.slice())
        if result >= 0:
            return result
        if not deadline.again(result):
            raise failure(-errno.ETIMEDOUT if result == -errno.EINTR else result)


def c_name(name: Name) -> bytes:
    """An object's name as the library takes it."""
    if not isinstance(name, (str, bytes)):
        raise TypeError("name must be str or bytes, not %s" % type(name).__name__)
    return _without_nul(os.fsencode(name))


def c_path(path: Path) -> bytes:
    """A path as the library takes it."""
    return _without_nul(os.fsencode(path))


def _without_nul(text: bytes) -> bytes:
    if b"\0" in text:
        raise ValueError("embedded null byte")
    return text


def unsigned(value: Any, what: str, limit: int = sys.maxsize) -> int:
    """An integer from 0 to `limit`; ctypes itself would cut silently."""
    number = operator.index(value)
    if number < 0:
        raise ValueError("%s must not be negative" % what)
    if number > limit:
        raise OverflowError("%s is too large: %d" % (what, number))
    return number


def descriptor(source: Descriptor) -> int:
    """The number of a descriptor, given as such or as an object that has one."""
    number = source if isinstance(source, int) else source.fileno()
    if number < 0:
        raise ValueError("a descriptor must not be negative: %d" % number)
    return number


PyBUF_SIMPLE = 0


class _PyBuffer(ctypes.Structure):
    """Py_buffer, as it has been since Python 3.0."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, POINTER(_PyBuffer), c_int]
_get_buffer.restype = c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [POINTER(_PyBuffer)]
_release_buffer.restype = None


class Input:
    """The bytes of any contiguous buffer, in place: read-only ones too, without a copy."""

    __slots__ = ("_buffer", "address", "length")

    def __init__(self, data: Buffer) -> None:
        self._buffer = _PyBuffer()
        _get_buffer(data, ctypes.byref(self._buffer), PyBUF_SIMPLE)
        self.address: int = self._buffer.buf or 0
        self.length: int = self._buffer.len

    def __enter__(self) -> "Input":
        return self

    def __exit__(self, *_: Any) -> None:
        _release_buffer(ctypes.byref(self._buffer))
