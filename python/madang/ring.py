"""Rings: bounded buffers of fixed-size items."""

import ctypes
import os
import threading
from contextlib import contextmanager
from enum import IntEnum, IntFlag
from typing import Any, Callable, Iterator, NamedTuple, Optional, Tuple, Union

from . import _exit
from ._check import Buffer, Descriptor, Input, Name, RingOpts, RingStatsStruct, c_name, check
from ._check import descriptor, lib, unsigned, wait
from ._handle import Handle, Process, chars_type, expect, identity
from .shm import Shm

_SHUTDOWN, _CORRUPT, _UNLINKED = 1, 2, 4


class RingKind(IntEnum):
    """The kinds of ring."""

    SPSC = 1
    """One producer and one consumer."""
    MPMC = 2
    """Many of both; each item goes to one consumer."""
    BROADCAST = 3
    """One producer, many consumers; each of them gets every item."""


class RingPolicy(IntFlag):
    """What a push into a full ring does, instead of waiting; ``STOPPROOF`` and ``REDELIVER``."""

    STOPPROOF = 0x1
    """Nobody waits for a process that was killed or stopped in the middle of an operation; of
    ``RingKind.MPMC``, alone or with one of the others."""
    OVERWRITE = 0x2
    """Gives up the oldest item."""
    EVICT = 0x4
    """Takes the slowest consumer of a broadcast out."""
    FAIL = 0x8
    """Raises BlockingIOError."""
    REDELIVER = 0x10
    """What a consumer of ``RingKind.MPMC`` had in hands when it died, or closed, goes to another."""
    EXACT = 0x20
    """The capacity is not rounded up; for items of more than 1024 bytes, and in ``RingKind.MPMC`` with
    ``STOPPROOF`` only."""


class RingStart(IntEnum):
    """The first item that a consumer of a broadcast gets."""

    NOW = 0
    """The first one that is committed after it has joined."""
    OLDEST = 0x1
    """The oldest one that is still in the ring."""
    LATEST = 0x2
    """The newest one that is in the ring, if there is one."""


class RingEnd(IntEnum):
    """What is known of the process at one end of a ring."""

    NEVER = 0
    LIVE = 1
    CLOSED = 2
    DEAD = 3


class RingStats(NamedTuple):
    """What ``Ring.stat()`` tells."""

    capacity: int
    item_size: int
    kind: int
    length: int
    written: int
    read: int
    dropped: int
    recovered: int
    push_waits: int
    pop_waits: int
    producer_pid: int
    consumer_pid: int
    producer_state: Union[RingEnd, int]
    consumer_state: Union[RingEnd, int]
    max_handles: int
    flags: int
    lost: int
    pending: int
    policy: RingPolicy
    redelivered: int
    producers: int
    consumers: int
    notify_failures: int

    @property
    def is_shutdown(self) -> bool:
        """Whether the end of the stream was declared."""
        return bool(self.flags & _SHUTDOWN)

    @property
    def is_corrupt(self) -> bool:
        """Whether the contents were found damaged."""
        return bool(self.flags & _CORRUPT)

    @property
    def is_unlinked(self) -> bool:
        """Whether the name was removed."""
        return bool(self.flags & _UNLINKED)


def _opts(
    capacity: int, item_size: int, kind: int, max_handles: int, policy: int, start: int = 0
) -> RingOpts:
    return RingOpts(
        ctypes.sizeof(RingOpts),
        unsigned(capacity, "capacity"),
        unsigned(item_size, "item_size", 0xFFFFFFFF),
        unsigned(kind, "kind", 0xFFFFFFFF),
        unsigned(max_handles, "max_handles", 0xFFFFFFFF),
        unsigned(policy, "policy", 0xFFFFFFFF),
        unsigned(start, "start", 0xFFFFFFFF),
    )


