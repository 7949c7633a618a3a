import errno
import gc
import hashlib
import os
import tempfile

import support
from madang import SEALED, Shm

CREATE = os.O_CREAT | os.O_EXCL | os.O_RDWR


def mapped(name):
    # By inode: a segment that got its name after it was mapped is listed under another.
    inode = str(os.stat("/dev/shm" + name).st_ino)
    with open("/proc/self/maps") as maps:
        return any(line.split()[4] == inode for line in maps)


class Segments(support.Case):
    def test_two_handles_see_the_same_bytes(self):
        name = self.name(Shm.unlink)
        with Shm(name, 100, CREATE) as one, Shm(name) as two:
            one.buf[:5] = b"hello"
            self.assertEqual(bytes(two.buf[:5]), b"hello")
            self.assertEqual((one.size, two.size, len(two.buf)), (100, 100, 100))
            self.assertEqual(os.fstat(one.fileno()).st_size, 100)
            self.assertEqual(one.name, name)

    def test_read_only(self):
        name = self.name(Shm.unlink)
        with Shm(name, 8, CREATE), Shm(name, flags=os.O_RDONLY) as reader:
            self.assertTrue(reader.buf.readonly)
            with self.assertRaises(TypeError):
                reader.buf[0] = 1
            self.assertRaises(PermissionError, reader.resize, 16)

    def test_errors(self):
        name = self.name(Shm.unlink)
        self.assertRaises(FileNotFoundError, Shm, name)
        self.assertRaises(FileNotFoundError, Shm.unlink, name)
        self.assertRaises(ValueError, Shm, name, -1)
        self.assertRaises(TypeError, Shm, None)
        with self.assertRaises(OSError) as caught:
            Shm("/a/b", 1, CREATE)
        self.assertEqual(caught.exception.errno, errno.EINVAL)
        with Shm(name, 10, CREATE):
            self.assertRaises(FileExistsError, Shm, name, 10, CREATE)
            with self.assertRaises(OSError) as caught:
                Shm(name, 11)
            self.assertEqual(caught.exception.errno, errno.EPROTO)
            self.assertIn(name, str(caught.exception))

    def test_closing(self):
        name = self.name(Shm.unlink)
        shm = Shm(name, 10, CREATE)
        shm.close()
        shm.close()
        self.assertTrue(shm.closed)
        for use in (shm.fileno, shm.sync, shm.__enter__, lambda: shm.buf, lambda: shm.size):
            self.assertRaises(ValueError, use)
        self.assertRaises(ValueError, shm.resize, 5)
        self.assertIn("closed", repr(shm))
        Shm(name).close()  # the name is still there

    def test_views_keep_the_memory_mapped(self):
        name = self.name(Shm.unlink)
        shm = Shm(name, 4096, CREATE)
        view = shm.buf[10:20]
        shm.buf[10:20] = b"0123456789"
        shm.close()
        self.assertEqual(bytes(view), b"0123456789")
        self.assertTrue(mapped(name))
        part = view[5:]
        view.release()
        del view
        part[0] = 0
        self.assertEqual(bytes(part), b"\x006789")
        del part
        gc.collect()
        self.assertFalse(mapped(name))

    def test_a_forgotten_segment_is_unmapped(self):
        name = self.name(Shm.unlink)
        Shm(name, 4096, CREATE)
        gc.collect()
        self.assertFalse(mapped(name))

    def test_resize(self):
        with Shm.anonymous(100) as shm:
            shm.buf[:3] = b"abc"
            view = shm.buf
            self.assertRaises(BufferError, shm.resize, 1 << 20)
            del view
            shm.resize(1 << 20)
            self.assertEqual(shm.size, 1 << 20)
            self.assertEqual(bytes(shm.buf[:4]), b"abc\0")
            shm.buf[-1] = 7
            self.assertRaises(PermissionError, shm.resize, 10)

    def test_a_descriptor_is_mapped_again(self):
        with Shm.anonymous(64) as shm:
            self.assertIsNone(shm.name)
            fd = os.dup(shm.fileno())
            with Shm.from_fd(fd) as other, Shm.from_fd(fd, os.O_RDONLY) as reader:
                os.close(fd)
                other.buf[0] = 9
                self.assertEqual((shm.buf[0], reader.buf[0]), (9, 9))
            Shm.from_fd(shm.fileno(), os.O_RDWR | SEALED).close()
        with tempfile.TemporaryFile() as file:
            file.truncate(64)
            Shm.from_fd(file.fileno()).close()
            with self.assertRaises(OSError) as caught:
                Shm.from_fd(file.fileno(), os.O_RDWR | SEALED)
            self.assertEqual(caught.exception.errno, errno.EPROTO)
        with self.assertRaises(OSError) as caught:
            Shm.from_fd(-1)
        self.assertEqual(caught.exception.errno, errno.EBADF)

    def test_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "data")
            with Shm.map_file(path, 10, os.O_CREAT | os.O_RDWR) as shm:
                shm.buf[:] = b"0123456789"
                shm.sync()
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"0123456789")
            self.assertRaises(FileNotFoundError, Shm.map_file, path + "x")

    def test_fork(self):
        with Shm.anonymous(16) as shm:

            def child():
                shm.buf[:5] = b"child"
                shm.close()

            self.reap(self.fork(child))
            self.assertEqual(bytes(shm.buf[:5]), b"child")


class WithC(support.Case):
    DATA = os.urandom(3_000_001)

    def test_c_reads_what_python_wrote(self):
        name = self.name(Shm.unlink)
        with Shm(name, len(self.DATA), CREATE) as shm:
            shm.buf[:] = self.DATA
            out = self.finish(self.peer("shm-read", name))
        self.assertEqual(hashlib.sha256(out).digest(), hashlib.sha256(self.DATA).digest())

    def test_python_reads_what_c_wrote(self):
        name = self.name(Shm.unlink)
        self.finish(self.peer("shm-write", name), self.DATA)
        with Shm(name, flags=os.O_RDONLY) as shm:
            self.assertEqual(shm.size, len(self.DATA))
            digest = hashlib.sha256(shm.buf).digest()
        self.assertEqual(digest, hashlib.sha256(self.DATA).digest())
