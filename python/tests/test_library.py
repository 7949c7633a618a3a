import os
import subprocess
import sys
import tempfile
from unittest import mock

from support import Case
from madang import _library


class Order(Case):
    def setUp(self):
        self.real = os.path.abspath(_library.path)
        if not os.path.exists(self.real):
            self.skipTest("the library came from the system")
        before = _library.path
        self.addCleanup(setattr, _library, "path", before)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.package = os.path.join(self.root, "python", "madang")
        os.makedirs(self.package)
        environment = mock.patch.dict(os.environ)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("MADANG_LIBRARY", None)

    def put(self, *path):
        place = os.path.join(self.root, *path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(self.real, place)
        return place

    def found(self):
        _library.load(self.package)
        return _library.path

    def test_each_place_comes_before_the_next(self):
        debug = self.put("target", "debug", "libmadang.so")
        self.assertEqual(self.found(), debug)
        release = self.put("target", "release", "libmadang.so")
        self.assertEqual(self.found(), release)
        beside = self.put("python", "madang", "libmadang.so")
        self.assertEqual(self.found(), beside)
        named = self.put("elsewhere.so")
        os.environ["MADANG_LIBRARY"] = named
        self.assertEqual(self.found(), named)

    def test_a_wrong_variable_is_not_passed_over(self):
        self.put("target", "release", "libmadang.so")
        os.environ["MADANG_LIBRARY"] = os.path.join(self.root, "missing.so")
        with self.assertRaises(OSError) as caught:
            self.found()
        self.assertIn("missing.so", str(caught.exception))

    def test_the_error_names_every_place(self):
        with mock.patch("ctypes.CDLL", side_effect=OSError("not there")), self.assertRaises(
            FileNotFoundError
        ) as caught:
            self.found()
        text = str(caught.exception)
        for part in ("MADANG_LIBRARY", "beside the package", "release", "debug", "libmadang.so.0"):
            self.assertIn(part, text)

    def test_importing_without_a_library_says_so(self):
        environment = dict(os.environ, MADANG_LIBRARY="/nowhere/libmadang.so")
        environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(_library.__file__))
        run = subprocess.run(
            [sys.executable, "-c", "import madang"], env=environment, stderr=subprocess.PIPE
        )
        self.assertEqual(run.returncode, 1)
        self.assertIn(b"/nowhere/libmadang.so", run.stderr)
