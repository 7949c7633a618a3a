"""Rings and semaphores in segments, rings by descriptor, descriptors on their way, memory that was cut off."""

import errno
import os
import signal
import socket

import support
import madang
from madang import SEALED, OwnerDead, Ring, RingEnd, RingKind, RingPolicy, Semaphore, Shm, fd

CREATE = os.O_CREAT | os.O_EXCL | os.O_RDWR
KINDS = [
    (RingKind.SPSC, 0),
    (RingKind.MPMC, 0),
    (RingKind.MPMC, RingPolicy.STOPPROOF),
    (RingKind.BROADCAST, 0),
    (RingKind.BROADCAST, RingPolicy.OVERWRITE),
]


class Case(support.Case):
    def refused(self, code, call, *arguments, **options):
        with self.assertRaises(OSError) as caught:
            call(*arguments, **options)
        self.assertEqual(caught.exception.errno, code)

    def drained(self, ring):
        items = []
        with self.assertRaises(BrokenPipeError):
            while True:
                items.append(int(ring.pop(support.PATIENCE)))
        return items


class InSegments(Case):
    def test_many_share_one(self):
        sizes = [Ring.footprint(64, 4, kind=kind, policy=policy) for kind, policy in KINDS]
        self.assertTrue(all(size % 4096 == 0 for size in sizes))
        name = self.name(Shm.unlink)
        shm = Shm(name, sum(sizes), CREATE)
        self.addCleanup(shm.close)
        offsets = [sum(sizes[:i]) for i in range(len(KINDS))]
        rings = []
        for (kind, policy), offset in zip(KINDS, offsets):
            ring = Ring.init(shm, offset, 64, 4, os.O_RDONLY, kind=kind, policy=policy)
            self.addCleanup(ring.close)
            rings.append(ring)

        def child():
            mine = Shm(name)
            for (kind, policy), offset in zip(KINDS, offsets):
                ring = Ring.attach(mine, offset, os.O_WRONLY, capacity=64, kind=kind)
                for i in range(50):
                    ring.push(b"%04d" % i, support.PATIENCE)
                ring.shutdown()
                ring.close()

        self.reap(self.fork(child))
        for ring, (kind, policy) in zip(rings, KINDS):
            self.assertEqual((ring.stat().kind, ring.stat().policy), (kind, policy))
            self.assertEqual((ring.name, ring.capacity, ring.item_size), (None, 64, 4))
            self.assertEqual(self.drained(ring), list(range(50)))

    def test_a_death_in_a_segment(self):
        with Shm.anonymous(Ring.footprint(8, 4)) as shm:
            ring = Ring.init(shm, 0, 8, 4, os.O_RDONLY)
            self.addCleanup(ring.close)

            def child():
                producer = Ring.attach(shm, flags=os.O_WRONLY)
                producer.push(b"last")
                os.kill(os.getpid(), signal.SIGKILL)

            self.reap(self.fork(child), signal.SIGKILL)
        # The ring outlives the object that it was made with.
        self.assertEqual(ring.pop(support.PATIENCE), b"last")
        self.assertRaises(OwnerDead, ring.pop, support.PATIENCE)
        self.assertEqual(ring.stat().producer_state, RingEnd.DEAD)

    def test_refusals(self):
        size = Ring.footprint(8, 4)
        with Shm.anonymous(2 * size) as shm:
            self.refused(errno.EPROTO, Ring.attach, shm)
            self.refused(errno.EINVAL, Ring.init, shm, 100, 8, 4)
            self.refused(errno.ENOSPC, Ring.init, shm, 2 * size, 8, 4)
            self.refused(errno.EINVAL, Ring.footprint, 8, 0)
            self.refused(errno.EOVERFLOW, Ring.footprint, 1 << 62, 1 << 20)
            self.assertRaises(ValueError, Ring.attach, shm, -4096)
            with Ring.init(shm, size, 8, 4) as ring:
                self.refused(errno.EBUSY, Ring.init, shm, size, 8, 4)
                self.refused(errno.EPROTO, Ring.attach, shm, size, item_size=8)
                self.refused(errno.EINVAL, ring.memory)
        self.assertRaises(ValueError, Ring.attach, shm)


class SemaphoresInSegments(Case):
    def test_a_death_gives_back(self):
        size = Semaphore.footprint()
        self.assertEqual(size % 4096, 0)
        with Shm.anonymous(2 * size + Ring.footprint(8, 4)) as shm:
            ring = Ring.init(shm, 2 * size, 8, 4, os.O_RDONLY)
            self.addCleanup(ring.close)
            first = Semaphore.init(shm, 0, 1, tell=True)
            self.addCleanup(first.close)
            second = Semaphore.init(shm, size, 1)
            self.addCleanup(second.close)

            def child():
                mine = Semaphore.attach(shm)
                mine.wait(0)
                second.wait(0)
                with Ring.attach(shm, 2 * size, os.O_WRONLY) as end:
                    end.push(b"held")
                os.kill(os.getpid(), signal.SIGKILL)

            pid = self.fork(child)
            self.reap(pid, signal.SIGKILL)
        self.assertEqual([one[1:] for one in first.holders()], [(1, False)])
        self.assertRaises(OwnerDead, first.wait, support.PATIENCE)
        self.assertEqual(first.holders(), [(os.getpid(), 1, True)])
        self.assertTrue(second.acquire(timeout=support.PATIENCE))
        self.assertFalse(second.acquire(timeout=0.02))
        self.assertEqual(ring.pop(support.PATIENCE), b"held")
        self.assertEqual(first.name, None)

    def test_refusals(self):
        size = Semaphore.footprint(3)
        with Shm.anonymous(size) as shm:
            self.refused(errno.EPROTO, Semaphore.attach, shm)
            self.refused(errno.EINVAL, Semaphore.init, shm, 8)
            self.refused(errno.ENOSPC, Semaphore.init, shm, size)
            self.refused(errno.EINVAL, Semaphore.footprint, 4097)
            self.assertRaises(ValueError, Semaphore.init, shm, -4096)
            with Semaphore.init(shm, 0, 2, max_handles=3):
                self.refused(errno.EBUSY, Semaphore.init, shm, 0, max_handles=3)
                self.refused(errno.EPROTO, Semaphore.attach, shm, max_handles=4)
                self.refused(errno.EPROTO, Ring.attach, shm)


