import ctypes
import errno
import gc
import hashlib
import os
import signal
import threading

import support
from madang import OwnerDead, Ring, RingEnd, RingKind, RingPolicy, RingStart

CREATE = os.O_CREAT | os.O_EXCL


class Rings(support.Case):
    def make(self, capacity=8, item_size=4):
        """The two ends of a new ring, and its name."""
        name = self.name(Ring.unlink)
        producer = Ring(name, capacity, item_size, CREATE | os.O_WRONLY)
        self.addCleanup(producer.close)
        consumer = Ring(name, flags=os.O_RDONLY)
        self.addCleanup(consumer.close)
        return producer, consumer, name

    def test_items_come_out_as_they_went_in(self):
        producer, consumer, name = self.make()
        self.assertEqual((consumer.capacity, consumer.item_size, consumer.name), (8, 4, name))
        for i in range(8):
            producer.push(b"%04d" % i, 0)
        self.assertRaises(BlockingIOError, producer.push, b"full", 0)
        self.assertRaises(TimeoutError, producer.push, b"full", 0.02)
        self.assertEqual([consumer.pop(0) for _ in range(8)], [b"%04d" % i for i in range(8)])
        self.assertRaises(BlockingIOError, consumer.pop, 0)
        self.assertRaises(TimeoutError, consumer.pop, 0.02)

    def broadcast(self, policy, **options):
        name = self.name(Ring.unlink)
        producer = Ring(
            name, 4, 4, CREATE | os.O_WRONLY, kind=RingKind.BROADCAST, policy=policy, **options
        )
        self.addCleanup(producer.close)
        return producer, name

    def lost(self, call, count):
        with self.assertRaises(OSError) as caught:
            call()
        self.assertEqual(caught.exception.errno, errno.EOVERFLOW)
        self.assertIn("%d items" % count, str(caught.exception))

    def test_broadcast(self):
        producer, name = self.broadcast(0)
        first, second = (Ring(name, flags=os.O_RDONLY) for _ in range(2))
        with first, second:
            for i in range(4):
                producer.push(b"%04d" % i, 0)
            self.assertRaises(BlockingIOError, producer.push, b"full", 0)
            with Ring(name, flags=os.O_RDONLY, start=RingStart.OLDEST) as late:
                for ring in (first, second, late):
                    self.assertEqual(ring.pop_many(9, 0), b"0000000100020003")
                    self.assertEqual(ring.lost(), 0)
            stats = producer.stat()
            self.assertEqual((stats.kind, stats.policy), (RingKind.BROADCAST, RingPolicy(0)))
            self.assertEqual((stats.written, stats.read, stats.lost, stats.pending), (4, 4, 0, 0))
        self.assertRaises(OSError, Ring, None, 4, 4, start=RingStart.OLDEST)
        self.assertRaises(OSError, Ring, name, flags=os.O_RDONLY, start=3)

    def test_newest_only(self):
        producer, name = self.broadcast(RingPolicy.OVERWRITE)
        fd = producer.memory_readonly()
        self.addCleanup(os.close, fd)
        self.assertRaises(OSError, os.write, fd, b"x")
        with Ring.from_fd(fd, os.O_RDONLY) as subscriber:
            producer.push(b"1234", 0)
            self.assertEqual(subscriber.pop(0), b"1234")
        self.assertRaises(PermissionError, Ring.from_fd, fd)
        for i in range(9):
            producer.push(b"%04d" % i, 0)
        with Ring(name, flags=os.O_RDONLY, start=RingStart.LATEST) as late:
            self.assertEqual(late.pop(0), b"0008")
            for i in range(3):
                producer.push(b"%04d" % i, 0)
            self.assertEqual((late.skip(), late.skip(), late.lost()), (2, 0, 0))
            self.assertEqual(late.pop(0), b"0002")
            self.assertRaises(TypeError, late.skip, "1")

    def test_broadcast_that_loses(self):
        for policy in (RingPolicy.OVERWRITE, RingPolicy.EVICT):
            producer, name = self.broadcast(policy)
            with Ring(name, flags=os.O_RDONLY) as consumer:
                for i in range(5):
                    producer.push(b"%04d" % i, 0)
                self.lost(lambda: consumer.pop(0), 1)
                self.assertEqual(consumer.lost(), 1)
                self.assertEqual(consumer.pop(0), b"0001")
                consumer.peek(1, 0)
                producer.push(b"0005")
                producer.push(b"0006")
                self.lost(consumer.release, 1)
                self.assertEqual(consumer.lost(), 2)
                self.assertEqual(consumer.pop_many(9, 0), b"0003000400050006")
                stats = producer.stat()
                self.assertEqual(stats.policy, policy)
                self.assertEqual(stats.written, stats.read + stats.dropped + stats.length)

    def test_redelivery(self):
        options = dict(kind=RingKind.MPMC, policy=RingPolicy.REDELIVER)
        with Ring(None, 4, 4, **options) as ring:
            for item in (b"0000", b"0001"):
                ring.push(item)
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(write, bytes(ring.peek()[:4]))
                signal.pause()
            os.close(write)
            self.assertEqual(os.read(read, 4), b"0000")
            os.close(read)
            self.assertEqual(ring.pop(0), b"0001")
            self.assertRaises(BlockingIOError, ring.pop, 0)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ring.shutdown()
            self.assertEqual(ring.pop(10), b"0000")
            stats = ring.stat()
            self.assertEqual((stats.read, stats.lost, stats.redelivered), (2, 0, 1))
            self.assertEqual(stats.policy, RingPolicy.REDELIVER)
        self.assertRaises(OSError, Ring, None, 4, 4, kind=RingKind.BROADCAST, policy=0x10)

    def test_item_length(self):
        producer, _, _ = self.make()
        self.assertRaises(ValueError, producer.push, b"abc")
        self.assertRaises(ValueError, producer.push, b"abcde")
        self.assertRaises(ValueError, producer.push_many, b"abcde")
        self.assertRaises(TypeError, producer.push, "abcd")

    def test_zero_bytes_stay(self):
        producer, consumer, _ = self.make()
        producer.push(b"\0\0\0\0")
        producer.push(b"a\0\0\0")
        self.assertEqual((consumer.pop(), consumer.pop()), (b"\0\0\0\0", b"a\0\0\0"))

    def test_many(self):
        producer, consumer, _ = self.make()
        data = os.urandom(40)
        self.assertEqual(producer.push_many(memoryview(data)), 8)
        self.assertRaises(BlockingIOError, producer.push_many, data, 0)
        self.assertEqual(consumer.pop_many(3), data[:12])
        self.assertEqual(consumer.pop_many(1 << 40), data[12:32])
        self.assertEqual(producer.push_many(bytearray(data[32:])), 2)
        self.assertEqual(producer.push_many(b""), 0)
        self.assertEqual(consumer.pop_many(0), b"")
        self.assertEqual(consumer.pop_many(8), data[32:])
        self.assertRaises(TimeoutError, consumer.pop_many, 1, 0.01)

    def test_in_place(self):
        producer, consumer, _ = self.make()
        room = producer.reserve(2)
        self.assertEqual(len(room), 8)
        room[:] = b"abcdefgh"
        producer.commit()
        with self.assertRaises(ValueError):
            room[0] = 1
        items = consumer.peek(8, support.PATIENCE)
        self.assertTrue(items.readonly)
        self.assertEqual(bytes(items), b"abcdefgh")
        consumer.release(1)
        with self.assertRaises(ValueError):
            items[0]
        self.assertEqual(bytes(consumer.peek()), b"efgh")
        consumer.release(0)
        items = consumer.peek()
        with self.assertRaises(OSError) as caught:
            consumer.peek()
        self.assertEqual(caught.exception.errno, errno.EINVAL)
        self.assertEqual(bytes(items), b"efgh", "given back and refused: still there")
        consumer.release()
        self.assertRaises(BlockingIOError, consumer.peek, 1, 0)

    def test_a_part_of_what_was_reserved(self):
        producer, consumer, _ = self.make()
        producer.reserve(4)[:4] = b"only"
        producer.commit(1)
        self.assertEqual(consumer.pop_many(8), b"only")
        producer.reserve(4)
        producer.commit(0)
        self.assertRaises(BlockingIOError, consumer.pop, 0)

    def test_what_is_built_on_a_view_outlives_the_ring(self):
        producer, consumer, _ = self.make()
        array = (ctypes.c_char * 4).from_buffer(producer.reserve(1))
        array.raw = b"kept"
        producer.commit()
        self.assertEqual(consumer.pop(0), b"kept")
        producer.close()
        gc.collect()
        self.assertEqual(array.raw, b"kept")

    def test_a_slice_of_a_view_outlives_the_ring(self):
        producer, consumer, _ = self.make()
        producer.push(b"abcd")
        part = consumer.peek()[1:3]
        consumer.close()
        gc.collect()
        self.assertEqual(bytes(part), b"bc")

    def test_shutdown_ends_the_stream(self):
        producer, consumer, _ = self.make()
        producer.push(b"last")
        producer.shutdown()
        producer.shutdown()
        self.assertRaises(BrokenPipeError, producer.push, b"more", 0)
        self.assertEqual(list(consumer), [b"last"])
        self.assertRaises(BrokenPipeError, consumer.pop)
        self.assertTrue(consumer.stat().is_shutdown)

    def test_stat(self):
        producer, consumer, name = self.make(capacity=5)
        producer.push_many(b"abcd" * 3)
        consumer.pop()
        stats = consumer.stat()
        self.assertEqual((stats.capacity, stats.item_size), (8, 4))
        self.assertEqual((stats.length, stats.written, stats.read), (2, 3, 1))
        self.assertEqual((stats.producer_pid, stats.consumer_pid), (os.getpid(), os.getpid()))
        self.assertEqual(stats.producer_state, RingEnd.LIVE)
        self.assertFalse(stats.is_shutdown or stats.is_unlinked or stats.is_corrupt)
        Ring.unlink(name)
        self.assertTrue(consumer.stat().is_unlinked)
        producer.close()
        self.assertEqual(consumer.stat().producer_state, RingEnd.CLOSED)

    def test_ends(self):
        producer, consumer, name = self.make()
        self.assertRaises(PermissionError, producer.pop, 0)
        self.assertRaises(PermissionError, consumer.push, b"abcd", 0)
        with self.assertRaises(OSError) as caught:
            Ring(name, flags=os.O_WRONLY)
        self.assertEqual(caught.exception.errno, errno.EBUSY)
        self.assertIn(str(os.getpid()), str(caught.exception))

    def test_errors(self):
        _, _, name = self.make()
        self.assertRaises(FileExistsError, Ring, name, 8, 4, CREATE | os.O_RDWR)
        self.assertRaises(FileNotFoundError, Ring, self.name())
        self.assertRaises(FileNotFoundError, Ring.unlink, self.name())
        self.assertRaises(ValueError, Ring, name, -8)
        self.assertRaises(OverflowError, Ring, name, 8, 1 << 32)
        with self.assertRaises(OSError) as caught:
            Ring(name, item_size=8)
        self.assertEqual(caught.exception.errno, errno.EPROTO)
        with self.assertRaises(OSError) as caught:
            Ring(self.name(), flags=os.O_CREAT | os.O_RDWR)
        self.assertEqual(caught.exception.errno, errno.EINVAL)

    def test_closing(self):
        producer, consumer, _ = self.make()
        producer.close()
        producer.close()
        for use in (producer.stat, producer.shutdown, producer.reserve, producer.__enter__):
            self.assertRaises(ValueError, use)
        self.assertRaises(ValueError, producer.push, b"abcd")
        self.assertRaises(ValueError, producer.push_many, b"abcd")
        self.assertRaises(ValueError, consumer.push_many, b"abc")
        self.assertIn("closed", repr(producer))

    def test_a_forgotten_end_is_given_up(self):
        name = self.name(Ring.unlink)
        with Ring(name, 8, 4, CREATE | os.O_RDONLY) as consumer:
            producer = Ring(name, flags=os.O_WRONLY)
            self.assertEqual(consumer.stat().producer_state, RingEnd.LIVE)
            del producer
            gc.collect()
            self.assertEqual(consumer.stat().producer_state, RingEnd.CLOSED)

    def test_two_threads_need_two_objects(self):
        ring = Ring(None, 4, 8)
        self.addCleanup(ring.close)
        got = []
        other = ring.dup(os.O_RDONLY)
        self.addCleanup(other.close)
        thread = threading.Thread(target=lambda: got.extend(other))
        thread.start()
        for i in range(1000):
            ring.push(b"%08d" % i, support.PATIENCE)
        ring.shutdown()
        thread.join()
        self.assertEqual(got, [b"%08d" % i for i in range(1000)])

    def test_a_thread_may_shut_down_what_another_waits_for(self):
        producer, consumer, _ = self.make()
        thread = threading.Thread(target=consumer.shutdown)
        thread.start()
        self.assertRaises(BrokenPipeError, consumer.pop, support.PATIENCE)
        thread.join()

    def test_one_object_in_two_threads_is_refused(self):
        _, consumer, _ = self.make()
        self.assertTrue(consumer._busy.acquire(False))
        try:
            self.assertRaises(RuntimeError, consumer.pop, 0)
        finally:
            consumer._busy.release()
        self.assertRaises(BlockingIOError, consumer.pop, 0)

    def test_fork(self):
        ring = Ring(None, 16, 8)
        self.addCleanup(ring.close)

        def child():
            for i in range(1000):
                ring.push(b"%08d" % i, support.PATIENCE)
            ring.shutdown()
            ring.close()

        pid = self.fork(child)
        self.assertEqual(list(ring), [b"%08d" % i for i in range(1000)])
        self.reap(pid)

    def test_a_dead_producer(self):
        name = self.name(Ring.unlink)
        ring = Ring(name, 8, 4, CREATE | os.O_RDONLY)
        self.addCleanup(ring.close)

        def child():
            producer = Ring(name, flags=os.O_WRONLY)
            producer.push_many(b"onetwo__")
            os.kill(os.getpid(), signal.SIGKILL)

        pid = self.fork(child)
        self.assertEqual(ring.pop(support.PATIENCE), b"onet")
        self.assertEqual(ring.pop(support.PATIENCE), b"wo__")
        self.reap(pid, signal.SIGKILL)
        with self.assertRaises(OwnerDead) as caught:
            ring.pop(support.PATIENCE)
        self.assertEqual(caught.exception.errno, errno.EOWNERDEAD)
        self.assertEqual(ring.stat().producer_state, RingEnd.DEAD)
        with Ring(name, flags=os.O_WRONLY) as successor:
            successor.push(b"next")
            self.assertEqual(ring.pop(support.PATIENCE), b"next")

    def test_an_orderly_exit_is_not_a_death(self):
        name = self.name(Ring.unlink)
        with Ring(name, 8, 4, CREATE | os.O_RDONLY) as ring:
            code = "import madang, os; r = madang.Ring(%r, flags=os.O_WRONLY); r.push(b'abcd')"
            support.run_python(code % name)
            self.assertEqual(ring.pop(support.PATIENCE), b"abcd")
            self.assertEqual(ring.stat().producer_state, RingEnd.CLOSED)

    def test_ctrl_c(self):
        producer, consumer, _ = self.make()
        self.assert_interrupted(consumer.pop)
        self.assert_interrupted(lambda: consumer.peek(1, 30))
        producer.push_many(b"full" * 8)
        self.assert_interrupted(lambda: producer.push(b"more"))

    def test_a_handler_that_returns(self):
        _, consumer, _ = self.make()
        self.assert_goes_on(consumer.pop)

    def test_a_handler_may_use_the_ring(self):
        producer, consumer, _ = self.make()
        with support.handler(signal.SIGALRM, lambda *_: producer.shutdown()):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            self.assertRaises(BrokenPipeError, consumer.pop, support.PATIENCE)


