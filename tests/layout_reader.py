#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A second reader of rings and semaphores: written from docs/layout.md, with nothing of the library in it.

    layout_reader.py FILE [OFFSET]
    layout_reader.py --all FILE...

decodes the ring, or the semaphore of kind 16, in FILE (at OFFSET, for one in a segment) and prints it as
JSON, or all of them as a list: its geometry, who takes part and who of those lives, who holds its ends
or permits, the event counts, each item or cell that means something, and the sums that follow. It only
reads, and may look at an object in use; what it says of one is exact while its users rest. Exits with
1, and a sentence, if the file is no such object of layout 1.
"""

import fcntl
import json
import os
import stat
import struct
import sys

SUPERBLOCK = 4096
CONTROL = 4096
SLOTS = 8192
SLOT = 128
LOCKS = 0x10000000000
SPSC, MPMC, BROADCAST, SEMAPHORE = 1, 2, 3, 16
STOPPROOF, OVERWRITE, EVICT, FAIL, REDELIVER, EXACT = 1, 2, 4, 8, 16, 32
POLICIES = {
    SPSC: FAIL | REDELIVER | EXACT,
    MPMC: STOPPROOF | OVERWRITE | FAIL | REDELIVER | EXACT,
    BROADCAST: OVERWRITE | EVICT | FAIL | EXACT,
}
MOD48 = (1 << 48) - 1
MOD64 = (1 << 64) - 1
ROLE_STATES = ["never", "held", "closed", "dead", "ended"]


class NotARing(Exception):
    """What is wrong with it."""


def signed(number, bits=64):
    """A distance modulo 2^bits, as the nearest one."""
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def rounded(number, step):
    return (number + step - 1) // step * step


def power(number):
    """The smallest power of two that is no less."""
    return 1 << (number - 1).bit_length()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 if crc & 1 else crc >> 1
    return crc ^ 0xFFFFFFFF


class Reader:
    """The bytes and the locks of one object."""

    def __init__(self, path, start):
        # Not waiting, whatever it is.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        self.file = os.open(path, flags)
        self.start = start
        status = os.fstat(self.file)
        if not stat.S_ISREG(status.st_mode):
            raise NotARing("not a regular file")
        self.room = status.st_size - start

    def bytes(self, offset, count):
        data = os.pread(self.file, count, self.start + offset)
        if len(data) != count:
            raise NotARing("too short: no %d bytes at %#x" % (count, offset))
        return data

    def little(self, form, offset):
        return struct.unpack("<" + form, self.bytes(offset, struct.calcsize("<" + form)))[0]

    def native(self, form, offset):
        return struct.unpack("=" + form, self.bytes(offset, struct.calcsize("=" + form)))[0]

    def locked(self, number):
        """Whether somebody holds this lock byte: F_OFD_GETLK, with a struct flock64."""
        form = "hhqqi4x"
        ask = struct.pack(form, fcntl.F_WRLCK, os.SEEK_SET, LOCKS + 4 * self.start + number, 1, 0)
        # Python has had the name since 3.9; the number is Linux's.
        answer = fcntl.fcntl(self.file, getattr(fcntl, "F_OFD_GETLK", 36), ask)
        return struct.unpack(form, answer)[0] != fcntl.F_UNLCK


def expect(field, found, expected):
    if found != expected:
        raise NotARing("%s is %r where %r must be" % (field, found, expected))


def superblock(reader, embedded):
    """Steps 3 to 15 of "Making, opening, removing"."""
    head = reader.bytes(0, 256)
    expect("magic", head[:8], b"MADANG\r\n")
    expect("byte_order", reader.native("I", 0x10), 0x01020304)
    expect("layout_major", reader.little("H", 0x08), 1)
    expect("header_len", reader.little("I", 0x0C), 4096)
    expect("checksum", reader.little("I", 0xF8), crc32c(head[:0xF8]))
    expect("incompatible_features", reader.little("Q", 0x18), 0)
    expect("line", reader.little("I", 0x38), 128)
    expect("participant_stride", reader.little("I", 0x4C), SLOT)
    kind, item_size = reader.little("I", 0x14), reader.little("I", 0x3C)
    capacity, handles = reader.little("Q", 0x40), reader.little("I", 0x48)
    policy = reader.little("I", 0x50)
    exact = kind != 16 and policy & EXACT and item_size > 1024 and (kind != 2 or policy & 1)
    uneven = not exact and capacity & capacity - 1
    if item_size == 0 or capacity == 0 or uneven or not 1 <= handles <= 4096:
        raise NotARing("impossible geometry")
    if kind not in POLICIES and kind != SEMAPHORE:
        raise NotARing("kind %d" % kind)
    if policy & ~POLICIES[kind] if kind in POLICIES else policy > 1048575:
        raise NotARing("policy %#x is not of kind %d" % (policy, kind))
    has_words = kind == MPMC or kind == BROADCAST and policy & OVERWRITE
    stride = 8 + rounded(item_size, 8) if has_words else item_size
    if kind == BROADCAST and policy & EVICT:
        stride = rounded(item_size, 8)
    items_len = capacity * stride
    pool = {}
    if kind == MPMC and policy & STOPPROOF:
        pool = {"places": power(capacity + handles), "cells": capacity + 2 * handles}
        pool["cells_offset"] = 128 + rounded(8 * pool["places"], 128)
        items_len = pool["cells_offset"] + pool["cells"] * stride
    if kind == SEMAPHORE:
        expect("item_size", item_size, 128)
        expect("capacity", capacity, power(handles))
    items = SLOTS + SLOT * handles
    total = items + items_len
    if total >= 1 << 63:
        raise NotARing("larger than any file")
    derived = [(0x28, total), (0x58, CONTROL), (0x60, SLOTS), (0x68, items)]
    for offset, value in derived + [(0x70, items_len)]:
        expect("the number at %#x" % offset, reader.little("Q", offset), value)
    if reader.room < total or reader.room > total and not embedded:
        raise NotARing("%d bytes where %d must be" % (reader.room, total))
    return {
        "layout_minor": reader.little("H", 0x0A),
        "kind": kind,
        "compatible_features": reader.little("Q", 0x20),
        "total_size": total,
        "item_size": item_size,
        "capacity": capacity,
        "max_handles": handles,
        "policy": policy,
        "stride": stride,
        "items_offset": items,
        "pool": pool,
        "uuid": head[0x80:0x90].hex(),
        "creator_pid": reader.little("I", 0xA0),
        "creator_uid": reader.little("I", 0xA4),
        "creator_pid_namespace": reader.little("Q", 0xA8),
        "creator_start_time": reader.little("Q", 0xB0),
        "boot_id": head[0xB8:0xC8].hex(),
    }


def is_shared(kind, end):
    """Whether many hold an end: 1 the producing, 2 the consuming one."""
    return kind == MPMC or kind == BROADCAST and end == 2


def role(reader, offset, lock, slot_lives, shared):
    """A role word by the table "Role words", and what the lock says about it."""
    word = reader.native("Q", CONTROL + offset)
    locked = reader.locked(lock)
    state = word & 0xF
    name = ROLE_STATES[state] if state < len(ROLE_STATES) else "never"
    holder = name
    if not shared and name in ("held", "ended"):
        holder = "live" if locked else {"held": "dead", "ended": "closed"}[name]
    elif shared:
        # Who holds the end now is in the slots.
        holder = "closed" if name in ("held", "ended") else name
        if slot_lives:
            holder = "live" if any(slot_lives) else "dead"
    return {
        "state": name,
        "holder": holder,
        "participant": word >> 4 & 0xFFF,
        "claims": word >> 16 & 0xFFFFFF,
        "deaths": word >> 40,
        "pid": reader.native("I", CONTROL + offset + 8),
        "process": reader.native("Q", CONTROL + offset + 16),
        "locked": locked,
    }


def sleepers(reader, offset):
    """An event count of the control page."""
    armed = reader.native("I", CONTROL + offset + 4)
    return {
        "seq": reader.native("I", CONTROL + offset),
        "armed": armed & 0x7FFFFFFF,
        "heavy": armed >> 31 == 1,
    }


def control(reader, slots, kind):
    flags = reader.native("I", CONTROL + 0x200)
    # Who has ended the stream and is gone has left in order.
    counted = [slot for slot in slots if slot["lives"] or not slot["ends"] & 4]
    lives = [[slot["lives"] for slot in counted if slot["ends"] & bit] for bit in (1, 2)]
    return {
        "head": reader.native("Q", CONTROL + 0x080),
        "tail": reader.native("Q", CONTROL + 0x000),
        "not_empty": sleepers(reader, 0x100),
        "not_full": sleepers(reader, 0x180),
        "shutdown": flags & 1 != 0,
        "corrupt": flags & 2 != 0,
        "producer": role(reader, 0x280, 1, lives[0], is_shared(kind, 1)),
        "consumer": role(reader, 0x300, 2, lives[1], is_shared(kind, 2)),
        "push_waits": reader.native("Q", CONTROL + 0x380),
        "pop_waits": reader.native("Q", CONTROL + 0x400),
        "buried": reader.native("Q", CONTROL + 0x480),
        "lost": reader.native("Q", CONTROL + 0x500),
        "dropped": reader.native("Q", CONTROL + 0x580),
        "polled": reader.native("I", CONTROL + 0x600),
        "readers": reader.native("I", CONTROL + 0x680),
        "returned": reader.native("Q", CONTROL + 0x700),
        "settled": reader.native("Q", CONTROL + 0x780),
        "redelivered": reader.native("Q", CONTROL + 0x800),
        "notify_failures": reader.native("Q", CONTROL + 0x880),
    }


def intent(word, index):
    """The positions that an intent names, written out in full: those nearest to `index`."""
    count = word & 0xFFFF
    first = (index - signed(index - (word >> 16), 48)) & MOD64
    return [(first + i) & MOD64 for i in range(count)]


def participants(reader, count, head, tail):
    """The slots that were ever taken."""
    slots = []
    for index in range(count):
        at = SLOTS + SLOT * index
        generation = reader.native("I", at + 0x04)
        if generation == 0:
            continue
        locked = reader.locked(0x100 + 2 * index)
        in_use = reader.native("I", at) == 1
        slots.append({
            "slot": index,
            "in_use": in_use,
            "locked": locked,
            "lives": in_use and locked,
            "corpse": in_use and not locked,
            "generation": generation,
            "pid": reader.native("I", at + 0x08),
            "uid": reader.native("I", at + 0x0C),
            "start_time": reader.native("Q", at + 0x10),
            "pid_namespace": reader.native("Q", at + 0x18),
            "process": reader.native("Q", at + 0x28),
            "since": reader.native("Q", at + 0x30),
            "ends": reader.native("I", at + 0x20) if in_use else 0,
            "poll": reader.native("I", at + 0x24),
            "pushes": intent(reader.native("Q", at + 0x40), tail),
            "pops": intent(reader.native("Q", at + 0x48), head),
            "cursor": reader.native("Q", at + 0x50),
            "reader": reader.native("I", at + 0x58),
        })
    return slots


def spsc(reader, found):
    """Items between head and tail."""
    head, tail, block = found["control"]["head"], found["control"]["tail"], found["superblock"]
    inside = (tail - head) & MOD64
    if inside > block["capacity"]:
        raise NotARing("corrupt: head %d, tail %d" % (head, tail))
    items = []
    for position in (head + i & MOD64 for i in range(inside)):
        at = block["items_offset"] + position % block["capacity"] * block["stride"]
        items.append(reader.bytes(at, block["item_size"]).hex())
    found["items"] = items
    found["sums"] = {"written": tail, "read": head, "length": inside, "dropped": 0, "lost": 0,
                     "pending": 0}


def mpmc(reader, found):
    """Every cell: which position it was last claimed for, and how that ended."""
    block, words = found["superblock"], found["control"]
    head, tail, capacity = words["head"], words["tail"], block["capacity"]

    def owners(position, what):
        return [slot for slot in found["participants"] if position in slot[what]]

    items, progress, back = [], [], []
    for position in range(max(0, tail - capacity), tail):
        at = block["items_offset"] + position % capacity * block["stride"]
        word = reader.native("Q", at)
        turn, tag = word >> 16, word & 0xFFFF
        lap = position // capacity
        behind = (turn - 2 * lap) & MOD48
        states = {(0, 0): "free", (1, 0): "item", (1, 1): "tombstone", (2, 0): "next"}
        state = states.get((behind, tag))
        if block["policy"] & 0x10 and behind == 1 and position < head:
            if tag == 2:
                back.append(reader.bytes(at + 8, block["item_size"]).hex())
                continue
            if tag >= 16:
                state = "item"
                if not any(slot["slot"] == tag - 16 for slot in owners(position, "pops")):
                    raise NotARing("corrupt: position %d is not slot %d's" % (position, tag - 16))
        claimed_by = "pushes" if position >= head else "pops"
        fine = ("free", "item", "tombstone") if position >= head else ("item", "tombstone", "next")
        if state not in fine:
            raise NotARing("corrupt: cell word %#x for position %d" % (word, position))
        unfinished = state == "free" if position >= head else state != "next"
        if unfinished:
            who = owners(position, claimed_by)
            if not who:
                raise NotARing("corrupt: position %d is nobody's" % position)
            progress.append({
                "position": position,
                "what": claimed_by,
                "slots": [slot["slot"] for slot in who],
                # The verdict of "Recovery".
                "dead": not any(slot["locked"] for slot in who),
            })
        elif position >= head and state == "item":
            items.append(reader.bytes(at + 8, block["item_size"]).hex())
    # Cells that nobody has come to yet.
    for position in range(tail, capacity):
        at = block["items_offset"] + position * block["stride"]
        if reader.native("Q", at) != 0:
            raise NotARing("corrupt: the cell of position %d was used early" % position)
    # What came back comes first.
    found["items"] = back + items
    found["in_progress"] = progress
    pending = sum(one["what"] == "pushes" for one in progress)
    read = head - words["buried"] - words["dropped"] - words["lost"] - len(back)
    items = back + items
    gone = words["dropped"] + words["lost"]
    found["sums"] = {"written": read + gone + len(items), "read": read, "length": len(items),
                     "dropped": words["dropped"], "lost": words["lost"], "pending": pending}


def stopproof(reader, found):
    """The places from the first that was not popped to the last that was pushed, and every cell."""
    block, words = found["superblock"], found["control"]
    places, cells = block["pool"]["places"], block["pool"]["cells"]
    capacity = block["capacity"]
    bits = (cells - 1).bit_length()
    lives = {slot["slot"]: slot["locked"] for slot in found["participants"]}

    def place(position):
        """Turns beyond the empty place of `position`, and the cell."""
        at = block["items_offset"] + 128 + 8 * (position % places)
        word = reader.native("Q", at)
        return signed((word >> bits) - 2 * (position // places), 64 - bits), word & (1 << bits) - 1

    def cell(number):
        """State, owner, position."""
        if number >= cells:
            raise NotARing("corrupt: no cell %d" % number)
        at = block["items_offset"] + block["pool"]["cells_offset"] + number * block["stride"]
        word = reader.native("Q", at)
        if word & 15 > 3:
            raise NotARing("corrupt: cell %d says %#x" % (number, word))
        return word & 15, word >> 4 & 0xFFF, word >> 16, at

    def is_offered(number, position):
        state, _, where, _ = cell(number)
        return state == 2 and where == position & MOD48

    # Each index is where its name says, or one behind.
    first, end = words["head"], words["tail"]
    turn, number = place(first)
    first += turn > 1 or turn == 1 and not is_offered(number, first)
    end += place(end)[0] >= 1
    if not 0 <= end - first < capacity + block["max_handles"]:
        raise NotARing("corrupt: from %d to %d" % (first, end))
    items, queued = [], set()
    for position in range(first, end):
        turn, number = place(position)
        if turn != 1 or not is_offered(number, position):
            raise NotARing("corrupt: position %d is not there" % position)
        queued.add(number)
        items.append(reader.bytes(cell(number)[3] + 8, block["item_size"]).hex())
    # Behind them: over, empty for this lap, or popped and not emptied yet, which only the last can be.
    for position in range(end, first + places):
        turn, number = place(position)
        left = turn == -1 and position == first + places - 1
        if turn != 0 and (not left or is_offered(number, position - places)):
            raise NotARing("corrupt: the place of position %d" % position)
    progress = []
    for number in range(cells):
        state, owner, _, _ = cell(number)
        if state != 0 and number not in queued:
            progress.append({
                "cell": number,
                "what": {1: "owned", 2: "offered", 3: "taken"}[state],
                "slot": owner,
                "dead": not lives.get(owner, False),
            })
    found["items"] = items
    found["in_progress"] = progress
    lost = words["lost"] + sum(one["what"] == "taken" and one["dead"] for one in progress)
    pending = sum(one["what"] != "taken" and not one["dead"] for one in progress)
    found["sums"] = {"written": end, "read": first - words["dropped"] - lost, "length": len(items),
                     "dropped": words["dropped"], "lost": lost, "pending": pending}


def gated(reader, found):
    """What each consumer has still to read."""
    block, words = found["superblock"], found["control"]
    head, tail, capacity = words["head"], words["tail"], block["capacity"]
    if not 0 <= tail - head <= capacity:
        raise NotARing("corrupt: head %d, tail %d" % (head, tail))

    def item(position):
        at = block["items_offset"] + position % capacity * block["stride"]
        return reader.bytes(at, block["item_size"]).hex()

    consumers = []
    for slot in found["participants"]:
        state = slot["reader"] & 3
        if state == 0:
            continue
        if slot["slot"] >= words["readers"] or state == 3 or state == 2 and not block["policy"] & EVICT:
            raise NotARing("corrupt: the reader of slot %d is %#x" % (slot["slot"], slot["reader"]))
        behind = tail - slot["cursor"]
        if behind < 0 or state == 1 and behind > capacity:
            raise NotARing("corrupt: the cursor of slot %d" % slot["slot"])
        consumers.append({
            "slot": slot["slot"],
            "evicted": state == 2,
            # Else a predecessor's, whom nobody has taken out yet.
            "own": slot["reader"] >> 2 == slot["generation"] & (1 << 30) - 1,
            "behind": behind,
        })
    counting = [one["behind"] for one in consumers if not one["evicted"]]
    length = min(max(counting) if counting else tail - head, tail)
    found["consumers"] = consumers
    found["items"] = [item(position) for position in range(tail - length, tail)]
    read = max(tail - length - words["dropped"], 0)
    found["sums"] = {"written": tail, "read": read, "length": length, "dropped": tail - length - read,
                     "lost": 0, "pending": 0}


def overwriting(reader, found):
    """Every cell: what it holds, or that it is being written."""
    block, capacity = found["superblock"], found["superblock"]["capacity"]

    def cell(position):
        at = block["items_offset"] + position % capacity * block["stride"]
        return reader.native("Q", at), at

    end = found["control"]["tail"]
    end += cell(end)[0] == 2 * end + 2
    items, writing = [], []
    for position in range(max(0, end - capacity), end):
        word, at = cell(position)
        if word == 2 * position + 2:
            items.append(reader.bytes(at + 8, block["item_size"]).hex())
        elif word == 2 * (position + capacity) + 1 and position == end - capacity:
            writing.append(position + capacity)
        else:
            raise NotARing("corrupt: cell word %#x for position %d" % (word, position))
    for position in range(end, capacity):
        word, _ = cell(position)
        if word == 2 * position + 1 and position == end:
            writing.append(position)
        elif word != 0:
            raise NotARing("corrupt: the cell of position %d was used early" % position)
    found["items"] = items
    found["in_progress"] = writing
    found["sums"] = {"written": end, "read": 0, "length": len(items), "dropped": end - len(items),
                     "lost": 0, "pending": 0}


def semaphore(reader, found):
    """Free permits, and who holds the others: "Semaphores of kind 16"."""
    block = found["superblock"]
    word = reader.native("Q", CONTROL)
    last, number = word >> 21 & 0xFFF, word >> 33
    if number and last >= block["max_handles"]:
        raise NotARing("corrupt: the last operation was that of participant %d" % last)
    records = []
    for slot in found["participants"]:
        at = block["items_offset"] + 128 * slot["slot"]
        intent, holding = reader.native("Q", at), reader.native("Q", at + 8)
        held, finished = holding >> 32, holding & 0x7FFFFFFF
        announced, kind = intent & 0x7FFFFFFF, intent >> 32 & 3
        unfinished = kind != 0 and announced == (finished + 1 & 0x7FFFFFFF or 1)
        took_place = (last, number) == (slot["slot"], announced) or intent >> 34 & 1 == 1
        if unfinished and took_place:
            held = {1: held + 1, 2: max(held - 1, 0), 3: 0}[kind]
        records.append({
            "slot": slot["slot"],
            "pid": slot["pid"],
            "in_use": slot["in_use"],
            "alive": slot["locked"],
            "held": held,
            "unfinished": unfinished,
            "took_place": unfinished and took_place,
        })
    free = (word + block["policy"]) & 0xFFFFF
    owed = sum(one["held"] for one in records if one["in_use"] and not one["alive"])
    found["semaphore"] = {
        "free": free,
        "from_dead": word >> 20 & 1 == 1,
        "last": [last, number],
        "event": sleepers(reader, 0x80),
        "records": records,
        # As soon as anybody looks, and then.
        "value": free + owed,
    }


def contents(block):
    """The one of these functions that this object is for."""
    if block["kind"] == MPMC:
        return stopproof if block["policy"] & STOPPROOF else mpmc
    if block["kind"] == BROADCAST:
        return overwriting if block["policy"] & OVERWRITE else gated
    return spsc


def decode(path, start=0, embedded=False):
    reader = Reader(path, start)
    try:
        block = superblock(reader, embedded)
        head = reader.native("Q", CONTROL + 0x080)
        tail = reader.native("Q", CONTROL + 0x000)
        slots = participants(reader, block["max_handles"], head, tail)
        found = {"superblock": block, "participants": slots, "admin_locked": reader.locked(0)}
        if block["kind"] == SEMAPHORE:
            semaphore(reader, found)
            return found
        found["control"] = control(reader, slots, block["kind"])
        if found["control"]["corrupt"]:
            raise NotARing("corrupt: somebody found it so")
        contents(block)(reader, found)
        found["recovered"] = 0
        for number, name in [(1, "producer"), (2, "consumer")]:
            end = found["control"][name]
            found["recovered"] += end["deaths"]
            if is_shared(block["kind"], number):
                found["recovered"] += sum(
                    slot["corpse"] and slot["ends"] & number != 0 and not slot["ends"] & 4
                    for slot in slots)
            else:
                # A death that nobody has noted yet.
                found["recovered"] += end["state"] == "held" and not end["locked"]
        return found
    finally:
        os.close(reader.file)


def main(arguments):
    every = arguments[:1] == ["--all"]
    if not every and len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    path = ""
    try:
        if every:
            found = []
            for path in arguments[1:]:
                found.append(decode(path))
        else:
            path = arguments[0]
            start = int(arguments[1], 0) if len(arguments) == 2 else 0
            found = decode(path, start, len(arguments) == 2)
    except (NotARing, OSError) as error:
        print("%s: %s" % (path, error), file=sys.stderr)
        return 1
    json.dump(found, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
