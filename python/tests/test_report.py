"""Real reports are read whole; newer ones as far as they can be."""

import dataclasses
import json
import typing
import unittest

import cgrove
from cgrove import Report

from .kit import Case, shell


def strangers(kind, data, where="report"):
    """The fields of `data` that class `kind` does not know, wherever they are."""
    hints = typing.get_type_hints(kind)
    known = {field.name.rstrip("_"): hints[field.name] for field in dataclasses.fields(kind)}
    for key, value in data.items():
        if key not in known:
            yield f"{where}.{key}"
            continue
        inner = [hint for hint in (known[key], *typing.get_args(known[key]))
                 if dataclasses.is_dataclass(hint)]
        for part in value if isinstance(value, list) else [value]:
            if inner and isinstance(part, dict):
                yield from strangers(inner[0], part, f"{where}.{key}")


class RealReports(Case):
    def run_it(self, line, **options):
        report = cgrove.run(shell(line), capture_output=True, **options).report
        self.assertEqual(list(strangers(Report, report.raw)), [])
        self.assertEqual(Report.from_json(json.dumps(report.raw)), report)
        return report

    def test_exited(self):
        report = self.run_it("exit 3", name="three", pids_max=50, timeout=60)
        self.assertEqual((report.reason, report.exit.code, report.exit.status), ("exited", 3, 3))
        self.assertEqual((report.name, report.limits.pids_max), ("three", 50))
        self.assertEqual(report.limits.timeout_ms, 60_000)
        self.assertEqual(report.command, ("sh", "-c", "exit 3"))
        self.assertEqual(report.describe(), "exited 3")
        self.assertFalse(report.ok)
        self.assertGreater(report.wall_ns, 0)
        self.assertIn(report.cpu.class_, ("exact", "sampled", "kernel"))

    def test_signaled(self):
        report = self.run_it("kill -USR1 $$")
        self.assertEqual((report.reason, report.exit.signal), ("signaled", 10))
        self.assertEqual(report.describe(), "killed by SIGUSR1")

    def test_timeout(self):
        report = self.run_it("exec sleep 1000", timeout=0.2, kill_grace=0)
        self.assertEqual((report.reason, report.exit.status), ("timeout", 124))
        self.assertEqual(report.describe(), "timed out after 0.2 s")

    def test_exec_failed(self):
        report = cgrove.run(["/no/such/program"], capture_output=True).report
        self.assertEqual((report.reason, report.exec_error), ("exec-failed", "ENOENT"))
        self.assertEqual(report.exit.status, 127)
        self.assertEqual(report.describe(), "did not start: ENOENT")
        self.assertEqual(list(strangers(Report, report.raw)), [])

    def test_refused_forks(self):
        report = self.run_it("(true); echo not reached", pids_max=1)
        if report.backend == "reaper":
            self.skipTest("nothing here can refuse a fork")
        self.assertEqual(report.reason, "pids-max")
        self.assertGreaterEqual(report.forks.refused, 1)
        self.assertGreaterEqual(report.pids_max.hits, 1)
        self.assertIn("task limit", report.describe())

    def test_left_behind(self):
        report = self.run_it("setsid sleep 1000 & sleep 1000 & exit 0")
        self.assertTrue(report.ok)
        self.assertEqual(report.left_behind.killed, 2)
        self.assertEqual(len(report.left_behind.processes), 2)


class OtherReports(Case):
    def setUp(self):
        self.data = dict(cgrove.run(["true"]).report.raw)

    def read(self, **changes):
        return Report.from_json(json.dumps({**self.data, **changes}))

    def test_a_newer_one_keeps_what_is_new(self):
        report = self.read(luck={"worst": 1}, cpu={**self.data["cpu"], "joules": 5})
        self.assertEqual(report.raw["luck"], {"worst": 1})
        self.assertEqual(report.raw["cpu"]["joules"], 5)
        self.assertEqual(report.cpu.user_ns, self.data["cpu"]["user_ns"])

    def test_memory_cpu_and_series(self):
        kill = {"pid": 9, "cmdline": ["a", "b"], "bytes": 5, "group": "/x", "usage_bytes": 7,
                "limit_bytes": 6, "at_ms": 1}
        memory = {"peak_bytes": 7, "measure": "pss", "class": "sampled", "max_hits": 1,
                  "high_hits": 0, "overshoot_bytes": 1, "oom_kills": [kill]}
        limits = {**self.data["limits"], "memory_max": 6, "memory_high": None, "cpus": "0-1",
                  "cpu_weight": 100, "cpu_max": {"quota_us": 50_000, "period_us": 100_000}}
        report = self.read(memory=memory, limits=limits, reason="memory-max",
                           series={"truncated": False})
        self.assertEqual(report.memory.oom_kills[0].cmdline, ("a", "b"))
        self.assertEqual(report.memory.class_, "sampled")
        self.assertEqual(report.limits.cpu_max, cgrove.CpuMax(50_000, 100_000))
        self.assertEqual(report.series, {"truncated": False})
        self.assertEqual(list(strangers(Report, report.raw)), [])

    def test_what_cannot_be_read_is_refused(self):
        with self.assertRaisesRegex(cgrove.CgroveError, "version 2"):
            self.read(version=2)
        with self.assertRaisesRegex(cgrove.CgroveError, "wall_ns"):
            self.read(wall_ns="long")
        with self.assertRaisesRegex(cgrove.CgroveError, "wall_ns"):
            self.read(wall_ns=True)
        with self.assertRaisesRegex(cgrove.CgroveError, "wall_ns"):
            self.read(wall_ns=None)
        with self.assertRaisesRegex(cgrove.CgroveError, "exit"):
            self.read(exit=[])
        with self.assertRaisesRegex(cgrove.CgroveError, "warnings"):
            self.read(warnings=[1])
        del self.data["forks"]
        with self.assertRaisesRegex(cgrove.CgroveError, "forks is missing"):
            self.read()
        for text in ("", "[]", '{"version": 1'):
            with self.assertRaises(cgrove.CgroveError) as caught:
                Report.from_json(text)
            self.assert_one_line(caught.exception)


if __name__ == "__main__":
    unittest.main()