class Descriptors(Case):
    def pair(self):
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in ends:
            self.addCleanup(end.close)
        return ends

    def test_a_ring_reaches_a_stranger(self):
        for kind, policy in KINDS:
            here, there = self.pair()

            def child():
                # Made after the fork: the parent knows nothing of it.
                ring = Ring(None, 64, 4, kind=kind, policy=policy)
                fd.send(there, ring.memory(), support.PATIENCE)
                there.recv(1)
                for i in range(50):
                    ring.push(b"%04d" % i, support.PATIENCE)
                ring.shutdown()
                ring.close()

            pid = self.fork(child)
            number, peer = fd.receive(here, support.PATIENCE)
            self.assertEqual((peer.uid, peer.gid), (os.geteuid(), os.getegid()))
            self.assertEqual(peer.pid, os.getpid(), "who made the pair of sockets")
            self.assertFalse(os.get_inheritable(number))
            with Ring.from_fd(number, os.O_RDONLY | SEALED, item_size=4, kind=kind) as ring:
                os.close(number)
                here.send(b"x")
                self.assertEqual(self.drained(ring), list(range(50)))
                self.assertEqual(ring.stat().policy, policy)
            self.reap(pid)

    def test_a_connected_peer_is_known(self):
        with socket.socket(socket.AF_UNIX) as listener:
            address = "\0mdgpy-%d" % os.getpid()
            listener.bind(address)
            listener.listen(1)

            def child():
                with socket.socket(socket.AF_UNIX) as mine, Shm.anonymous(4096) as shm:
                    mine.connect(address)
                    shm.buf[:5] = b"hello"
                    fd.send(mine, shm)

            pid = self.fork(child)
            connection, _ = listener.accept()
            with connection:
                number, peer = fd.receive(connection, support.PATIENCE)
                self.assertEqual(peer, fd.Peer(pid, os.geteuid(), os.getegid()))
                with Shm.from_fd(number, os.O_RDONLY | SEALED) as shm:
                    os.close(number)
                    self.assertEqual(bytes(shm.buf[:5]), b"hello")
                self.reap(pid)
                self.assertRaises(BrokenPipeError, fd.receive, connection, support.PATIENCE)
                self.assertRaises(BrokenPipeError, fd.send, connection, 0)

    def test_waits_end(self):
        here, there = self.pair()
        self.assertRaises(BlockingIOError, fd.receive, here, 0)
        self.assertRaises(TimeoutError, fd.receive, here, 0.02)
        self.assert_interrupted(lambda: fd.receive(here))
        self.assert_goes_on(lambda timeout: fd.receive(here, timeout))
        there.send(b"no descriptor")
        self.refused(errno.EPROTO, fd.receive, here)

    def test_refusals(self):
        here, _ = self.pair()
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        self.refused(errno.EPROTO, fd.send, write, here)
        self.refused(errno.EPROTO, Ring.from_fd, read)
        self.refused(errno.EPROTO, Ring.from_fd, Shm.anonymous(4096))
        self.assertRaises(ValueError, fd.send, -1, here)
        self.assertRaises(AttributeError, fd.send, here, "text")
        name = self.name(Ring.unlink)
        with Ring(name, 8, 4, CREATE) as ring:
            self.refused(errno.EPROTO, Ring.from_fd, ring.memory(), os.O_RDWR | SEALED)
            with Ring.from_fd(ring.memory(), os.O_WRONLY) as other:
                other.push(b"same")
            self.assertEqual(ring.pop(0), b"same")


class CutOff(Case):
    def test_with_the_guard_it_reads_as_zeros(self):
        name, ring_name = self.name(Shm.unlink), self.name(Ring.unlink)

        def body():
            madang.sigbus_guard()
            madang.sigbus_guard()
            shm = Shm(name, 8192, CREATE)
            shm.buf[5000] = 7
            assert shm.is_intact
            os.truncate(shm.fileno(), 4096)
            assert shm.buf[5000] == 0
            assert not shm.is_intact
            ring = Ring(ring_name, 4096, 64, CREATE)
            os.truncate(ring.memory(), 4096)
            try:
                for _ in range(4096):
                    ring.push(bytes(64), 0)
            except OSError as error:
                assert error.errno == errno.EBADMSG, error
            else:
                raise AssertionError("a ring that was cut off is none")
            shm.close()
            self.assertRaises(ValueError, lambda: shm.is_intact)

        self.reap(self.fork(body))  # in a child: the handler stays

    def test_without_it_that_is_death(self):
        name = self.name(Shm.unlink)

        def body():
            shm = Shm(name, 8192, CREATE)
            os.truncate(shm.fileno(), 4096)
            shm.buf[5000]  # no return

        _, status = os.waitpid(self.fork(body), 0)
        self.assertTrue(os.WIFSIGNALED(status))
        self.assertEqual(os.WTERMSIG(status), signal.SIGBUS)
