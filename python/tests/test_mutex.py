import errno
import os
import signal
import time

import support
from madang import Cond, Mutex, OwnerDead, Shm
from madang._check import SLICE_NS

CREATE = os.O_CREAT | os.O_EXCL


class Mutexes(support.Case):
    def make(self):
        name = self.name(Mutex.unlink)
        mutex = Mutex(name, CREATE)
        self.addCleanup(mutex.close)
        return name, mutex

    def die_with_it(self, name):
        def body():
            mutex = Mutex(name)
            try:
                mutex.lock(0)
            except OwnerDead:
                pass
            os.kill(os.getpid(), signal.SIGKILL)

        self.reap(self.fork(body), signal.SIGKILL)

    def test_locking(self):
        name, mutex = self.make()
        with mutex:
            self.assertFalse(mutex.owner_died)
            with self.assertRaises(OSError) as caught:
                Mutex(name).lock(0)
            self.assertEqual(caught.exception.errno, errno.EDEADLK)

            def other():
                mine = Mutex(name)
                self.assertRaises(BlockingIOError, mine.lock, 0)
                self.assertRaises(TimeoutError, mine.lock, 0.02)

            self.reap(self.fork(other))
        self.assertRaises(PermissionError, mutex.unlock)

    def test_a_death_is_told(self):
        name, mutex = self.make()
        self.die_with_it(name)
        self.assertRaises(OwnerDead, mutex.lock, support.PATIENCE)
        mutex.consistent()
        mutex.unlock()
        self.die_with_it(name)
        with mutex:
            self.assertTrue(mutex.owner_died)
        with mutex:
            self.assertFalse(mutex.owner_died)
        self.die_with_it(name)
        with self.assertRaises(KeyError):
            with mutex:
                raise KeyError
        with self.assertRaises(OSError) as caught:
            mutex.lock(0)
        self.assertEqual(caught.exception.errno, errno.ENOTRECOVERABLE)

    def test_condition(self):
        with Shm.anonymous(4096) as shm:
            mutex = Mutex.from_buffer(shm.buf, create=True)
            cond = Cond.from_buffer(shm.buf, 128, create=True)

            def child():
                mine, same = Mutex.from_buffer(shm.buf), Cond.from_buffer(shm.buf, 128)
                for number in range(1, 101):
                    with mine:
                        shm.buf[256] = number
                        same.signal()
                        assert same.wait_for(mine, lambda: shm.buf[256] == 0, support.PATIENCE)

            pid = self.fork(child)
            for number in range(1, 101):
                with mutex:
                    there = cond.wait_for(mutex, lambda: shm.buf[256], support.PATIENCE)
                    self.assertTrue(there)
                    self.assertEqual(shm.buf[256], number)
                    shm.buf[256] = 0
                    cond.broadcast()
            self.reap(pid)
            with mutex:
                self.assertRaises(TimeoutError, cond.wait, mutex, 0.02)
                self.assertFalse(cond.wait_for(mutex, lambda: False, 0.02))
            mutex.close()
            cond.close()

    def test_a_signal_between_two_sleeps_is_not_missed(self):
        # The sleep ends by itself while the other process has the mutex; that one changes what is
        # waited for, signals, and only then lets go. Nobody signals again.
        with Shm.anonymous(4096) as shm:
            mutex = Mutex.from_buffer(shm.buf, create=True)
            cond = Cond.from_buffer(shm.buf, 128, create=True)

            def child():
                mine, same = Mutex.from_buffer(shm.buf), Cond.from_buffer(shm.buf, 128)
                mine.lock(support.PATIENCE)  # when the parent sleeps
                end = time.monotonic() + 3 * SLICE_NS / 1e9
                while time.monotonic() < end:
                    os.sched_yield()
                shm.buf[256] = 1
                same.signal()
                mine.unlock()

            mutex.lock()
            pid = self.fork(child)
            self.assertTrue(cond.wait_for(mutex, lambda: shm.buf[256], support.PATIENCE))
            mutex.unlock()
            self.reap(pid)
            mutex.lock()
            begin = time.monotonic()
            cond.wait(mutex)  # returns by itself, for its caller to look
            self.assertLess(time.monotonic() - begin, support.PATIENCE)
            self.assert_interrupted(lambda: cond.wait_for(mutex, lambda: False))
            mutex.unlock()
            mutex.close()
            cond.close()

    def test_names_and_closing(self):
        name, mutex = self.make()
        self.assertRaises(FileExistsError, Mutex, name, CREATE)
        self.assertRaises(FileNotFoundError, Cond, name)
        with Shm.anonymous(4096) as shm:
            for kind in (Mutex, Cond):
                with self.assertRaises(OSError) as caught:
                    kind.from_buffer(shm.buf)
                self.assertEqual(caught.exception.errno, errno.EPROTO)
        same = self.name(Cond.unlink)
        cond, other = Cond(same, CREATE), Cond(same)
        self.assertEqual(other.name, same)
        cond.signal()
        Cond.unlink(same)
        self.assertRaises(FileNotFoundError, Cond, same)
        cond.close()
        other.close()
        self.assertRaises(ValueError, cond.signal)
        mutex.close()
        mutex.close()
        self.assertRaises(ValueError, mutex.lock)

    def test_ctrl_c(self):
        name, mutex = self.make()
        ready, go = os.pipe(), os.pipe()

        def holder():
            mine = Mutex(name)
            mine.lock(0)
            os.write(ready[1], b"x")
            os.read(go[0], 1)

        pid = self.fork(holder)
        os.read(ready[0], 1)
        self.assert_interrupted(mutex.lock)
        os.write(go[1], b"x")
        self.reap(pid)
