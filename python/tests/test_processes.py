"""Pickling, copying, children of multiprocessing, and how a process ends."""

import concurrent.futures
import copy
import errno
import multiprocessing
import os
import pickle
import tempfile

from support import PATIENCE, Case, run_python
import madang
from madang import Ring, RingEnd, RingKind
import workers

METHODS = ("fork", "forkserver", "spawn")
CREATE = os.O_CREAT | os.O_RDWR


class Pickling(Case):
    def refuses(self, thing, *advice):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with self.assertRaises(TypeError) as caught:
                pickle.dumps(thing, protocol)
            for word in ("cannot pickle", type(thing).__name__, *advice):
                self.assertIn(word, str(caught.exception))
        self.refuses_copies(thing)

    def refuses_copies(self, thing):
        for function in (copy.copy, copy.deepcopy):
            with self.assertRaisesRegex(TypeError, "cannot copy .*%s" % type(thing).__name__):
                function(thing)

    def test_what_has_no_name_is_refused_with_advice(self):
        with madang.Shm.anonymous(4096 + Ring.footprint(1, 4)) as shm:
            self.refuses(shm, "Shm.from_fd", "madang.fd.send")
            self.refuses(madang.Semaphore.from_buffer(shm.buf, 1), "segment", "from_buffer")
            self.refuses(madang.Mutex.from_buffer(shm.buf, 128, create=True), "from_buffer")
            self.refuses(madang.Cond.from_buffer(shm.buf, 256, create=True), "from_buffer")
            self.refuses(shm._handle)
            with Ring.init(shm, 4096, 1, 4) as ring:
                self.refuses(ring, "Ring.attach")
        with Ring(None, 1, 4) as ring:
            self.refuses(ring, "Ring.from_fd", "os.fork")
            self.refuses(ring.dup(os.O_RDONLY))
            self.refuses(Ring.from_fd(ring.memory()))
            with self.assertRaises(TypeError):
                pickle.dumps(ring.reserve())
            ring.commit(0)
        parent, child = madang.Pipe.pair()
        with madang.Pipe() as pipe, parent, child:
            for one in (pipe, parent):
                self.refuses(one, "Pipe.from_fds", "madang.fd.send", "Fifo")

    def test_an_end_that_only_one_may_hold_is_refused(self):
        for kind, flags, allowed in (
            (RingKind.SPSC, os.O_WRONLY, False),
            (RingKind.SPSC, os.O_RDONLY, False),
            (RingKind.BROADCAST, os.O_WRONLY, False),
            (RingKind.BROADCAST, os.O_RDONLY, True),
            (RingKind.MPMC, os.O_WRONLY, True),
            (RingKind.MPMC, os.O_RDONLY, True),
        ):
            with self.subTest(kind=kind, flags=flags):
                name = self.name(Ring.unlink)
                with Ring(name, 4, 4, os.O_CREAT | flags, kind=kind) as ring:
                    if not allowed:
                        self.refuses(ring, name, "only one")
                        continue
                    with pickle.loads(pickle.dumps(ring)) as other:
                        # The role was kept.
                        wrong = other.pop if flags == os.O_WRONLY else lambda _: other.push(b"item")
                        with self.assertRaises(PermissionError):
                            wrong(0)

    def test_a_ring_without_an_end_is_opened_again(self):
        name = self.name(Ring.unlink)
        with Ring(name, 4, 4, CREATE) as ring:
            ring.push(b"item")
            with pickle.loads(pickle.dumps(ring)) as other:
                self.assertEqual((other.name, other.pop(0)), (name, b"item"))
            self.refuses_copies(ring)

    def test_objects_with_names_are_opened_again(self):
        name = self.name(madang.Shm.unlink)
        with madang.Shm(name, 100, CREATE) as shm:
            for flags in (os.O_RDWR, os.O_RDONLY):
                with madang.Shm(name, 0, flags) as first:
                    with pickle.loads(pickle.dumps(first)) as other:
                        self.assertEqual((other.name, other.size), (name, 100))
                        self.assertEqual(other.buf.readonly, flags == os.O_RDONLY)
            shm.buf[0] = 7
            other = pickle.loads(pickle.dumps(shm))
            shm.close()
            self.assertEqual(other.buf[0], 7)
            other.close()
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"in a file")
            file.flush()
            with madang.Shm.map_file(file.name) as shm:
                with pickle.loads(pickle.dumps(shm)) as other:
                    self.assertEqual(bytes(other.buf), b"in a file")
        for undo in (False, True):
            name = self.name(madang.Semaphore.unlink)
            sem = madang.Semaphore(name, 3, os.O_CREAT, undo=undo)
            self.refuses_copies(sem)
            other = pickle.loads(pickle.dumps(sem))
            sem.close()
            other.wait(0)
            self.assertEqual(other.value, 2)
            other.close()
        for kind in (madang.Mutex, madang.Cond):
            one = kind(self.name(kind.unlink), os.O_CREAT)
            self.refuses_copies(one)
            other = pickle.loads(pickle.dumps(one))
            self.assertEqual((type(other), other.name), (kind, one.name))
            one.close()
            other.close()

    def test_what_has_taken_the_name_is_not_opened(self):
        for kind, unlink, make in (
            (madang.Shm, madang.Shm.unlink, lambda name: madang.Shm(name, 100, CREATE)),
            (Ring, Ring.unlink, lambda name: Ring(name, 4, 4, CREATE)),
        ):
            name = self.name(unlink)
            with make(name) as first:
                data = pickle.dumps(first)
                unlink(name)
                with self.assertRaises(FileNotFoundError):
                    pickle.loads(data)
                with make(name), self.assertRaises(OSError) as caught:
                    pickle.loads(data)
                self.assertEqual(caught.exception.errno, errno.ESTALE)
            with self.assertRaisesRegex(ValueError, "closed"):
                pickle.dumps(first)

    def test_answers_and_exceptions_are_plain_data(self):
        with Ring(None, 4, 4) as ring:
            stats = ring.stat()
            self.assertEqual(pickle.loads(pickle.dumps(stats)), stats)
        dead = madang.OwnerDead(errno.EOWNERDEAD, "words")
        again = pickle.loads(pickle.dumps(dead))
        self.assertEqual((type(again), again.errno), (madang.OwnerDead, errno.EOWNERDEAD))

    def test_children_use_what_was_pickled(self):
        shm = madang.Shm(self.name(madang.Shm.unlink), 4096, CREATE)
        semaphore = madang.Semaphore(self.name(madang.Semaphore.unlink), 0, os.O_CREAT)
        mutex = madang.Mutex(self.name(madang.Mutex.unlink), os.O_CREAT)
        cond = madang.Cond(self.name(madang.Cond.unlink), os.O_CREAT)
        ring = Ring(self.name(Ring.unlink), 4, 4, CREATE)
        with shm, ring:
            for count, method in enumerate(METHODS, 1):
                with self.subTest(method=method):
                    # Whose handles those of a child are, a fork shares and the others open anew.
                    arguments = (shm, semaphore, mutex, cond, ring)
                    child = context(method).Process(target=workers.use, args=arguments)
                    child.start()
                    with mutex:
                        semaphore.post()
                        self.assertTrue(
                            cond.wait_for(mutex, lambda: shm.buf[0] == count, 6 * PATIENCE)
                        )
                    self.assertEqual(ring.pop(6 * PATIENCE), b"used")
                    child.join()
                    self.assertEqual(child.exitcode, 0)
                    self.assertEqual(ring.stat().producer_state, RingEnd.CLOSED)
        for one in (semaphore, mutex, cond):
            one.close()

    def test_a_child_is_not_handed_a_pointer(self):
        with madang.Shm.anonymous(4096) as shm:
            for method in ("forkserver", "spawn"):
                child = context(method).Process(target=workers.use, args=(shm,) * 5)
                with self.assertRaisesRegex(TypeError, "Shm.from_fd"):
                    child.start()


