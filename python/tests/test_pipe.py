import errno
import os
import tempfile
import threading

import support
from madang import MESSAGE_MAX, Fifo, Pipe


class Pipes(support.Case):
    def make(self):
        pipe = Pipe()
        self.addCleanup(pipe.close)
        return pipe

    def test_bytes(self):
        pipe = self.make()
        self.assertEqual(pipe.write(b"hello"), 5)
        self.assertEqual(pipe.read(3), b"hel")
        self.assertEqual(pipe.read(), b"lo")
        self.assertRaises(BlockingIOError, pipe.read, 1, 0)
        self.assertRaises(TimeoutError, pipe.read, 1, 0.02)
        pipe.close_writer()
        self.assertEqual(pipe.read(), b"")
        self.assertFalse(os.get_inheritable(pipe.reader))

    def test_read_full(self):
        pipe = self.make()
        data = os.urandom(300_000)

        def feed():
            for start in range(0, len(data), 70_000):
                pipe.write(data[start : start + 70_000])
            pipe.close_writer()

        thread = threading.Thread(target=feed)
        thread.start()
        self.assertEqual(pipe.read_full(200_000), data[:200_000])
        self.assertEqual(pipe.read_full(200_000), data[200_000:], "the file ended before")
        self.assertEqual(pipe.read_full(10), b"")
        thread.join()

    def test_read_full_keeps_what_came_in_time(self):
        pipe = self.make()
        self.assertRaises(TimeoutError, pipe.read_full, 10, 0.02)
        self.assertRaises(BlockingIOError, pipe.read_full, 10, 0)
        pipe.write(b"some")
        self.assertEqual(pipe.read_full(10, 0.7), b"some")

    def test_write_counts_what_went_in_time(self):
        pipe = self.make()
        data = bytes(1 << 20)
        went = pipe.write(data, 0.02)
        self.assertTrue(0 < went < len(data))
        self.assertRaises(TimeoutError, pipe.write, data, 0.02)
        self.assertRaises(BlockingIOError, pipe.write, data, 0)
        self.assertEqual(len(pipe.read_full(went)), went)

    def test_a_large_write_goes_whole(self):
        pipe = self.make()
        data = os.urandom(2_000_000)
        got = []
        thread = threading.Thread(target=lambda: got.append(pipe.read_full(len(data))))
        thread.start()
        self.assertEqual(pipe.write(data), len(data))
        thread.join()
        self.assertEqual(got, [data])

    def test_nobody_reads(self):
        pipe = self.make()
        pipe.close_reader()
        self.assertRaises(BrokenPipeError, pipe.write, b"x")
        self.assertRaises(BrokenPipeError, pipe.send, b"x")

    def test_messages(self):
        pipe = self.make()
        for message in (b"one", b"", b"\0three\0"):
            pipe.send(message)
        pipe.close_writer()
        self.assertEqual(list(pipe), [b"one", b"", b"\0three\0"])
        self.assertRaises(BrokenPipeError, pipe.receive)

    def test_message_errors(self):
        pipe = self.make()
        self.assertRaises(BlockingIOError, pipe.receive, timeout=0)
        self.assertRaises(TimeoutError, pipe.receive, timeout=0.6)
        pipe.send(b"too long")
        pipe.send(b"next")
        with self.assertRaises(OSError) as caught:
            pipe.receive(4)
        self.assertEqual(caught.exception.errno, errno.EMSGSIZE)
        self.assertEqual(pipe.receive(4), b"next")
        with self.assertRaises(OSError) as caught:
            pipe.send(bytes(MESSAGE_MAX + 1))
        self.assertEqual(caught.exception.errno, errno.EMSGSIZE)
        self.assertRaises(BlockingIOError, pipe.receive, timeout=0)

    def test_the_largest_message(self):
        pipe = self.make()
        data = os.urandom(MESSAGE_MAX)
        thread = threading.Thread(target=pipe.send, args=(data,))
        thread.start()
        self.assertEqual(pipe.receive(), data)
        thread.join()

    def test_writers_never_mix(self):
        pipe = self.make()

        def child(letter):
            pipe.close_reader()
            for size in (1, 100, 5000, 100_000):
                for _ in range(5):
                    pipe.send(letter * size, support.PATIENCE)
            pipe.close()

        pids = [self.fork(lambda letter=letter: child(letter)) for letter in (b"a", b"b", b"c")]
        pipe.close_writer()
        messages = list(pipe)
        self.assertEqual(len(messages), 60)
        for message in messages:
            self.assertEqual(len(set(message)), 1)
        for pid in pids:
            self.reap(pid)

    def test_two_way(self):
        parent, child = Pipe.pair()

        def upper():
            parent.close()
            for message in child:
                child.send(message.upper())
            child.close()

        pid = self.fork(upper)
        child.close()
        with parent:
            parent.send(b"hello")
            self.assertEqual(parent.receive(), b"HELLO")
        self.reap(pid)

    def test_ends(self):
        pipe = self.make()
        self.assertRaises(ValueError, pipe.fileno)
        pipe.close_writer()
        pipe.close_writer()
        self.assertEqual(pipe.fileno(), pipe.reader)
        self.assertRaises(ValueError, lambda: pipe.writer)
        self.assertRaises(ValueError, pipe.write, b"x")
        pipe.close()
        pipe.close()
        self.assertTrue(pipe.closed)
        for use in (pipe.read, pipe.receive, pipe.fileno):
            self.assertRaises(ValueError, use)
        self.assertRaises(ValueError, pipe.read_full, 1)

    def test_ctrl_c(self):
        pipe = self.make()
        self.assert_interrupted(pipe.read)
        self.assert_interrupted(lambda: pipe.read_full(5))
        self.assert_interrupted(pipe.receive)
        while True:
            try:
                pipe.write(bytes(4096), 0)
            except BlockingIOError:
                break
        self.assert_interrupted(lambda: pipe.write(b"x" * 4096))
        self.assert_interrupted(lambda: pipe.send(b"x" * 5000))

    def test_a_handler_that_returns(self):
        pipe = self.make()
        self.assert_goes_on(lambda timeout: pipe.read(1, timeout))
        self.assert_goes_on(lambda timeout: pipe.read_full(1, timeout))
        self.assert_goes_on(lambda timeout: pipe.receive(1, timeout))


