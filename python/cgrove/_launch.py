"""What running under asyncio and without it have in common: the command line, the report, the name.

The report must not mix with the command's output, and the command must not inherit anything that
carries it. So it goes to a file without a name in memory, which cgrove opens through ``/proc`` and
closes before it starts the command; nothing touches a disk, and nothing is left if this process is
killed. Where that cannot be, it is a temporary file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any, Callable, Optional, Sequence, Union

from ._binary import find
from ._errors import CgroveError
from ._events import Events
from ._options import split, words
from ._report import Report

Word = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

FAILED = 125
"""The status with which cgrove itself fails."""
STARTING = 10.0
"""Seconds within which a live run can be asked something."""
ANSWERING = 60.0
"""Seconds within which a live run has answered."""
KILLING = 10.0
"""Seconds after which a run that cannot be ended through its cgroup is ended with cgrove."""
STEP = 0.1
"""Seconds between two tries to end it."""


class Launch:
    """A run of cgrove: how to start it, how to speak to it, how to understand its end."""

    def __init__(self, command: Sequence[Word], options: Mapping[str, Any]) -> None:
        if isinstance(command, (str, bytes, os.PathLike)):
            raise TypeError(
                "the command is a list of words; for a shell's line use ['sh', '-c', line]"
            )
        process, run = split(options)
        if run.get("die_with_parent") is True:
            # Named, it is this process even if it ends before cgrove could ask for its parent.
            run["die_with_parent"] = os.getpid()
        self._events: Optional[Events] = None
        tell = run.get("events")
        if callable(tell):
            # Checked before there is a thread.
            words({**run, "events": None})
            self._events = Events(tell)
            run["events"] = self._events.path
        line = words(run)
        self.binary = find(process.pop("binary", None))
        self.popen: dict[str, Any] = process
        self._asked_name: Optional[str] = run.get("name")
        self._pid = 0
        self._asked_from = 0.0
        self._file, path = report_file()
        self._text: Optional[bytes] = None
        self._report: Optional[Report] = None
        own: list[Word] = [self.binary, "run", "--quiet", f"--json={path}", *line, "--"]
        self.words: list[Word] = own + list(command)

    def started(self, pid: int) -> None:
        """cgrove runs, with this pid."""
        self._pid = pid
        self._asked_from = time.monotonic()

    def not_started(self) -> None:
        """It could not even be started."""
        self._file.close()
        self._end_events()

    @property
    def name(self) -> str:
        """The name of the run's cgroup."""
        return self._asked_name or f"run-{self._pid}"

    def ask(self, ended: Callable[[], bool], command: str, *args: str) -> str:
        """What ``cgrove COMMAND NAME ARGS`` prints; waits for a run that has only just started."""
        while True:
            over = ended()
            try:
                done = subprocess.run(
                    [self.binary, command, self.name, *args],
                    env=self.popen.get("env"),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    timeout=ANSWERING,
                )
            except subprocess.TimeoutExpired:
                raise CgroveError(
                    f"cgrove {command} {self.name} did not end within {ANSWERING:g} s; "
                    "kill the run if it is stuck"
                ) from None
            if done.returncode == 0:
                return done.stdout.decode(errors="replace")
            line = own_line(done.stderr) or f"cgrove {command} failed ({done.returncode})"
            starting = time.monotonic() - self._asked_from < STARTING
            if over or not starting or "no such run" not in line:
                raise CgroveError(line)
            time.sleep(0.002)

    def kill_once(self) -> None:
        """Kills the tree through its cgroup. A run that has no door yet is to be tried again."""
        try:
            self.ask(lambda: True, "set", "cgroup.kill", "1")
        except (CgroveError, OSError):
            pass

    def failed(self, status: int) -> bool:
        """cgrove has ended with `status`, and only its standard error says why."""
        return status == FAILED and not self._written()

    def finish(self, status: int, stderr: Optional[bytes]) -> Report:
        """The report, when cgrove has ended with `status`; the same answer each time."""
        self._end_events()
        if self._report is None:
            text = self._written()
            if text:
                self._report = Report.from_json(text)
                return self._report
            if status == FAILED:
                line = own_line(stderr)
                raise CgroveError(line or "cgrove failed; its line on standard error says why")
            if status < 0:
                raise CgroveError(
                    f"cgrove was killed by {signal.Signals(-status).name}, and what it held with "
                    "it; see what sends signals here"
                )
            raise CgroveError(
                f"{self.binary} ended with {status} and left no report; is this really cgrove?"
            )
        return self._report

    def _end_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.end()

    def _written(self) -> bytes:
        if self._text is None:
            with self._file as file:
                file.seek(0)
                self._text = file.read()
        return self._text


def own_line(stderr: Optional[bytes]) -> Optional[str]:
    """The last line in which cgrove speaks for itself, without its name in front."""
    for line in reversed((stderr or b"").decode(errors="replace").splitlines()):
        if line.startswith("cgrove: "):
            return line[len("cgrove: ") :]
    return None


def report_file() -> tuple[IO[bytes], str]:
    """An empty file, and the path under which cgrove can open it."""
    try:
        # A process that cannot be dumped belongs to root here, and hides its files from others.
        if os.stat("/proc/self").st_uid == os.geteuid():
            memory = os.memfd_create("cgrove-report")
            return open(memory, "r+b"), f"/proc/{os.readlink('/proc/self')}/fd/{memory}"
    except (AttributeError, OSError):
        pass
    file: Any = tempfile.NamedTemporaryFile(prefix="cgrove-report-")
    return file, file.name