def context(method):
    return multiprocessing.get_context(method)


class Ends(Case):
    """Rings that their process does not close: what the peers are told."""

    def ring(self, **options):
        return Ring(self.name(Ring.unlink), 64, 4, CREATE, **options)

    def check(self, ring, state, deaths=0):
        stats = ring.stat()
        self.assertEqual((stats.producer_state, stats.recovered), (state, deaths))
        with self.assertRaises(TimeoutError if state == RingEnd.CLOSED else madang.OwnerDead):
            while True:
                ring.pop(0.2 if state == RingEnd.CLOSED else PATIENCE)

    def run_child(self, method, target, *arguments, code=0):
        child = context(method).Process(target=target, args=arguments)
        child.start()
        child.join()
        self.assertEqual(child.exitcode, code)

    def test_a_child_that_ends_in_order_is_not_dead(self):
        for method in METHODS:
            for kind in (RingKind.SPSC, RingKind.MPMC):
                with self.subTest(method=method, kind=kind), self.ring(kind=kind) as ring:
                    self.run_child(method, workers.push, ring.name)
                    self.assertEqual(ring.pop(0), b"item")
                    self.check(ring, RingEnd.CLOSED)

    def test_a_child_that_exits_by_itself(self):
        with self.ring() as ring:
            self.run_child("fork", workers.push_and_exit, ring.name, 0)
            self.check(ring, RingEnd.CLOSED)
            self.run_child("fork", workers.push_and_exit, ring.name, 3, code=3)
            self.check(ring, RingEnd.DEAD, 1)

    def test_a_child_that_fails_is_dead(self):
        for method in METHODS:
            with self.subTest(method=method), self.ring() as ring:
                self.run_child(method, workers.push_and_fail, ring.name, code=1)
                self.check(ring, RingEnd.DEAD, 1)

    def test_a_ring_from_before_the_fork(self):
        with self.ring() as ring:
            workers.kept.append(ring)
            try:
                self.run_child("fork", workers.push_inherited)
            finally:
                workers.kept.clear()
            self.check(ring, RingEnd.CLOSED)

    def test_pools(self):
        for method in METHODS:
            with self.subTest(method=method), self.ring(kind=RingKind.MPMC) as ring:
                pool = context(method).Pool(2)
                pool.map(workers.push, [ring.name] * 4)
                pool.close()
                pool.join()
                self.assertEqual(len(ring.pop_many(64)), 4 * 4)
                self.check(ring, RingEnd.CLOSED)
        with self.ring(kind=RingKind.MPMC) as ring:
            with concurrent.futures.ProcessPoolExecutor(2, context("forkserver")) as executor:
                list(executor.map(workers.push, [ring.name] * 4))
            self.check(ring, RingEnd.CLOSED)

    def test_a_thread_outlives_the_function_of_the_child(self):
        with self.ring() as ring, tempfile.TemporaryDirectory() as folder:
            go_on = os.path.join(folder, "go_on")
            os.mkfifo(go_on)
            child = context("fork").Process(
                target=workers.push_by_a_thread, args=(ring.name, go_on)
            )
            child.start()
            self.assertEqual(ring.pop(PATIENCE), b"item")
            with self.assertRaises(TimeoutError):
                ring.pop(0.3)
            open(go_on, "wb").close()
            self.assertEqual(ring.pop(PATIENCE), b"last")
            child.join()
            self.check(ring, RingEnd.CLOSED)

    def test_multiprocessing_that_comes_later(self):
        with self.ring() as ring:
            run_python(
                "import madang, os, sys\n"
                "assert 'multiprocessing' not in sys.modules\n"
                "ring = madang.Ring(%r, flags=os.O_RDWR)\n"
                "import multiprocessing\n"
                "child = multiprocessing.get_context('fork').Process(\n"
                "    target=lambda: ring.push(b'item'))\n"
                "child.start()\n"
                "child.join()\n"
                "assert child.exitcode == 0\n" % ring.name
            )
            self.assertEqual(ring.pop(0), b"item")
            self.check(ring, RingEnd.CLOSED)

    def test_a_fork_that_exits(self):
        with self.ring() as ring:
            run_python(
                "import madang, os, sys\n"
                "ring = madang.Ring(%r, flags=os.O_RDWR)\n"
                "if os.fork() == 0:\n"
                "    ring.push(b'item')\n"
                "    sys.exit()\n"
                "assert os.wait()[1] == 0\n"
                "state = ring.stat().producer_state\n"
                "assert state == madang.RingEnd.CLOSED, state\n" % ring.name
            )
            self.check(ring, RingEnd.CLOSED)

    def test_an_exception_that_nobody_catches(self):
        with self.ring() as ring:
            code = "import madang\nring = madang.Ring(%r)\nring.push(b'item')\n" % ring.name
            run_python(code)
            self.check(ring, RingEnd.CLOSED)
            run_python(code + "import sys; sys.excepthook = lambda *_: None\n1 / 0\n", 1)
            self.check(ring, RingEnd.DEAD, 1)