class Fifos(support.Case):
    def path(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return os.path.join(folder.name, "fifo")

    def test_between_processes(self):
        path = self.path()
        Fifo.create(path)

        def child():
            with Fifo.open(path, os.O_WRONLY, support.PATIENCE) as fifo:
                fifo.send(b"hello")

        pid = self.fork(child)
        with Fifo.open(path, timeout=support.PATIENCE) as fifo:
            self.assertEqual(list(fifo), [b"hello"])
            self.assertRaises(ValueError, lambda: fifo.writer)
        self.reap(pid)
        Fifo.unlink(path)
        self.assertFalse(os.path.exists(path))

    def test_errors(self):
        path = self.path()
        self.assertRaises(FileNotFoundError, Fifo.open, path)
        self.assertRaises(FileNotFoundError, Fifo.unlink, path)
        Fifo.create(path, 0o640)
        self.assertRaises(FileExistsError, Fifo.create, path)
        for flags in (os.O_RDONLY, os.O_WRONLY):
            self.assertRaises(BlockingIOError, Fifo.open, path, flags, 0)
            self.assertRaises(TimeoutError, Fifo.open, path, flags, 0.02)

    def test_what_is_no_fifo_is_refused(self):
        path = self.path()
        with open(path, "w"):
            pass
        with self.assertRaises(OSError) as caught:
            Fifo.open(path, timeout=1)
        self.assertEqual(caught.exception.errno, errno.EPROTO)
        self.assertRaises(OSError, Fifo.unlink, path)
        self.assertTrue(os.path.exists(path))

    def test_ctrl_c(self):
        path = self.path()
        Fifo.create(path)
        self.assert_interrupted(lambda: Fifo.open(path, os.O_WRONLY))
        self.assert_interrupted(lambda: Fifo.open(path))

    def test_a_handler_that_returns(self):
        path = self.path()
        Fifo.create(path)
        self.assert_goes_on(lambda timeout: Fifo.open(path, os.O_RDONLY, timeout))
        self.assert_goes_on(lambda timeout: Fifo.open(path, os.O_WRONLY, timeout))


class WithC(support.Case):
    LINES = b"".join(b"%d\n" % n * (n % 7 + 1) for n in range(2000))

    def fifo(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "fifo")
        Fifo.create(path)
        return path

    def test_c_to_python(self):
        path = self.fifo()
        peer = self.peer("message-send", path)
        sender = threading.Thread(target=self.finish, args=(peer, self.LINES))
        sender.start()
        with Fifo.open(path, timeout=support.PATIENCE) as fifo:
            messages = list(fifo)
        sender.join()
        self.assertEqual(messages, self.LINES.splitlines())

    def test_python_to_c(self):
        path = self.fifo()
        peer = self.peer("message-receive", path)
        with Fifo.open(path, os.O_WRONLY, support.PATIENCE) as fifo:
            for line in self.LINES.splitlines():
                fifo.send(line, support.PATIENCE)
        self.assertEqual(self.finish(peer), self.LINES)
