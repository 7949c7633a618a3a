import errno
import os
import signal

import support
from madang import Ring, object as objects
from madang.object import Mechanism, State


def path(name):
    return "/dev/shm/mdg.ring." + name[1:]


class Objects(support.Case):
    def make(self, **options):
        name = self.name(Ring.unlink)
        ring = Ring(name, 8, 4, os.O_CREAT | os.O_RDWR, **options)
        self.addCleanup(ring.close)
        return name, ring

    def info(self, name, mechanism=Mechanism.RING):
        found = [i for i in objects.list() if (i.mechanism, i.name) == (mechanism, name)]
        return found[0] if found else None

    def corpse(self, name):
        """A process that was killed with the ring open."""
        read, write = os.pipe()

        def body():
            self.kept = Ring(name, flags=os.O_RDWR)
            os.write(write, b"x")
            signal.pause()

        pid = self.fork(body)
        os.read(read, 1)
        os.close(read)
        os.close(write)
        os.kill(pid, signal.SIGKILL)
        self.reap(pid, signal.SIGKILL)

    def test_list(self):
        name, ring = self.make(kind=2, max_handles=3, mode=0o640)
        ring.push(b"1234")
        self.assertEqual(
            self.info(name),
            objects.Info(
                Mechanism.RING, name, State.SOUND, 8192 + 3 * 128 + 8 * 16, 2, 4, 8, 1, 3, 1, 0,
                os.getpid(), os.geteuid(), 0o640,
            ),
        )
        others = [self.make()[0] for _ in range(20)]
        names = {info.name for info in objects.list()}
        self.assertTrue(names.issuperset(others))

    def test_check_and_repair(self):
        name, ring = self.make()
        verdict = objects.check(Mechanism.RING, name)
        self.assertEqual(verdict.findings, 0)
        self.assertIn("1 of 64 handles open", verdict.report)
        for _ in range(20):
            self.corpse(name)
            self.assertEqual(objects.check(Mechanism.RING, name).findings, 1)
            self.assertEqual(objects.repair(Mechanism.RING, name), 1)
        self.assertEqual(objects.repair(Mechanism.RING, name), 0)
        self.assertEqual(self.info(name).state, State.SOUND)

    def test_a_long_report(self):
        name, _ = self.make(max_handles=30)
        with open(path(name), "r+b") as file:
            for slot in range(1, 30):  # "in use", and nobody has its lock
                file.seek(8192 + 128 * slot)
                file.write(b"\1")
        verdict = objects.check(Mechanism.RING, name)
        self.assertEqual(verdict.findings, 29)
        lines = verdict.report.splitlines()
        self.assertEqual(len(lines), 30)
        self.assertTrue(lines[-1].startswith("participant 29:"))
        self.assertEqual(self.info(name).handles_dead, 29)

    def test_corrupt(self):
        name, _ = self.make()
        with open(path(name), "r+b") as file:
            file.seek(4096)
            file.write(b"\x63")
        with self.assertRaises(OSError) as caught:
            objects.check(Mechanism.RING, name)
        self.assertEqual(caught.exception.errno, errno.EBADMSG)
        self.assertIn("tail, at 0x1000, is 99", str(caught.exception))
        self.assertEqual(self.info(name).state, State.CORRUPT)
        with self.assertRaises(OSError) as caught:
            objects.repair(Mechanism.RING, name)
        self.assertEqual(caught.exception.errno, errno.EBADMSG)

    def test_holders(self):
        name, ring = self.make()
        (one,) = objects.holders(Mechanism.RING, name)
        self.assertEqual((one.pid, one.uid, one.alive), (os.getpid(), os.geteuid(), True))
        self.assertGreater(one.since_ns, 0)
        self.assertTrue(one.command)
        ring.close()
        self.assertEqual(objects.holders(Mechanism.RING, name), [])

    def test_reap(self):
        name, ring = self.make()
        with self.assertRaises(OSError) as caught:
            objects.reap(Mechanism.RING, name)
        self.assertEqual(caught.exception.errno, errno.EBUSY)
        ring.close()
        self.assertEqual(objects.reap(Mechanism.RING, name, dry_run=True), 1)
        self.assertEqual(objects.reap(Mechanism.RING, name), 1)
        self.assertIsNone(self.info(name))
        self.assertRaises(FileNotFoundError, objects.reap, Mechanism.RING, name)
        # No test has a mutex, so this takes nobody anything.
        self.assertGreaterEqual(objects.reap(Mechanism.MUTEX), 0)

    def test_arguments(self):
        self.assertRaises(FileNotFoundError, objects.check, Mechanism.SEM, self.name())
        self.assertRaises(TypeError, objects.check, Mechanism.RING, None)
        for wrong in (0, 99):
            with self.assertRaises(OSError) as caught:
                objects.check(wrong, "/x")
            self.assertEqual(caught.exception.errno, errno.EINVAL)
