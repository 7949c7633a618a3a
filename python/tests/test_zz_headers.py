"""The package against the C headers. Runs last: it looks at what the other tests have called."""

import errno
import glob
import os
import re
import sys

import support
import madang
from madang import RingEnd, RingKind, RingPolicy, RingStart, _check, mutex, object as objects, ring, sem

HERE = os.path.dirname(os.path.abspath(__file__))
HEADERS = os.path.join(HERE, "..", "..", "include", "madang", "*.h")

# What each macro of the headers is here.
CONSTANTS = {
    "MDG_NOWAIT": madang.NOWAIT,
    "MDG_FOREVER": _check.nanoseconds(madang.FOREVER),
    "MDG_INHERIT": madang.INHERIT,
    "MDG_SEALED": madang.SEALED,
    "MDG_FRESH": madang.FRESH,
    "MDG_MUTEX_SIZE": mutex.Mutex.SIZE,
    "MDG_COND_SIZE": mutex.Cond.SIZE,
    "MDG_OBJECT_RING": objects.Mechanism.RING,
    "MDG_OBJECT_SEM": objects.Mechanism.SEM,
    "MDG_OBJECT_MUTEX": objects.Mechanism.MUTEX,
    "MDG_OBJECT_TEMPORARY": objects.Mechanism.TEMPORARY,
    "MDG_OBJECT_OTHER": objects.Mechanism.OTHER,
    "MDG_OBJECT_COND": objects.Mechanism.COND,
    "MDG_REAP_DRY_RUN": int(True),  # reap(..., dry_run=True)
    "MDG_REAP_WITH_ITEMS": 2 * int(True),  # reap(..., with_items=True)
    "MDG_HOLDER_PRODUCER": objects.Role.PRODUCER,
    "MDG_HOLDER_CONSUMER": objects.Role.CONSUMER,
    "MDG_HOLDER_PERMITS": objects.Role.PERMITS,
    "MDG_HOLDER_LOCK": objects.Role.LOCK,
    "MDG_OBJECT_SOUND": objects.State.SOUND,
    "MDG_OBJECT_DAMAGED": objects.State.DAMAGED,
    "MDG_OBJECT_CORRUPT": objects.State.CORRUPT,
    "MDG_OBJECT_NOT_OURS": objects.State.NOT_OURS,
    "MDG_OBJECT_UNREADABLE": objects.State.UNREADABLE,
    "MDG_PIPE_MESSAGE_MAX": madang.MESSAGE_MAX,
    "MDG_RING_SPSC": RingKind.SPSC,
    "MDG_RING_MPMC": RingKind.MPMC,
    "MDG_RING_BROADCAST": RingKind.BROADCAST,
    "MDG_RING_STOPPROOF": RingPolicy.STOPPROOF,
    "MDG_RING_OVERWRITE": RingPolicy.OVERWRITE,
    "MDG_RING_EVICT": RingPolicy.EVICT,
    "MDG_RING_FAIL": RingPolicy.FAIL,
    "MDG_RING_REDELIVER": RingPolicy.REDELIVER,
    "MDG_RING_EXACT": RingPolicy.EXACT,
    "MDG_RING_OLDEST": RingStart.OLDEST,
    "MDG_RING_LATEST": RingStart.LATEST,
    "MDG_POLL_IN": madang.POLL_IN,
    "MDG_POLL_OUT": madang.POLL_OUT,
    "MDG_POLL_ERR": madang.POLL_ERR,
    "MDG_POLL_HUP": madang.POLL_HUP,
    "MDG_WAIT_MAX": madang.WAIT_MAX,
    "MDG_RING_END_NEVER": RingEnd.NEVER,
    "MDG_RING_END_LIVE": RingEnd.LIVE,
    "MDG_RING_END_CLOSED": RingEnd.CLOSED,
    "MDG_RING_END_DEAD": RingEnd.DEAD,
    "MDG_RING_SHUTDOWN": ring._SHUTDOWN,  # RingStats.is_shutdown, and so on
    "MDG_RING_CORRUPT": ring._CORRUPT,
    "MDG_RING_UNLINKED": ring._UNLINKED,
    "MDG_SEM_POSIX": sem._POSIX,  # Semaphore(..., undo=False)
    "MDG_SEM_UNDO": sem._UNDO,
    "MDG_SEM_TELL": int(True),  # Semaphore(..., tell=True)
    "MDG_SEM_VALUE_MAX": madang.VALUE_MAX,
    "MDG_SEM_UNDO_VALUE_MAX": madang.UNDO_VALUE_MAX,
}


def declared():
    """The names of the functions that the headers declare, and the macros with their values."""
    functions, macros = set(), {}
    for path in glob.glob(HEADERS):
        with open(path) as file:
            code = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
        functions.update(re.findall(r"\b(mdg_[a-z_0-9]+)\(", code))
        for name, value in re.findall(r"#define (MDG_\w+) (.+)", code):
            if not name.endswith("_INIT"):  # initialisers of structures are for C
                macros[name] = int(value.strip("()"))
    return functions, macros


class Headers(support.Case):
    def setUp(self):
        self.functions, self.macros = declared()
        if not self.functions:
            self.skipTest("no headers here")

    def test_every_function_has_its_prototype(self):
        self.assertEqual(sorted(self.functions), sorted(_check._PROTOTYPES))

    def test_every_constant_is_there(self):
        of_headers = {n: v for n, v in self.macros.items() if not n.startswith("MDG_VERSION")}
        self.assertEqual(of_headers, CONSTANTS)
        version = tuple(self.macros["MDG_VERSION_" + part] for part in ("MAJOR", "MINOR", "PATCH"))
        self.assertEqual(madang.version(), version)
        self.assertEqual(madang.__version__, "%d.%d.%d" % version)

    def test_every_code_of_the_headers_has_words(self):
        with open(os.path.join(os.path.dirname(HEADERS), "base.h")) as file:
            codes = set(re.findall(r"-(E[A-Z0-9]{3,})\b", file.read()))
        self.assertGreater(len(codes), 20)
        for code in codes:
            number = getattr(errno, code)
            self.assertNotEqual(_check.lib.mdg_strerror(-number), b"unknown error", code)

    def test_every_function_was_called(self):
        files = {os.path.basename(p)[:-3] for p in glob.glob(os.path.join(HERE, "test_*.py"))}
        if not files.issubset(sys.modules):
            self.skipTest("only some of the tests run")
        self.assertEqual(sorted(self.functions - support.called()), [])
