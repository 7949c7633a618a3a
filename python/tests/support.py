"""What the tests share: names that are removed again, the C peer, children, Ctrl-C."""

import contextlib
import faulthandler
import itertools
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

import madang  # noqa: E402
from madang import _check  # noqa: E402

# Which C functions the tests have called so far, in this process and in forked children.
_names = sorted(_check._PROTOTYPES)
_calls = mmap.mmap(-1, len(_names))


def called():
    return {name for name, was in zip(_names, _calls) if was != b"\0"}


def _record(index, name):
    function = getattr(_check.lib, name)

    def call(*arguments):
        _calls[index] = 1
        return function(*arguments)

    setattr(_check.lib, name, call)


for _index, _name in enumerate(_names):
    _record(_index, _name)

PATIENCE = 10.0
"""A wait that should end at once, but may take its time on a loaded machine."""

_numbers = itertools.count()

# A test that hangs ends with a traceback of every thread.
faulthandler.dump_traceback_later(240, exit=True)


class Case(unittest.TestCase):
    def name(self, unlink=None):
        """A name of this test alone; with `unlink`, removed after it."""
        name = "/mdgpy-%d-%d" % (os.getpid(), next(_numbers))
        if unlink is not None:
            self.addCleanup(_unlink_if_there, unlink, name, os.getpid())
        return name

    def peer(self, *arguments, **options):
        """Starts the C peer, or skips."""
        program = os.environ.get("MADANG_TEST_PEER")
        if not program:
            self.skipTest("MADANG_TEST_PEER is not set: run by `cargo test --test python`")
        process = subprocess.Popen(
            [program, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **options
        )
        self.addCleanup(_end, process)
        return process

    def finish(self, process, data=None):
        """Waits for the peer to succeed; its output."""
        out, err = process.communicate(data, timeout=60)
        self.assertEqual((process.returncode, err), (0, b""))
        return out

    def fork(self, body):
        """Runs `body` in a forked child; the pid. The child never returns into the test."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def reap(self, pid, expected=0):
        self.assertEqual(os.waitpid(pid, 0)[1], expected)

    def assert_interrupted(self, wait):
        """Ctrl-C ends `wait` within a second, whichever thread the kernel gives the signal to."""
        with handler(signal.SIGINT, signal.default_int_handler):
            for send in (_from_a_thread, _from_a_process):
                done = send(self)
                begin = time.monotonic()
                try:
                    with self.assertRaises(KeyboardInterrupt):
                        wait()
                    self.assertLess(time.monotonic() - begin, 1.2)
                finally:
                    done()

    def assert_goes_on(self, wait, timeout=0.5):
        """A handler that returns does not end `wait(timeout)`, nor make it shorter or longer."""
        seen = []
        with handler(signal.SIGALRM, lambda *_: seen.append(1)):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            begin = time.monotonic()
            try:
                with self.assertRaises(TimeoutError):
                    wait(timeout)
                took = time.monotonic() - begin
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        self.assertTrue(seen)
        self.assertGreaterEqual(took, timeout * 0.99)
        self.assertLess(took, timeout + 1)


def _from_a_thread(_case):
    # Aimed at the middle of the wait; a signal that comes before it must end the test as well.
    timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer.join


def _from_a_process(case):
    me = os.getpid()

    def body():
        # Once the parent sleeps in the kernel, it is in the wait.
        while _state(me) != "S":
            os.sched_yield()
        os.kill(me, signal.SIGINT)

    pid = case.fork(body)
    return lambda: case.reap(pid)


def _state(pid):
    """The state of a process's first thread, as proc(5) has it: "S" is asleep."""
    with open("/proc/%d/stat" % pid) as stat:
        return stat.read().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def handler(number, action):
    before = signal.signal(number, action)
    try:
        yield
    finally:
        signal.signal(number, before)


def run_python(code, status=0):
    """Runs `code` in a new interpreter, which exits with `status`."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(madang.__file__)))
    environment = dict(os.environ, PYTHONPATH=package)
    ended = subprocess.run([sys.executable, "-c", code], env=environment)
    if ended.returncode != status:
        raise AssertionError("exit status %d, not %d" % (ended.returncode, status))


def _unlink_if_there(unlink, name, owner):
    if os.getpid() == owner:
        with contextlib.suppress(FileNotFoundError):
            unlink(name)


def _end(process):
    if process.poll() is None:
        process.kill()
    process.communicate()
