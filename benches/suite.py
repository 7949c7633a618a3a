# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is measured: the rows, who takes part in each, and the bar that Madang has to reach."""

from dataclasses import dataclass, field

OURS = "madang"

# What a contender is called in tables, and what kind of thing it is.
NAMES = {
    "madang": "Madang",
    "madang_nowait": "Madang, caller retries",
    "madang_stopproof": "Madang, stop-proof",
    "vyukov": "plain Vyukov behind the same calls",
    "limit_copy": "copy-in/copy-out limit",
    "limit_fill": "the same, written and read in place",
    "rte_ring": "DPDK rte_ring",
    "ck_ring": "Concurrency Kit ck_ring",
    "boost_spsc": "boost::lockfree::spsc_queue",
    "boost_mpmc": "boost::lockfree::queue",
    "boost_mq": "Boost.Interprocess message_queue",
    "libqb": "libqb ring buffer",
    "jack": "JACK ring buffer",
    "iceoryx2": "iceoryx2 publish/subscribe",
    "ipc_channel": "ipc-channel",
    "zeromq": "ZeroMQ over ipc",
    "nng": "nng over ipc",
    "pipe": "pipe",
    "socketpair": "Unix socket pair",
    "mqueue": "POSIX message queue",
    "sysv_msg": "SysV message queue",
    "condvar": "mutex, condition variables",
    "semaphores": "three semaphores",
    "eventfd": "eventfd",
    "futex": "raw futex",
}

# Program and further arguments, where they are not those of the name.
PROGRAMS = {
    "madang_stopproof": ("madang", ["--stop-proof"]),
    "limit_copy": ("limits", None),
    "limit_fill": ("limits", None),
}

RINGS = ["rte_ring", "ck_ring", "boost_spsc", "libqb", "jack", "iceoryx2"]
KERNEL = ["pipe", "socketpair", "mqueue", "sysv_msg"]
TEXTBOOK = ["condvar", "semaphores", "boost_mq"]
SOCKETS = ["zeromq", "nng", "ipc_channel"]
STREAMS = RINGS + KERNEL + TEXTBOOK + SOCKETS
MANY = ["rte_ring", "ck_ring", "boost_mpmc", "boost_mq", "condvar", "semaphores"] + KERNEL
SLEEPERS = ["futex", "eventfd"] + KERNEL + TEXTBOOK + SOCKETS


@dataclass
class Bar:
    """`metric` of ours over that of `against` (a contender, or "best" of the peers) must be `at` or
    better; with `against` None the figure itself must be."""

    at: float
    against: str = "best"
    metric: str = "ops"
    unit: str = ""


@dataclass
class Row:
    key: str
    title: str
    args: list
    peers: list
    bars: list = field(default_factory=list)
    others: list = field(default_factory=list)  # measured alike, but no peers: controls, limits
    ours: str = OURS
    count: int = 0  # items per run; 0: as many as take the time of a run
    metrics: tuple = ("ops",)
    rounds: int = 0  # of a full run; 0: as many as most rows. More where figures scatter

    def footprint(self):
        number = dict(zip(self.args[1:], self.args[2:]))
        return int(number.get("--item", 8)) * int(number.get("--capacity", 1024))


def work(text):
    return text.split()