class Blocks(Case):
    """`with ring:` left by an exception."""

    def leave(self, ring, error):
        with ring.dup(os.O_WRONLY) as producer:
            producer.push(b"item")
            if error is not None:
                raise error

    def left_by(self, error, options=None):
        """What the consumer gets behind the item."""
        with Ring(None, 4, 4, **(options or {})) as ring:
            try:
                self.leave(ring, error)
            except BaseException as caught:
                self.assertIs(caught, error)
            self.assertEqual(ring.pop(), b"item")
            with self.assertRaises(OSError) as caught:
                ring.pop(0.3)
            return type(caught.exception)

    def test_a_failure_is_told_as_a_death(self):
        for options in ({}, {"kind": RingKind.MPMC}, {"kind": RingKind.MPMC, "policy": 1}):
            for error in (LookupError(), KeyboardInterrupt(), SystemExit(1), SystemExit("why")):
                with self.subTest(options=options, error=error):
                    self.assertIs(self.left_by(error, options), madang.OwnerDead)

    def test_other_ways_out_are_orderly(self):
        for error in (None, SystemExit(), SystemExit(0), GeneratorExit()):
            with self.subTest(error=error):
                self.assertIs(self.left_by(error), TimeoutError)

    def test_a_consumer(self):
        with Ring(None, 1, 4, os.O_CREAT | os.O_WRONLY) as ring:
            ring.push(b"item")
            with self.assertRaises(LookupError), ring.dup(os.O_RDONLY):
                raise LookupError
            with self.assertRaises(madang.OwnerDead):
                ring.push(b"more")

    def test_others_go_on(self):
        with Ring(None, 4, 4, kind=RingKind.MPMC) as ring, ring.dup(os.O_WRONLY) as other:
            with self.assertRaises(LookupError):
                self.leave(ring, LookupError())
            self.assertEqual(ring.pop(), b"item")
            with self.assertRaises(TimeoutError):
                ring.pop(0.3)
            other.push(b"more")
            self.assertEqual(ring.pop(), b"more")

    def test_a_stream_that_was_ended(self):
        with Ring(None, 4, 4) as ring:
            with self.assertRaises(LookupError), ring.dup(os.O_WRONLY) as producer:
                producer.shutdown()
                raise LookupError
            with self.assertRaises(BrokenPipeError):
                ring.pop()
            self.assertEqual(ring.stat().producer_state, RingEnd.CLOSED)

    def test_a_traceback_does_not_keep_the_handle_open(self):
        with Ring(None, 1, 4) as ring:
            for call in (
                lambda one: one.push(b"more", 0),
                lambda one: one.reserve(1, 0),
                lambda one: one.push_many(b"more", 0.01),
                lambda one: one.pop(0),
                lambda one: madang.wait_any([(one, madang.POLL_OUT)], 0),
            ):
                kept = None
                deaths = ring.stat().recovered
                try:
                    with ring.dup(os.O_WRONLY) as producer:
                        if ring.stat().length == 0:
                            producer.push(b"item")
                        call(producer)
                except OSError as error:
                    kept = error
                self.assertIsNotNone(kept.__traceback__)
                self.assertEqual(ring.stat().producer_state, RingEnd.DEAD)
                self.assertEqual(ring.stat().recovered, deaths + 1)

    def test_abandon(self):
        with Ring(None, 4, 4) as ring:
            producer = ring.dup(os.O_WRONLY)
            producer.reserve()
            producer.abandon()
            producer.abandon()
            self.assertTrue(producer.closed)
            with self.assertRaises(madang.OwnerDead):
                ring.pop()
            with ring.dup(os.O_WRONLY):
                self.assertEqual(ring.stat().producer_state, RingEnd.LIVE)


