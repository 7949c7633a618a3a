"""What type checkers say of the package, and of a program that uses it."""

import os
import re
import subprocess
import sys

from support import Case
import madang

HERE = os.path.dirname(os.path.abspath(__file__))


class Types(Case):
    def test_mypy(self):
        mypy = os.environ.get("MADANG_MYPY")
        command = [mypy] if mypy else [sys.executable, "-m", "mypy"]
        if subprocess.run(command + ["--version"], capture_output=True).returncode:
            self.skipTest("no mypy: `pip install mypy`, or set MADANG_MYPY to the path of one")
        package = os.path.dirname(os.path.abspath(madang.__file__))
        program = os.path.join(HERE, "typed.py")
        command += ["--strict", "--no-error-summary", "--cache-dir", os.devnull, package, program]
        environment = dict(os.environ, MYPYPATH=os.path.dirname(package))
        checked = subprocess.run(command, capture_output=True, text=True, env=environment)
        self.assertEqual(checked.stderr, "")
        # "PATH:LINE: error: TEXT", and notes.
        found = re.findall(r"^(.*):(\d+): error: (.*)$", checked.stdout, re.MULTILINE)
        elsewhere = [one for one in found if os.path.basename(one[0]) != "typed.py"]
        self.assertEqual(elsewhere, [])
        with open(program) as lines:
            expected = [n for n, line in enumerate(lines, 1) if line.endswith("# mistake\n")]
        self.assertEqual([int(line) for _, line, _ in found], expected, checked.stdout)
