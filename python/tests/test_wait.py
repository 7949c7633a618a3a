import asyncio
import errno
import os
import selectors
import signal
import socket
import threading
import time

import support
from madang import POLL_ERR, POLL_HUP, POLL_IN, POLL_OUT, WAIT_MAX, OwnerDead, Ring, wait_any


class Waits(support.Case):
    def make(self, capacity=4, kind=0):
        ring = Ring(None, capacity, 4, kind=kind)
        self.addCleanup(ring.close)
        return ring

    def assert_cancelled(self, call, *arguments):
        with self.assertRaises(OSError) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.errno, errno.ECANCELED)

    def test_asyncio(self):
        rings = [self.make(kind=kind) for kind in (1, 2, 1)]
        got = [[] for _ in rings]

        def child():
            for i in range(300):
                rings[i % 3].push(b"%04d" % i)
            for ring in rings:
                ring.shutdown()

        async def main():
            loop = asyncio.get_running_loop()
            ended = [loop.create_future() for _ in rings]

            def serve(ring, items, end):
                try:
                    while True:
                        items.append(int(ring.pop(0)))
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    loop.remove_reader(ring.poll_fd())
                    end.set_result(None)

            for ring, items, end in zip(rings, got, ended):
                loop.add_reader(ring.poll_fd(), serve, ring, items, end)
            pid = self.fork(child)
            await asyncio.wait_for(asyncio.gather(*ended), support.PATIENCE)
            self.reap(pid)

        asyncio.run(main())
        self.assertEqual(got, [list(range(i, 300, 3)) for i in range(3)])

    def test_selectors(self):
        ring = self.make(1)
        with selectors.DefaultSelector() as selector:
            selector.register(ring.poll_fd(POLL_IN), selectors.EVENT_READ)
            self.assertTrue(selector.select(0))
            self.assertRaises(BlockingIOError, ring.pop, 0)
            self.assertFalse(selector.select(0))
            ring.push(b"item")
            self.assertTrue(selector.select(0))
            self.assertEqual(ring.pop(0), b"item")
            self.assertRaises(BlockingIOError, ring.pop, 0)
            self.assertEqual(ring.poll_fd(POLL_OUT), ring.poll_fd(POLL_OUT))
            ring.push(b"item")
            self.assertRaises(BlockingIOError, ring.push, b"more", 0)
            self.assertFalse(selector.select(0))
            ring.pop()
            self.assertTrue(selector.select(support.PATIENCE))
        self.assertRaises(ValueError, ring.poll_fd, -1)
        with self.assertRaises(OSError) as caught:
            ring.poll_fd(2)
        self.assertEqual(caught.exception.errno, errno.EINVAL)

    def test_wait_any(self):
        a, b = self.make(1), self.make(1, kind=2)
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        entries = [(a, POLL_IN), (b, POLL_IN), (one, POLL_IN)]
        self.assertRaises(BlockingIOError, wait_any, entries, 0)
        self.assertRaises(TimeoutError, wait_any, entries, 0.02)
        self.assertEqual(wait_any(entries + [(a, POLL_OUT)]), [(a, POLL_OUT)])
        pid = self.fork(lambda: b.push(b"item"))
        self.assertEqual(wait_any(entries, support.PATIENCE), [(b, POLL_IN)])
        self.reap(pid)
        other.send(b"x")
        self.assertEqual(wait_any(entries), [(b, POLL_IN), (one, POLL_IN)])
        self.assertEqual(wait_any([(one.fileno(), POLL_IN | POLL_OUT)])[0][1], POLL_IN | POLL_OUT)
        a.shutdown()
        self.assertEqual(wait_any([(a, POLL_IN)]), [(a, POLL_IN | POLL_HUP)])
        self.assertEqual(POLL_ERR & (POLL_IN | POLL_OUT | POLL_HUP), 0)
        for bad in ([], [(b, POLL_IN)] * (WAIT_MAX + 1), [(-1, POLL_IN)]):
            self.assertRaises(ValueError, wait_any, bad)
        b.close()
        self.assertRaises(ValueError, wait_any, entries)

    def test_a_death_is_found(self):
        ring = self.make(kind=2)
        pid = self.fork(lambda: (ring.push(b"item"), os.kill(os.getpid(), signal.SIGKILL)))
        self.reap(pid, signal.SIGKILL)
        self.assertEqual(wait_any([(ring, POLL_IN)]), [(ring, POLL_IN)])
        ring.pop()
        self.assertEqual(wait_any([(ring, POLL_IN)], support.PATIENCE), [(ring, POLL_HUP)])
        self.assertRaises(OwnerDead, ring.pop)

    def test_ctrl_c(self):
        ring = self.make()
        self.assert_interrupted(lambda: wait_any([(ring, POLL_IN)]))
        self.assert_goes_on(lambda timeout: wait_any([(ring, POLL_IN)], timeout))

    def test_cancel(self):
        ring = self.make()
        ring.cancel()
        self.assertRaises(BlockingIOError, ring.pop, 0)
        self.assert_cancelled(ring.pop)
        for wait in (ring.pop, lambda: wait_any([(ring, POLL_IN)])):
            timer = threading.Timer(0.05, ring.cancel)
            timer.start()
            self.assert_cancelled(wait)
            timer.join()
        self.assertRaises(TimeoutError, ring.pop, 0.01)

    def test_a_signal_handler_cancels(self):
        ring = self.make()
        with support.handler(signal.SIGALRM, lambda *_: ring.cancel()):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            begin = time.monotonic()
            self.assert_cancelled(ring.pop, support.PATIENCE)
            self.assertLess(time.monotonic() - begin, support.PATIENCE)

    def test_one_thread_at_a_time(self):
        ring = self.make()
        inside = threading.Thread(target=lambda: self.assert_cancelled(wait_any, [(ring, POLL_IN)]))
        inside.start()
        while not ring._busy.locked():
            time.sleep(0.001)
        try:
            # Between two slices of the wait it is free for a moment.
            self.assertRaises(RuntimeError, ring.pop, 0)
        finally:
            ring.cancel()
            inside.join()
