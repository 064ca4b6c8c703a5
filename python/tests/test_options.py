"""Keywords become options, and the program is asked which there are."""

import os
import re
import subprocess
import unittest
from datetime import timedelta
from pathlib import Path

import cgrove
from cgrove import _options

from .kit import Case

NOT_YET = {
    "cpu_max", "cpu_weight", "cpus", "memory_high", "memory_max",
    "die_with_parent", "events", "metrics", "on_high", "progress", "report", "series",
}
"""Options that programs of this version may be without."""


class Options(Case):
    def test_the_list_is_the_programs(self):
        text = subprocess.run(
            [cgrove.find(), "run", "--help"], stdout=subprocess.PIPE, check=True
        ).stdout.decode()
        there = {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z-]*)", text)}
        self.assertIn("pids_max", there)
        known = set(cgrove.RunOptions.__annotations__)
        self.assertEqual(there - known, set(_options.OURS))
        self.assertLessEqual(known - there, NOT_YET)

    def test_one_rule_for_all(self):
        for options, words in [
            ({"pids_max": 64}, ["--pids-max=64"]),
            ({"pids_max": "max"}, ["--pids-max=max"]),
            ({"timeout": 1.5, "kill_grace": timedelta(milliseconds=20)},
             ["--timeout=1.5", "--kill-grace=0.02"]),
            ({"timeout": "10m", "name": "-x"}, ["--timeout=10m", "--name=-x"]),
            ({"keep_descendants": True}, ["--keep-descendants"]),
            ({"keep_descendants": False, "name": None}, []),
            ({"set": {"pids.max": 7, "cgroup.freeze": "0"}},
             ["--set=pids.max=7", "--set=cgroup.freeze=0"]),
            ({"require": ["pids=exact", "gate"]}, ["--require=pids=exact,gate"]),
            ({"require": "gate"}, ["--require=gate"]),
            ({"cpus": range(3)}, ["--cpus=0,1,2"]),
            ({"report": Path("/a/b.html")}, ["--report=/a/b.html"]),
            ({"pids_max": 0}, ["--pids-max=0"]),
            ({"not_known_here": 1}, ["--not-known-here=1"]),
        ]:
            self.assertEqual(_options.words(options), words)

    def test_what_cannot_be_meant(self):
        for name in _options.OURS:
            with self.assertRaises(TypeError):
                cgrove.run(["true"], **{name: "x"})
        with self.assertRaises(TypeError):
            cgrove.run(["true"], pids_max=object())
        with self.assertRaisesRegex(TypeError, "list of words"):
            cgrove.run("echo hi")
        with self.assertRaises(TypeError):
            cgrove.run(["true"], input=b"", stdin=subprocess.DEVNULL)

    def test_the_program_decides(self):
        for options, told in [
            ({"pid_max": 5}, "--pids-max"),
            ({"pids_max": -1}, "number"),
            ({"timeout": float("nan")}, "seconds"),
            ({"name": "a/b"}, "slash"),
            ({"require": ["luck"]}, "known are"),
        ]:
            with self.subTest(options), self.assertRaisesRegex(cgrove.CgroveError, told) as caught:
                cgrove.run(["true"], capture_output=True, **options)
            self.assert_one_line(caught.exception)


class Binary(Case):
    def setUp(self):
        self.real = cgrove.find()
        old = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(old)))

    def test_the_order_of_places(self):
        os.environ.pop("CGROVE_BIN", None)
        os.environ["PATH"] = os.path.dirname(self.real) + ":" + os.environ.get("PATH", "")
        self.assertEqual(cgrove.find(), self.real)
        os.environ["CGROVE_BIN"] = "true"
        self.assertEqual(os.path.basename(cgrove.find()), "true")
        self.assertEqual(cgrove.find(self.real), self.real)
        self.assertTrue(cgrove.run(["true"], binary=self.real).ok)

    def test_none_is_an_error_with_advice(self):
        os.environ["CGROVE_BIN"] = "/no/such/cgrove"
        with self.assertRaisesRegex(cgrove.NotFound, "CGROVE_BIN") as caught:
            cgrove.run(["true"])
        self.assert_one_line(caught.exception)
        with self.assertRaisesRegex(cgrove.NotFound, "binary="):
            cgrove.find("/etc/passwd")
        del os.environ["CGROVE_BIN"]
        os.environ["PATH"] = "/no/such"
        if not os.path.exists(cgrove._binary.BUNDLED):
            with self.assertRaisesRegex(cgrove.NotFound, "PATH"):
                cgrove.find()

    def test_some_other_program(self):
        with self.assertRaisesRegex(cgrove.CgroveError, "really cgrove"):
            cgrove.run(["true"], binary="true")


if __name__ == "__main__":
    unittest.main()
