"""Running and streaming under asyncio.

Cancelling what waits for a run kills the run: an agent's timeout must not leave a tree behind. What
blocks, the short talks with a live run, happens in a thread.
"""

from __future__ import annotations

import asyncio
import signal
import time
from types import TracebackType
from typing import TYPE_CHECKING, Optional, Sequence, Type, Union

from ._errors import CgroveError
from ._launch import KILLING, STEP, Launch, Word
from ._process import capturing
from ._report import Report
from ._result import Result

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._options import Options


async def run_async(
    command: Sequence[Word],
    *,
    input: Union[str, bytes, None] = None,
    capture_output: bool = False,
    check: bool = False,
    **options: Unpack[Options],
) -> Result:
    """`run` for asyncio. If it is cancelled the whole tree is killed first."""
    async with await start_async(command, **capturing(options, input, capture_output)) as process:
        result = await process.communicate(input)
    return result.check() if check else result


async def start_async(command: Sequence[Word], **options: Unpack[Options]) -> AsyncProcess:
    """`start` for asyncio."""
    tell = options.get("events")
    if callable(tell):
        loop, told = asyncio.get_running_loop(), tell
        options["events"] = lambda event: loop.call_soon_threadsafe(told, event)
    launch = Launch(command, options)
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(*launch.words, **launch.popen)
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may have started all the same, and nobody would know of it.
        starting.add_done_callback(lambda done: _abandon(launch, done))
        raise
    except BaseException:
        launch.not_started()
        raise
    launch.started(process.pid)
    return AsyncProcess(launch, process)


def _abandon(launch: Launch, started: asyncio.Future[asyncio.subprocess.Process]) -> None:
    if not started.cancelled() and started.exception() is None:
        try:
            started.result().kill()
        except ProcessLookupError:
            pass
    launch.not_started()


class AsyncProcess:
    """A run that goes on. As a context manager it waits at the end, and kills on an exception."""

    def __init__(self, launch: Launch, process: asyncio.subprocess.Process) -> None:
        self._launch = launch
        self._process = process
        self._stderr: Optional[bytes] = None
        self._killing: Optional[asyncio.Future[None]] = None

    @property
    def stdin(self) -> Optional[asyncio.StreamWriter]:
        """The command's standard input, if it is a pipe."""
        return self._process.stdin

    @property
    def stdout(self) -> Optional[asyncio.StreamReader]:
        """The command's standard output, if it is a pipe."""
        return self._process.stdout

    @property
    def stderr(self) -> Optional[asyncio.StreamReader]:
        """The command's standard error, if it is a pipe."""
        return self._process.stderr

    @property
    def pid(self) -> int:
        """The pid of cgrove, which passes signals on; the command's own is in the report."""
        return self._process.pid

    @property
    def name(self) -> str:
        """The name of the run's cgroup, for ``cgrove tree`` and the like."""
        return self._launch.name

    async def wait(self) -> Report:
        """The report, when the run has ended. Cancelling this alone does not end the run."""
        await self._process.wait()
        return await self._finish()

    async def communicate(self, input: Union[str, bytes, None] = None) -> Result:
        """Feeds `input`, reads pipes to their ends, and waits."""
        data = input.encode() if isinstance(input, str) else input
        stdout, self._stderr = await self._process.communicate(data)
        return Result(await self._finish(), stdout, self._stderr)

    def send_signal(self, number: int) -> None:
        """Sends the command a signal, through cgrove. To kill there is `kill`."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Asks the command to end: SIGTERM."""
        self._process.terminate()

    async def kill(self) -> None:
        """Kills the whole tree; when this returns nothing of it is left.

        It goes on to the end even if whoever waits for it is cancelled.
        """
        if self._killing is None:
            self._killing = asyncio.ensure_future(self._kill())
        await asyncio.shield(self._killing)

    async def freeze(self) -> None:
        """Brings all tasks to a halt; returns when they are."""
        await self._ask("freeze")

    async def thaw(self) -> None:
        """Lets a frozen run go on."""
        await self._ask("thaw")

    async def get(self, file: str) -> str:
        """Reads a file of the run's cgroup, such as ``pids.current``."""
        return await self._ask("get", file)

    async def set(self, file: str, value: object) -> None:
        """Writes a file of the run's cgroup, such as ``pids.max``."""
        await self._ask("set", file, str(value))

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if kind is not None:
            await self.kill()
            return
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            await self._drain()
            await self.wait()
        except asyncio.CancelledError:
            await self.kill()
            raise

    async def _kill(self) -> None:
        # Not by `wait`, which in some versions of Python waits for the ends of unread pipes too.
        pause, tries = 0.001, time.monotonic()
        deadline = tries + KILLING
        while self._process.returncode is None and time.monotonic() < deadline:
            if time.monotonic() >= tries:
                await asyncio.to_thread(self._launch.kill_once)
                tries = time.monotonic() + STEP
            await asyncio.sleep(pause)
            pause = min(2 * pause, STEP)
        if self._process.returncode is None:
            # Its supervisor sees that, and kills the tree.
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        await self._drain()
        try:
            await self._finish()
        except CgroveError:
            # Whoever waits for the report is told.
            pass

    async def _drain(self) -> None:
        """Reads pipes to their ends for nobody, so that they can be closed."""
        await asyncio.gather(_rest(self._process.stdout), _rest(self._process.stderr))

    async def _ask(self, command: str, *args: str) -> str:
        return await asyncio.to_thread(
            self._launch.ask, lambda: self._process.returncode is not None, command, *args
        )

    async def _finish(self) -> Report:
        status = self._process.returncode
        assert status is not None
        if self._launch.failed(status) and self._stderr is None:
            self._stderr = await _rest(self._process.stderr)
        try:
            return self._launch.finish(status, self._stderr)
        finally:
            # What has been told by then is waiting for its turn.
            await asyncio.sleep(0)


async def _rest(pipe: Optional[asyncio.StreamReader]) -> bytes:
    """The end of what came through `pipe`; nothing if somebody else is reading it."""
    rest = b""
    try:
        while pipe is not None:
            piece = await pipe.read(65536)
            if not piece:
                break
            rest = (rest + piece)[-65536:]
    except RuntimeError:
        pass
    return rest
