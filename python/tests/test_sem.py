import gc
import os
import signal
import threading
import time

import support
from madang import OwnerDead, Semaphore, Shm

CREATE = os.O_CREAT | os.O_EXCL


class Semaphores(support.Case):
    def make(self, value=0):
        name = self.name(Semaphore.unlink)
        sem = Semaphore(name, value, CREATE)
        self.addCleanup(sem.close)
        return name, sem

    def test_counting(self):
        name, sem = self.make(2)
        with Semaphore(name) as other:  # takes one
            self.assertEqual(sem.value, 1)
            other.wait(0)
            self.assertRaises(BlockingIOError, sem.wait, 0)
            self.assertRaises(TimeoutError, sem.wait, 0.02)
            other.post()
        self.assertEqual(sem.value, 2)

    def test_as_in_threading(self):
        _, sem = self.make()
        self.assertFalse(sem.acquire(False))
        self.assertFalse(sem.acquire(timeout=0.01))
        sem.release(2)
        self.assertTrue(sem.acquire())
        self.assertTrue(sem.acquire(True, 1))
        self.assertRaises(TypeError, sem.acquire, 0.5)
        self.assertRaises(ValueError, sem.acquire, False, 1)
        self.assertRaises(ValueError, sem.release, 0)

    def test_with_gives_back_after_an_exception(self):
        _, sem = self.make(1)
        with self.assertRaises(KeyError):
            with sem:
                self.assertEqual(sem.value, 0)
                raise KeyError
        self.assertEqual(sem.value, 1)

    def test_errors(self):
        name, sem = self.make(1)
        self.assertRaises(FileExistsError, Semaphore, name, 1, CREATE)
        self.assertRaises(FileNotFoundError, Semaphore, self.name())
        self.assertRaises(FileNotFoundError, Semaphore.unlink, self.name())
        self.assertRaises(ValueError, Semaphore, name, -1)
        sem.close()
        sem.close()
        self.assertRaises(ValueError, sem.post)
        self.assertRaises(ValueError, sem.wait, 0)
        self.assertRaises(ValueError, lambda: sem.value)
        Semaphore(name).close()

    def test_an_invalid_value(self):
        name = self.name(Semaphore.unlink)
        self.assertRaises(OSError, Semaphore, name, 0xFFFFFFFF, CREATE)

    def test_a_thread_is_woken(self):
        _, sem = self.make()
        thread = threading.Thread(target=sem.wait, args=(support.PATIENCE,))
        thread.start()
        sem.post()
        thread.join()
        self.assertEqual(sem.value, 0)

    def test_in_a_segment(self):
        with Shm.anonymous(4096) as shm:
            sem = Semaphore.from_buffer(shm.buf, 3, offset=64)
            other = Semaphore.from_buffer(shm.buf, offset=64)
            other.wait(0)
            self.assertEqual(sem.value, 2)
            sem.close()
            other.close()
            self.assertRaises(ValueError, Semaphore.from_buffer, shm.buf, 0, offset=4080)
        self.assertRaises(TypeError, Semaphore.from_buffer, b"0" * 64, 0)

    def test_the_segment_stays_while_the_semaphore_does(self):
        shm = Shm.anonymous(64)
        sem = Semaphore.from_buffer(shm.buf, 0)
        shm.close()
        gc.collect()
        sem.post()
        self.assertEqual(sem.value, 1)

    def test_fork(self):
        with Shm.anonymous(64) as shm:
            ping = Semaphore.from_buffer(shm.buf, 0)
            pong = Semaphore.from_buffer(shm.buf, 0, offset=32)

            def child():
                for _ in range(100):
                    ping.wait(support.PATIENCE)
                    pong.post()

            pid = self.fork(child)
            for _ in range(100):
                ping.post()
                pong.wait(support.PATIENCE)
            self.reap(pid)
            ping.close()
            pong.close()

    def test_ctrl_c(self):
        _, sem = self.make()
        self.assert_interrupted(sem.wait)
        self.assert_interrupted(lambda: sem.wait(30))

    def test_a_handler_that_returns(self):
        _, sem = self.make()
        self.assert_goes_on(sem.wait)

    def test_a_handler_may_post(self):
        _, sem = self.make()
        with support.handler(signal.SIGALRM, lambda *_: sem.post()):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            begin = time.monotonic()
            sem.wait(support.PATIENCE)
            self.assertLess(time.monotonic() - begin, 5)


class Undo(support.Case):
    def make(self, value, **options):
        name = self.name(Semaphore.unlink)
        sem = Semaphore(name, value, CREATE, undo=True, **options)
        self.addCleanup(sem.close)
        return name, sem

    def die_with_one(self, name):
        def body():
            held = Semaphore(name, undo=True)  # open until the end
            held.wait(0)
            os.kill(os.getpid(), signal.SIGKILL)

        pid = self.fork(body)
        self.reap(pid, signal.SIGKILL)
        return pid

    def test_permits_of_the_dead_come_back(self):
        name, sem = self.make(2)
        sem.wait(0)
        pid = self.die_with_one(name)
        self.assertEqual(sorted(sem.holders()), sorted([(os.getpid(), 1, True), (pid, 1, False)]))
        sem.wait(support.PATIENCE)
        self.assertEqual(sem.holders(), [(os.getpid(), 2, True)])
        sem.release(2)
        self.assertEqual((sem.value, sem.holders()), (2, []))

    def test_told_once(self):
        name, sem = self.make(1, tell=True)
        self.die_with_one(name)
        with self.assertRaises(OwnerDead):
            sem.wait(support.PATIENCE)
        self.assertEqual(sem.value, 0)
        sem.post()
        with sem:
            self.assertFalse(sem.owner_died)
        self.die_with_one(name)
        with sem:
            self.assertTrue(sem.owner_died)
        self.assertEqual(sem.value, 1)

    def test_only_this_kind_knows_its_holders(self):
        name = self.name(Semaphore.unlink)
        with self.assertRaises(OSError):
            Semaphore(name, 0, CREATE).holders()

    def test_ctrl_c(self):
        _, sem = self.make(0)
        self.assert_interrupted(sem.wait)


class WithC(support.Case):
    def test_both_ways(self):
        name = self.name(Semaphore.unlink)
        sem = Semaphore(name, 0, CREATE)
        waiting = self.peer("sem-wait", name, 50)
        sem.release(50)
        self.finish(waiting)
        self.assertEqual(sem.value, 0)
        posting = self.peer("sem-post", name, 50)
        for _ in range(50):
            sem.wait(support.PATIENCE)
        self.finish(posting)
        self.assertEqual(sem.value, 0)
        sem.close()
