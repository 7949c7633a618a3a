"""For the type checker, not to be run: it must find a mistake in each line that says so."""

import array
import socket
from typing import List, Tuple

import madang

ring = madang.Ring("/items", 1024, 4)
ring.push(b"item")
ring.push(bytearray(4), timeout=0.5)
ring.push(memoryview(b"item"), None)
ring.push_many(array.array("i", [1, 2]))
ring.push("item")  # mistake
ring.push_many(["item"])  # mistake
ring.push(4)  # mistake
item: bytes = ring.pop()
text: str = ring.pop()  # mistake
madang.Ring("/items", "1024")  # mistake
madang.Ring.init(madang.Shm.anonymous(4096), 0, 1, 4).push(b"item")

pipe = madang.Pipe()
pipe.write(b"bytes")
pipe.send(memoryview(b"bytes"))
pipe.write("text")  # mistake
pipe.send("text")  # mistake

mutex: madang.Mutex = madang.Mutex.from_buffer(bytearray(madang.Mutex.SIZE))
cond: madang.Cond = madang.Mutex("/lock")  # mistake
with mutex as held:
    held.consistent()

here, there = socket.socketpair()
madang.fd.send(here, ring.memory())
madang.fd.send(here, "number")  # mistake
ready: List[Tuple[object, int]] = [
    (source, found) for source, found in madang.wait_any([(ring, madang.POLL_IN), (here, 1)])
]
holders: List[madang.Holder] = madang.Semaphore("/permits", undo=True).holders()
