"""What the children of multiprocessing run in the tests: they import this module by its name."""

import io
import os
import sys
import threading

import madang

kept = []
"""Rings that a child leaves open: in no frame, so that no collection closes them before its end."""


def push(name):
    """One item into a ring that stays open."""
    ring = madang.Ring(name, flags=os.O_WRONLY)
    kept.append(ring)
    ring.push(b"item")
    return os.getpid()


def push_inherited():
    """As `push`, into a ring that was there before the fork."""
    kept[0].push(b"item")


def push_and_exit(name, code):
    push(name)
    sys.exit(code)


def push_and_fail(name):
    push(name)
    sys.stderr = io.StringIO()  # for the traceback
    raise LookupError("on purpose")


def push_by_a_thread(name, go_on):
    """A thread that the end of the process waits for goes on with the ring."""
    push(name)

    def work():
        with open(go_on, "rb") as told:
            told.read()
        kept[0].push(b"last")

    threading.Thread(target=work).start()


def use(shm, semaphore, mutex, cond, ring):
    """Uses objects that were pickled."""
    semaphore.wait(timeout=30)
    with mutex:
        shm.buf[0] += 1
        cond.signal()
    ring.push(b"used", timeout=30)
