"""Objects under /dev/shm, seen from outside: list, check, repair, reap."""

import ctypes
import os
from enum import IntEnum, IntFlag
from typing import List, NamedTuple, Optional, Union

from ._check import Name, ObjectHolderStruct, ObjectInfoStruct, c_name, check as _check, lib

__all__ = [
    "Holder",
    "Info",
    "Mechanism",
    "Role",
    "State",
    "Verdict",
    "check",
    "holders",
    "list",
    "reap",
    "repair",
]


class Mechanism(IntEnum):
    """What the name of an object says it is."""

    RING = 1
    SEM = 2
    MUTEX = 3
    TEMPORARY = 5
    OTHER = 6
    COND = 7


class State(IntEnum):
    """How an object is, by a short look."""

    SOUND = 0
    DAMAGED = 1
    CORRUPT = 2
    NOT_OURS = 3
    UNREADABLE = 4


class Info(NamedTuple):
    """A short look at one object; what is not known is 0."""

    mechanism: Union[Mechanism, int]
    name: str
    state: Union[State, int]
    bytes: int
    kind: int
    item_size: int
    capacity: int
    length: int
    max_handles: int
    handles_live: int
    handles_dead: int
    creator_pid: int
    uid: int
    mode: int


class Verdict(NamedTuple):
    """What ``check()`` found: how many things, and a line for each behind one about the object."""

    findings: int
    report: str


def _known(kind: type, number: int) -> int:
    try:
        return kind(number)  # type: ignore[no-any-return]
    except ValueError:  # of a later library
        return number


def list() -> List[Info]:
    """Every object of the library under /dev/shm, of all users, by mechanism and name."""
    size = ctypes.sizeof(ObjectInfoStruct)
    room = 16
    while True:
        array = (ObjectInfoStruct * room)()
        array[0].size = size
        count = _check(lib.mdg_object_list(array, room))
        if count <= room:
            return [_info(one) for one in array[:count]]
        room = count + 16


def _info(one: ObjectInfoStruct) -> Info:
    return Info(
        _known(Mechanism, one.mechanism),
        os.fsdecode(one.name),
        _known(State, one.state),
        *(getattr(one, field) for field in Info._fields[3:])
    )


class Role(IntFlag):
    """What a holder has of an object."""

    PRODUCER = 1
    CONSUMER = 2
    PERMITS = 4
    LOCK = 8


class Holder(NamedTuple):
    """One handle on an object, of a living process or a dead one; what is not known is 0."""

    pid: int
    uid: int
    slot: int
    roles: Role
    alive: bool
    permits: int
    since_ns: int
    command: str


def holders(mechanism: int, name: Name) -> List[Holder]:
    """Who uses a ring, a semaphore made with ``undo=True``, or holds a mutex."""
    room = 16
    while True:
        array = (ObjectHolderStruct * room)()
        count = _check(lib.mdg_object_holders(mechanism, c_name(name), array, room))
        if count <= room:
            return [_holder(one) for one in array[:count]]
        room = count + 16


def _holder(one: ObjectHolderStruct) -> Holder:
    return Holder(
        one.pid,
        one.uid,
        one.slot,
        Role(one.roles),
        one.alive == 1,
        one.permits,
        one.since_ns,
        os.fsdecode(one.command),
    )


def check(mechanism: int, name: Name) -> Verdict:
    """Tells whether an object is sound, and what the dead have left in it. Changes nothing.

    OSError with EBADMSG for a corrupt one, with EPROTO for what is no object of the library; the
    text says which word, or field, is wrong.
    """
    room = 4096
    while True:
        report = ctypes.create_string_buffer(room)
        findings = _check(lib.mdg_object_check(mechanism, c_name(name), report, room))
        needed = 256 * (findings + 2)
        if needed <= room:
            return Verdict(findings, os.fsdecode(report.value))
        room = needed


def repair(mechanism: int, name: Name) -> int:
    """Mends what the dead have left in an object, while others use it; how many things."""
    return _check(lib.mdg_object_repair(mechanism, c_name(name)))


def reap(
    mechanism: int = 0,
    name: Optional[Name] = None,
    *,
    dry_run: bool = False,
    with_items: bool = False,
) -> int:
    """Removes objects that no living process uses: one, all of a mechanism, or all; how many.

    Rings that hold items stay unless ``with_items`` is true. With ``dry_run`` nothing is removed.
    With a name, OSError with EBUSY if a living process uses it, with ENOTEMPTY if it holds items.
    """
    raw = None if name is None else c_name(name)
    flags = int(dry_run) | 2 * int(with_items)
    return _check(lib.mdg_object_reap(mechanism, raw, flags))
