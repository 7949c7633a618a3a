import errno
import os
import signal
import time

from support import Case
import madang
from madang import _check


class Timeouts(Case):
    def test_seconds_become_nanoseconds(self):
        self.assertEqual(_check.nanoseconds(None), -1)
        self.assertEqual(_check.nanoseconds(0), 0)
        self.assertEqual(_check.nanoseconds(1.5), 1_500_000_000)
        self.assertEqual(_check.nanoseconds(1e-12), 1, "a short wait is not 'never wait'")
        self.assertEqual(_check.nanoseconds(float("inf")), -1)
        for wrong in (-1, -0.001, float("nan")):
            self.assertRaises(ValueError, _check.nanoseconds, wrong)
        self.assertRaises(TypeError, _check.nanoseconds, [])

    def test_no_wait_is_longer_than_a_slice(self):
        asked = []

        def call(ns):
            asked.append(ns)
            return -errno.ETIMEDOUT if len(asked) < 5 else 7

        self.assertEqual(_check.wait(call, None), 7)
        self.assertEqual(asked, [_check.SLICE_NS] * 5)
        self.assertLessEqual(_check.SLICE_NS, 500_000_000)

    def test_the_slices_of_a_wait_add_up(self):
        def call(ns):
            time.sleep(ns / 1e9)
            return -errno.ETIMEDOUT

        begin = time.monotonic()
        self.assertRaises(TimeoutError, _check.wait, call, 0.9)
        self.assertAlmostEqual(time.monotonic() - begin, 0.9, delta=0.5)

    def test_an_interrupted_call_is_made_again_with_what_is_left(self):
        asked = []

        def call(ns):
            asked.append(ns)
            return -errno.EINTR if len(asked) < 3 else 0

        self.assertEqual(_check.wait(call, 0.3), 0)
        self.assertEqual(asked[0], 300_000_000)
        self.assertTrue(asked[0] > asked[1] > asked[2] > 0)

    def test_an_interruption_that_no_handler_raised_for_ends_no_wait(self):
        self.assertEqual(_check.lib.mdg_interrupt(), 0)
        with madang.Ring(None, capacity=4, item_size=8) as ring:
            self.assertRaises(TimeoutError, ring.pop, timeout=0.01)

    def test_not_waiting_is_one_call(self):
        asked = []

        def call(ns):
            asked.append(ns)
            return -errno.EAGAIN

        self.assertRaises(BlockingIOError, _check.wait, call, 0)
        self.assertEqual(asked, [0])


class Exceptions(Case):
    def test_each_code_has_its_class(self):
        for code, kind in (
            (errno.ENOENT, FileNotFoundError),
            (errno.EEXIST, FileExistsError),
            (errno.EACCES, PermissionError),
            (errno.EAGAIN, BlockingIOError),
            (errno.ETIMEDOUT, TimeoutError),
            (errno.EINTR, InterruptedError),
            (errno.EPIPE, BrokenPipeError),
            (errno.EOWNERDEAD, _check.OwnerDead),
            (errno.EPROTO, OSError),
        ):
            error = _check.failure(-code)
            self.assertIs(type(error), kind)
            self.assertEqual(error.errno, code)
            self.assertTrue(error.strerror)

    def test_expected_answers_do_not_show_an_older_failure(self):
        import madang

        with self.assertRaises(FileNotFoundError) as caught:
            madang.Shm(self.name())
        self.assertIn("mdgpy", str(caught.exception), "the library's own words")
        self.assertNotIn("mdgpy", str(_check.failure(-errno.ETIMEDOUT)))

    def test_a_name_with_a_null_byte_is_refused(self):
        self.assertRaises(ValueError, _check.c_name, "/a\0b")
        self.assertRaises(TypeError, _check.c_name, 3)
        self.assertRaises(TypeError, _check.c_name, None)

    def test_sizes_are_not_cut_silently(self):
        self.assertRaises(ValueError, _check.unsigned, -1, "size")
        self.assertRaises(OverflowError, _check.unsigned, 1 << 64, "size")
        self.assertRaises(TypeError, _check.unsigned, 1.5, "size")


class Buffers(Case):
    def test_any_contiguous_buffer_in_place(self):
        for data in (b"abcd", bytearray(b"abcd"), memoryview(b"xabcdx")[1:5]):
            with _check.Input(data) as seen:
                self.assertEqual(seen.length, 4)
        with _check.Input(b"") as seen:
            self.assertEqual(seen.length, 0)

    def test_what_is_no_buffer_is_refused(self):
        self.assertRaises(TypeError, _check.Input, "text")
        self.assertRaises(BufferError, _check.Input, memoryview(b"abcd")[::2])

    def test_the_buffer_is_free_again(self):
        data = bytearray(b"abcd")
        with _check.Input(data):
            self.assertRaises(BufferError, data.extend, b"e")
        data.extend(b"e")


class Version(Case):
    def test_it_is_a_triple(self):
        import madang

        self.assertEqual(len(madang.version()), 3)
        self.assertEqual(signal.getsignal(signal.SIGPIPE), signal.SIG_IGN, "as Python left it")