ROWS = [
    Row("spsc8", "SPSC 8 B, capacity 1024", work("spsc --item 8 --capacity 1024"), STREAMS,
        [Bar(1.8)], ["madang_nowait"], rounds=21),
    Row("spsc8_64k", "SPSC 8 B, capacity 65536", work("spsc --item 8 --capacity 65536"), STREAMS,
        [Bar(1.8)], ["madang_nowait"], rounds=21),
    Row("batch32", "SPSC 8 B, batches of 32", work("spsc --item 8 --capacity 1024 --batch 32"),
        STREAMS, [Bar(1.25, "rte_ring")], ["madang_nowait"], rounds=21),
    Row("spsc64", "SPSC 64 B, all bytes read", work("spsc --item 64 --capacity 1024"), STREAMS,
        [Bar(1.2)], ["madang_nowait"]),
    Row("spsc256", "SPSC 256 B, all bytes read", work("spsc --item 256 --capacity 1024"), STREAMS,
        [Bar(1.3)], ["madang_nowait"]),
    Row("spsc1k", "SPSC 1 KiB, all bytes read", work("spsc --item 1024 --capacity 1024"), STREAMS,
        [Bar(1.1)], ["madang_nowait"]),
    Row("inplace4k", "SPSC 4 KiB in place, all bytes read",
        work("spsc --item 4096 --capacity 64 --in-place"), STREAMS,
        [Bar(1.0), Bar(0.9, "limit_copy")], ["limit_copy", "limit_fill", "madang_nowait"]),
    Row("inplace64k", "SPSC 64 KiB in place, all bytes read",
        work("spsc --item 65536 --capacity 16 --in-place"), STREAMS,
        [Bar(1.0), Bar(0.9, "limit_copy")], ["limit_copy", "limit_fill", "madang_nowait"]),
    Row("trip_spin", "round trip 8 B, spinning", work("roundtrip"), RINGS + ["boost_mpmc"],
        [Bar(0.65, metric="p50"), Bar(0.8, metric="p99")], ["vyukov"], ours="madang_nowait",
        count=20000, metrics=("p50", "p99")),
    Row("trip_budget", "round trip 8 B, waiting in the library, answers at once", work("roundtrip"),
        RINGS, [Bar(0.65, metric="p50"), Bar(1.1, "madang_nowait", "p50")], ["madang_nowait"],
        count=20000, metrics=("p50", "p99"), rounds=21),
    Row("trip_many", "round trip 8 B over queues for many, spinning", work("roundtrip --many"),
        ["rte_ring", "ck_ring", "boost_mpmc"], [Bar(1.5, "vyukov", "p50")], ["vyukov", "madang"],
        ours="madang_nowait", count=20000, metrics=("p50", "p99")),
    Row("trip_many_budget", "round trip 8 B over queues for many, waiting in the library",
        work("roundtrip --many"), [], [Bar(1.5, "vyukov", "p50")], ["vyukov"],
        count=20000, metrics=("p50", "p99")),
    Row("trip_sleep", "round trip 8 B, both sides sleeping", work("roundtrip --think 60000"),
        SLEEPERS, [Bar(1.05, "futex", "p50")], count=800, metrics=("p50", "p99")),
    Row("mpmc11", "MPMC 8 B, 1 producer, 1 consumer", work("mpmc"), MANY,
        [Bar(5.0), Bar(0.9, "vyukov")], ["vyukov", "madang_stopproof"], rounds=21),
    Row("mpmc22", "MPMC 8 B, 2 producers, 2 consumers",
        work("mpmc --producers 2 --consumers 2"), MANY,
        [Bar(5.0), Bar(0.9, "vyukov")], ["vyukov", "madang_stopproof"], rounds=21),
    Row("bcast1", "broadcast 8 B, 1 reader", work("broadcast --readers 1"),
        ["iceoryx2", "zeromq"], [Bar(10.0, "iceoryx2")]),
    Row("bcast3", "broadcast 8 B, 3 readers", work("broadcast --readers 3"),
        ["iceoryx2", "zeromq"], [Bar(10.0, "iceoryx2")]),
    Row("idle", "CPU used while waiting 1 s", work("idle"), ["rte_ring", "pipe", "condvar"],
        [Bar(1000.0, None, "cpu_us", "µs")], count=1, metrics=("cpu_us",), rounds=3),
]

# Only for plots: (plot, contenders, points), a point being (x, title, args).
SCALING = [(p, c) for p, c in ((1, 1), (2, 1), (1, 2), (2, 2))]
SWEEPS = [
    Row(f"scale_{p}x{c}", f"MPMC 8 B, {p}P{c}C", work(f"mpmc --producers {p} --consumers {c}"),
        ["rte_ring", "ck_ring", "boost_mpmc"], [], ["vyukov", "madang_stopproof"], rounds=3)
    for p, c in SCALING if p != c
] + [
    Row(f"foot8_{2 ** n}", f"SPSC 8 B, capacity {2 ** n}", work(f"spsc --item 8 --capacity {2 ** n}"),
        ["rte_ring", "ck_ring", "boost_spsc"], [], ["madang_nowait"], rounds=3)
    for n in range(6, 21, 2)
] + [
    Row(f"foot4k_{2 ** n}", f"SPSC 4 KiB in place, capacity {2 ** n}",
        work(f"spsc --item 4096 --capacity {2 ** n} --in-place"),
        ["rte_ring", "jack"], [], ["limit_copy", "madang_nowait"], rounds=3)
    for n in range(2, 13, 2)
]

# What calls cost beside idle handles of the same ring, and beside other rings: (option, number).
GROWTH = [("handles", 1), ("handles", 64), ("handles", 512), ("handles", 2048),
          ("rings", 1), ("rings", 100), ("rings", 1000)]

# Push and pop must not grow: at most so many times what they cost beside one.
GROWTH_CALL = 1.5

# Attaching and closing, in nanoseconds, beside however many.
GROWTH_ATTACH = 1_000_000


# (capacity, item size): the memory that an empty ring takes, against its bar.
MEMORY = [(1024, 8), (65536, 8), (1024, 64), (1024, 1024), (64, 4096), (16, 65536)]


def memory_bar(capacity, item):
    """n*s, an eighth more, and a fixed 16 KiB."""
    return capacity * item * 9 // 8 + 16384