class WithC(support.Case):
    ITEM = 64
    DATA = os.urandom(ITEM * 100_000)

    def assert_same(self, data):
        self.assertEqual(len(data), len(self.DATA))
        self.assertEqual(hashlib.sha256(data).digest(), hashlib.sha256(self.DATA).digest())

    def test_python_to_c(self):
        name = self.name(Ring.unlink)
        with Ring(name, 1000, self.ITEM, os.O_CREAT | os.O_WRONLY) as ring:
            peer = self.peer("receive", name, 1000, self.ITEM)
            receiver = threading.Thread(target=lambda: got.append(self.finish(peer)))
            got = []
            receiver.start()
            rest = memoryview(self.DATA)
            while rest:
                rest = rest[ring.push_many(rest, support.PATIENCE) * self.ITEM :]
            ring.shutdown()
            receiver.join()
        self.assert_same(got[0])

    def test_c_to_python(self):
        name = self.name(Ring.unlink)
        with Ring(name, 1000, self.ITEM, os.O_CREAT | os.O_RDONLY) as ring:
            peer = self.peer("send", name, 1000, self.ITEM)
            sender = threading.Thread(target=self.finish, args=(peer, self.DATA))
            sender.start()
            parts = []
            while True:
                try:
                    parts.append(ring.pop_many(512, support.PATIENCE))
                except BrokenPipeError:
                    break
            sender.join()
        self.assert_same(b"".join(parts))

    def test_item_by_item(self):
        name = self.name(Ring.unlink)
        with Ring(name, 100, self.ITEM, os.O_CREAT | os.O_RDONLY) as ring:
            peer = self.peer("send", name, 100, self.ITEM)
            sender = threading.Thread(target=self.finish, args=(peer, self.DATA))
            sender.start()
            data = b"".join(ring)
            sender.join()
        self.assert_same(data)