class Ring(Process):
    """A ring of fixed-size items between producers and consumers.

    ``Ring("/name", 1024, 64, os.O_CREAT | os.O_WRONLY)`` makes or opens one with room for 1024
    items of 64 bytes and takes its producing end; ``os.O_RDONLY`` is the consuming end and
    ``os.O_RDWR`` claims either on first use. Opening an existing ring, ``capacity`` and
    ``item_size`` may be left 0: taken as they are. ``name`` None makes an anonymous ring, for
    ``os.fork()`` and ``dup()``. A ring may also lie in a segment (``footprint``, ``init``,
    ``attach``) or come from another process as a descriptor (``from_fd``).

    One object belongs to one thread at a time (RuntimeError otherwise); ``dup()`` makes one for
    another thread. ``close()`` never removes the name: ``Ring.unlink(name)`` does. Iterating yields
    items until the stream is shut down and drained.

    Leaving ``with`` closes it; leaving it by an exception abandons it (``abandon``), so that the
    peers are told of a death as they are after a kill, and not left waiting.

    One with a name can be pickled, unless it was opened for an end that only one handle may hold:
    unpickling opens the ring again by its name, with the same ``flags``, as one more handle.

    ``kind`` and ``policy`` say what to make, or to insist on; see ``RingKind`` and ``RingPolicy``. A
    consumer of a broadcast begins with the first item after it has joined unless ``start`` says
    otherwise; see ``RingStart``. When it has lost items, its next ``pop``, ``pop_many``,
    ``peek`` or ``release`` raises OSError with ``EOVERFLOW``, once; ``lost()`` counts them.
    """

    _elsewhere = (
        "it has no name. Let the child inherit it by os.fork(), or send it with "
        "madang.fd.send(socket, ring.memory()) and open it there with Ring.from_fd(); one in a "
        "segment is opened with Ring.attach()"
    )
    _another = "ring.dup(flags) makes another object on the same ring"

    def __init__(
        self,
        name: Optional[Name],
        capacity: int = 0,
        item_size: int = 0,
        flags: Optional[int] = None,
        mode: int = 0o600,
        *,
        kind: int = 0,
        max_handles: int = 0,
        policy: int = 0,
        start: int = RingStart.NOW,
    ) -> None:
        if flags is None:
            flags = os.O_RDWR if name is not None else os.O_CREAT | os.O_RDWR
        opts = _opts(capacity, item_size, kind, max_handles, policy, start)
        raw = None if name is None else c_name(name)
        out = ctypes.c_void_p()
        check(lib.mdg_ring_open(ctypes.byref(out), raw, ctypes.byref(opts), flags, mode))
        self._adopt(out, None if name is None else os.fsdecode(name), flags, start)

    def _adopt(
        self, out: ctypes.c_void_p, name: Optional[str], flags: int, start: int = 0
    ) -> None:
        self._handle: Optional[Handle] = Handle(out.value or 0, lib.mdg_ring_close)
        self._busy = threading.Lock()
        self._reserved: Optional[memoryview] = None
        self._peeked: Optional[memoryview] = None
        self._name = name
        self._access = flags & os.O_ACCMODE
        self._start = start
        stats = self.stat()
        self._capacity = stats.capacity
        self._item_size = stats.item_size
        self._kind = stats.kind
        _exit.add(self)

    @classmethod
    def _made(cls, call: Callable[[Any], int], flags: int) -> "Ring":
        out = ctypes.c_void_p()
        check(call(ctypes.byref(out)))
        ring = cls.__new__(cls)
        ring._adopt(out, None, flags)
        return ring

    def _reopening(self) -> Tuple[Any, ...]:
        handle = self._open()
        if self._name is None:
            self._refuse()
        ends = {os.O_WRONLY: "producing", os.O_RDONLY: "consuming"}
        one_only = {RingKind.SPSC: (os.O_WRONLY, os.O_RDONLY), RingKind.BROADCAST: (os.O_WRONLY,)}
        if self._access in one_only.get(RingKind(self._kind), ()):
            raise TypeError(
                "cannot pickle this madang.Ring: only one handle may hold its %s end, and this one "
                "does. Pass the name %r, and open it in the other process when this object is "
                "closed, or instead of it" % (ends[self._access], self._name)
            )
        expected = identity(check(lib.mdg_ring_memory(handle.pointer)))
        return _reopen, (type(self), self._name, self._access, self._start, expected)

    @staticmethod
    def footprint(
        capacity: int, item_size: int, *, kind: int = 0, max_handles: int = 0, policy: int = 0
    ) -> int:
        """Bytes that such a ring takes up in a segment: a multiple of 4096."""
        opts = _opts(capacity, item_size, kind, max_handles, policy)
        return check(lib.mdg_ring_footprint(ctypes.byref(opts)))

    @classmethod
    def init(
        cls,
        shm: Shm,
        offset: int,
        capacity: int,
        item_size: int,
        flags: int = os.O_RDWR,
        *,
        kind: int = 0,
        max_handles: int = 0,
        policy: int = 0,
        start: int = RingStart.NOW,
    ) -> "Ring":
        """Makes a ring inside a segment, at a multiple of 4096 with ``footprint()`` bytes free.

        What was there is overwritten, unless it is a ring in use: OSError with EBUSY. The ring may
        outlive `shm`, the object.
        """
        opts = ctypes.byref(_opts(capacity, item_size, kind, max_handles, policy, start))
        place, handle = unsigned(offset, "offset"), shm._open()
        return cls._made(
            lambda out: lib.mdg_ring_init(out, handle.pointer, place, opts, flags), flags
        )

    @classmethod
    def attach(
        cls,
        shm: Shm,
        offset: int = 0,
        flags: int = os.O_RDWR,
        *,
        capacity: int = 0,
        item_size: int = 0,
        kind: int = 0,
        max_handles: int = 0,
        policy: int = 0,
        start: int = RingStart.NOW,
    ) -> "Ring":
        """Opens the ring that ``init`` made in a segment; OSError with EPROTO if there is none."""
        opts = ctypes.byref(_opts(capacity, item_size, kind, max_handles, policy, start))
        place, handle = unsigned(offset, "offset"), shm._open()
        return cls._made(
            lambda out: lib.mdg_ring_attach(out, handle.pointer, place, opts, flags), flags
        )

    @classmethod
    def from_fd(
        cls,
        fd: Descriptor,
        flags: int = os.O_RDWR,
        *,
        capacity: int = 0,
        item_size: int = 0,
        kind: int = 0,
        max_handles: int = 0,
        policy: int = 0,
        start: int = RingStart.NOW,
    ) -> "Ring":
        """Opens the ring whose ``memory()`` another process has sent; your descriptor stays yours.

        With ``madang.SEALED`` in the flags one is refused that its sender could still truncate.
        """
        opts = ctypes.byref(_opts(capacity, item_size, kind, max_handles, policy, start))
        number = descriptor(fd)
        return cls._made(lambda out: lib.mdg_ring_from_fd(out, number, opts, flags), flags)

    def memory(self) -> int:
        """The descriptor of the ring's memory, for ``madang.fd.send``. It is the ring's: do not
        close it. OSError with EINVAL for a ring in a segment: send the segment's."""
        return self._look(lib.mdg_ring_memory)

    def memory_readonly(self) -> int:
        """A new descriptor of the memory of an overwriting broadcast that can only be read.

        For subscribers that are not trusted: they open it with ``Ring.from_fd(fd, os.O_RDONLY)``.
        Close it yourself (``os.close``).
        """
        return self._look(lib.mdg_ring_memory_readonly)

    @staticmethod
    def unlink(name: Name) -> None:
        """Removes the name; those who have the ring open go on using it."""
        check(lib.mdg_ring_unlink(c_name(name)))

    def dup(self, flags: int = os.O_RDWR) -> "Ring":
        """Another object on the same ring, for another thread or the other end."""
        out = ctypes.c_void_p()
        self._run(lambda pointer: check(lib.mdg_ring_dup(ctypes.byref(out), pointer, flags)))
        ring = Ring.__new__(Ring)
        ring._adopt(out, self._name, flags)
        return ring

    def _open(self) -> Handle:
        if self._handle is None:
            raise ValueError("the ring is closed")
        return self._handle

    @contextmanager
    def _in_use(self) -> Iterator[int]:
        """The handle, for one C call; two threads at once would break it, so that is an error."""
        handle = self._open()  # the reference keeps it open for the length of the call
        busy = self._busy
        if not busy.acquire(False):
            raise RuntimeError("the ring is in use by another thread: give that one a dup()")
        try:
            yield handle.pointer
        finally:
            busy.release()
            # A traceback that keeps this frame must not keep the handle open.
            del handle

    def _run(self, call: Callable[[int], int]) -> int:
        """One C call on the handle; as `_in_use`, which is slower."""
        handle = self._open()
        if not self._busy.acquire(False):
            raise RuntimeError("the ring is in use by another thread: give that one a dup()")
        try:
            return call(handle.pointer)
        finally:
            self._busy.release()
            del handle  # as above

    def _look(self, call: Callable[..., int], *arguments: Any) -> int:
        """One C call that any thread may make at any time."""
        handle = self._open()  # the reference keeps it open for the length of the call
        try:
            return check(call(handle.pointer, *arguments))
        finally:
            del handle  # as above

    def _wait(self, call: Callable[[int, int], int], timeout: Optional[float]) -> int:
        # Not held between the slices of a wait: a signal handler may use the ring.
        return wait(lambda ns: self._run(lambda pointer: call(pointer, ns)), timeout)

    def push(self, item: Buffer, timeout: Optional[float] = None) -> None:
        """Adds one item: a bytes-like object of exactly ``item_size`` bytes, else ValueError."""
        self._open()
        with Input(item) as data:
            if data.length != self._item_size:
                text = "an item of this ring has %d bytes, not %d"
                raise ValueError(text % (self._item_size, data.length))
            self._wait(lambda pointer, ns: lib.mdg_ring_push(pointer, data.address, ns), timeout)

    def pop(self, timeout: Optional[float] = None) -> bytes:
        """Takes one item out."""
        item = chars_type(self._item_size)()
        self._wait(lambda pointer, ns: lib.mdg_ring_pop(pointer, item, ns), timeout)
        data: bytes = item.raw
        return data

    def push_many(self, items: Buffer, timeout: Optional[float] = None) -> int:
        """Adds as many of the items as fit, waiting for room for one; how many that were.

        `items` is one contiguous buffer, a multiple of ``item_size`` long, else ValueError.
        """
        self._open()
        with Input(items) as data:
            count, rest = divmod(data.length, self._item_size)
            if rest:
                text = "%d bytes are not a whole number of items of %d bytes"
                raise ValueError(text % (data.length, self._item_size))
            if count == 0:
                return 0
            return self._wait(
                lambda pointer, ns: lib.mdg_ring_push_many(pointer, data.address, count, ns),
                timeout,
            )

    def pop_many(self, count: int, timeout: Optional[float] = None) -> bytes:
        """Takes up to `count` items out, waiting for the first; their bytes one after another."""
        count = min(unsigned(count, "count"), self._capacity)
        self._open()
        if count == 0:
            return b""
        items = chars_type(count * self._item_size)()
        got = self._wait(
            lambda pointer, ns: lib.mdg_ring_pop_many(pointer, items, count, ns), timeout
        )
        return memoryview(items)[: got * self._item_size].tobytes()

    def reserve(self, count: int = 1, timeout: Optional[float] = None) -> memoryview:
        """Room for up to `count` items in place, at least one: fill it, then ``commit``."""
        view = self._in_place(lib.mdg_ring_reserve, count, timeout, False)
        self._reserved = view
        return view

    def commit(self, count: Optional[int] = None) -> None:
        """Adds the first `count` reserved items (all, when not said; 0 gives all back).

        The view is invalid then.
        """
        count = self._whole(self._reserved) if count is None else unsigned(count, "count")
        self._forget("_reserved")
        self._run(lambda pointer: check(lib.mdg_ring_commit(pointer, count)))

    def peek(self, count: int = 1, timeout: Optional[float] = None) -> memoryview:
        """Up to `count` items in place, at least one: read them, then ``release``."""
        view = self._in_place(lib.mdg_ring_peek, count, timeout, True)
        self._peeked = view
        return view

    def release(self, count: Optional[int] = None) -> None:
        """Takes the first `count` peeked items out (all, when not said; 0 leaves all inside).

        The view is invalid then.
        """
        count = self._whole(self._peeked) if count is None else unsigned(count, "count")
        self._forget("_peeked")
        self._run(lambda pointer: check(lib.mdg_ring_release(pointer, count)))

    def skip(self, keep: int = 1) -> int:
        """Skips the oldest items until at most `keep` are left for this consumer.

        Returns how many were skipped. They count as read. Never waits.
        """
        number = unsigned(keep, "keep")
        return self._run(lambda pointer: check(lib.mdg_ring_skip(pointer, number)))

    def _in_place(
        self, function: Any, count: int, timeout: Optional[float], readonly: bool
    ) -> memoryview:
        count = unsigned(count, "count")
        out = ctypes.c_void_p()
        got = self._wait(
            lambda pointer, ns: function(pointer, ctypes.byref(out), count, ns), timeout
        )
        return self._open().view(out.value or 0, got * self._item_size, readonly)

    def _whole(self, view: Optional[memoryview]) -> int:
        return len(view) // self._item_size if view is not None else 0

    def _forget(self, which: str) -> None:
        """Makes a view of the ring's memory unusable; BufferError while a call uses it."""
        view = getattr(self, which)
        if view is not None:
            view.release()
            setattr(self, which, None)

    def shutdown(self) -> None:
        """Declares the end of the stream: pushes fail, consumers drain and then end.

        This, ``cancel`` and ``stat`` may be called from any thread.
        """
        self._look(lib.mdg_ring_shutdown)

    def lost(self) -> int:
        """How many items this consumer of a broadcast has lost since it was opened."""
        return self._run(lambda pointer: check(lib.mdg_ring_lost(pointer)))

    def poll_fd(self, events: int = 0x1) -> int:
        """A descriptor for selectors, asyncio's ``add_reader`` and the like.

        It becomes readable when the ring may be ready for `events`: ``POLL_IN`` for pops,
        ``POLL_OUT`` for pushes, or both. It stays so until a call with timeout 0 has raised
        BlockingIOError: after an event, pop (or push) until then. A death makes nothing readable:
        look at ``stat()`` once in a while. The descriptor is the ring's: do not read or close it,
        and take it out of what waits on it before ``close()``.
        """
        number = unsigned(events, "events", 0xFFFFFFFF)
        return self._run(lambda pointer: check(lib.mdg_ring_fd(pointer, number)))

    def cancel(self) -> None:
        """Ends the wait of a call in another thread, which raises OSError with ECANCELED.

        If none waits, the next call that would have to does so. May be called from any thread, and
        from a signal handler.
        """
        self._look(lib.mdg_ring_cancel)

    def stat(self) -> RingStats:
        """Counters and the state of both ends."""
        stats = RingStatsStruct(ctypes.sizeof(RingStatsStruct))
        self._look(lib.mdg_ring_stat, ctypes.byref(stats))
        fields = {name: getattr(stats, name) for name in RingStats._fields}
        for end in ("producer_state", "consumer_state"):
            if fields[end] in RingEnd._value2member_map_:
                fields[end] = RingEnd(fields[end])
        fields["policy"] = RingPolicy(fields["policy"])
        return RingStats(**fields)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                item = self.pop()
            except BrokenPipeError:
                return
            yield item

    @property
    def capacity(self) -> int:
        """How many items fit."""
        return self._capacity

    @property
    def item_size(self) -> int:
        """Bytes of one item."""
        return self._item_size

    @property
    def name(self) -> Optional[str]:
        """The name it was opened by; None for an anonymous one."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._handle is None

    def close(self) -> None:
        """Gives up the ends this object holds; more than once does no harm.

        A slice of a view, or an array built on one, delays that until it is gone. To the peers
        this is an orderly end: a consumer goes on waiting for the next producer.
        """
        self._close()

    def abandon(self) -> None:
        """Closes it as the death of the process would: where the peers are told of a death, they
        get `OwnerDead`. Others at the same end go on; after ``shutdown()`` it is an orderly end."""
        if self._handle is not None:
            self._handle.close_by(lib.mdg_ring_abandon)
        self._close()

    def _close(self) -> None:
        for which in ("_reserved", "_peeked"):
            try:
                self._forget(which)
            except BufferError:
                setattr(self, which, None)
        self._handle = None
        _exit.discard(self)

    def _close_at_exit(self, failed: bool) -> None:
        """As ``close``, or ``abandon``, at the end of the process."""
        if self._handle is None or not self._busy.acquire(False):
            return  # a thread is in a call, and will be until the end
        try:
            handle, self._handle = self._handle, None
            self._reserved = self._peeked = None
            if failed:
                handle.close_by(lib.mdg_ring_abandon)
            handle.close_at_exit()
        finally:
            self._busy.release()

    def _after_fork(self) -> None:
        # A thread that was in a call when the process forked does not exist in the child.
        self._busy = threading.Lock()

    def __enter__(self) -> "Ring":
        self._open()
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if _exit.is_failure(kind, error):
            self.abandon()
        else:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "%d x %d bytes" % (self._capacity, self._item_size)
        return "<madang.Ring %s, %s>" % (self._name or "(anonymous)", state)


def _reopen(
    cls: Any, name: str, access: int, start: int, expected: Tuple[int, int]
) -> Ring:
    ring: Ring = cls(name, flags=access, start=start)
    try:
        expect(identity(ring.memory()), expected, name)
    except BaseException:
        ring.close()
        raise
    return ring
