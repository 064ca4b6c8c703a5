"""Running and streaming, without asyncio."""

from __future__ import annotations

import signal
import subprocess
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Optional, Sequence, Type, Union

from ._errors import CgroveError
from ._launch import KILLING, STEP, Launch, Word
from ._report import Report
from ._result import Result

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._options import Options


def run(
    command: Sequence[Word],
    *,
    input: Union[str, bytes, None] = None,
    capture_output: bool = False,
    check: bool = False,
    **options: Unpack[Options],
) -> Result:
    """Runs `command` under cgrove and waits for its end.

    Streams are bytes and are the caller's unless captured, as with `subprocess.run`; `input` as
    text is UTF-8. A command that fails is no error unless `check` asks for it: see the report.
    If this is interrupted the whole tree is killed first; an interrupt in the moment in which
    cgrove is being started can lose sight of it, as with `subprocess`.
    """
    with start(command, **capturing(options, input, capture_output)) as process:
        result = process.communicate(input)
    return result.check() if check else result


def start(command: Sequence[Word], **options: Unpack[Options]) -> Process:
    """Starts `command` under cgrove; ``stdout=subprocess.PIPE`` and the like stream."""
    return Process(command, **options)


class Process:
    """A run that goes on. As a context manager it waits at the end, and kills on an exception."""

    def __init__(self, command: Sequence[Word], **options: Unpack[Options]) -> None:
        self._launch = Launch(command, options)
        try:
            self._popen: subprocess.Popen[bytes] = subprocess.Popen(
                self._launch.words, **self._launch.popen
            )
        except BaseException:
            self._launch.not_started()
            raise
        self._launch.started(self._popen.pid)
        self._stderr: Optional[bytes] = None

    @property
    def stdin(self) -> Optional[IO[bytes]]:
        """The command's standard input, if it is a pipe."""
        return self._popen.stdin

    @property
    def stdout(self) -> Optional[IO[bytes]]:
        """The command's standard output, if it is a pipe."""
        return self._popen.stdout

    @property
    def stderr(self) -> Optional[IO[bytes]]:
        """The command's standard error, if it is a pipe."""
        return self._popen.stderr

    @property
    def pid(self) -> int:
        """The pid of cgrove, which passes signals on; the command's own is in the report."""
        return self._popen.pid

    @property
    def name(self) -> str:
        """The name of the run's cgroup, for ``cgrove tree`` and the like."""
        return self._launch.name

    def poll(self) -> Optional[Report]:
        """The report, or None while the run goes on."""
        return None if self._popen.poll() is None else self._finish()

    def wait(self, timeout: Optional[float] = None) -> Report:
        """The report, when the run has ended; `subprocess.TimeoutExpired` if that takes longer.

        A pipe that nobody reads can hold the command up: use `communicate` then.
        """
        self._popen.wait(timeout)
        return self._finish()

    def communicate(
        self, input: Union[str, bytes, None] = None, timeout: Optional[float] = None
    ) -> Result:
        """Feeds `input`, reads pipes to their ends, and waits."""
        data = input.encode() if isinstance(input, str) else input
        stdout, self._stderr = self._popen.communicate(data, timeout)
        return Result(self._finish(), stdout, self._stderr)

    def send_signal(self, number: int) -> None:
        """Sends the command a signal, through cgrove. To kill there is `kill`."""
        self._popen.send_signal(number)

    def terminate(self) -> None:
        """Asks the command to end: SIGTERM."""
        self._popen.terminate()

    def kill(self) -> None:
        """Kills the whole tree; when this returns nothing of it is left."""
        deadline = time.monotonic() + KILLING
        while self._popen.poll() is None and time.monotonic() < deadline:
            self._launch.kill_once()
            try:
                self._popen.wait(STEP)
            except subprocess.TimeoutExpired:
                pass
        if self._popen.poll() is None:
            # Its supervisor sees that, and kills the tree.
            self._popen.send_signal(signal.SIGKILL)
            self._popen.wait()

    def freeze(self) -> None:
        """Brings all tasks to a halt; returns when they are."""
        self._ask("freeze")

    def thaw(self) -> None:
        """Lets a frozen run go on."""
        self._ask("thaw")

    def get(self, file: str) -> str:
        """Reads a file of the run's cgroup, such as ``pids.current``."""
        return self._ask("get", file)

    def set(self, file: str, value: object) -> None:
        """Writes a file of the run's cgroup, such as ``pids.max``."""
        self._ask("set", file, str(value))

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if kind is not None:
            self.kill()
        self._popen.__exit__(kind, error, trace)
        try:
            self._finish()
        except CgroveError:
            # The other exception came first.
            if kind is None:
                raise

    def _ask(self, command: str, *args: str) -> str:
        return self._launch.ask(lambda: self._popen.poll() is not None, command, *args)

    def _finish(self) -> Report:
        status, pipe = self._popen.returncode, self._popen.stderr
        if self._launch.failed(status) and self._stderr is None and pipe and not pipe.closed:
            self._stderr = pipe.read()
        return self._launch.finish(status, self._stderr)


def capturing(options: Any, input: Union[str, bytes, None], capture_output: bool) -> Options:
    """The options with pipes where `run` needs them."""
    wanted: Options = {}
    if input is not None:
        wanted["stdin"] = subprocess.PIPE
    if capture_output:
        wanted["stdout"] = wanted["stderr"] = subprocess.PIPE
    twice = sorted(name for name in wanted if options.get(name) is not None)
    if twice:
        raise TypeError(f"{', '.join(twice)}: use either this or input and capture_output")
    together: Options = {**options, **wanted}
    return together
