"""Run command trees under limits, and read what they did as objects.

A thin layer over the program ``cgrove``: it builds the command line, keeps the report apart from
the command's own output, and turns both into typed values. Everything that holds a process tree
happens in the program.

    import cgrove

    result = cgrove.run(["make", "-j8"], pids_max=64, timeout=600, capture_output=True)
    print(result.report.describe(), result.report.cpu.user_ns, result.out)

`run` waits, `start` streams, `run_async` and `start_async` do so under asyncio. What a command
leaves behind is killed by the time they return, unless ``keep_descendants`` says otherwise.
"""

from ._aio import AsyncProcess, run_async, start_async
from ._binary import find
from ._errors import CgroveError, CommandFailed, NotFound
from ._options import Options, ProcessOptions, RunOptions
from ._process import Process, run, start
from ._report import (
    Classes,
    Cpu,
    CpuMax,
    Exit,
    Forks,
    LeftBehind,
    Limits,
    Memory,
    OomKill,
    PidsMax,
    Report,
    Survivor,
    Tasks,
)
from ._result import Result

__version__ = "0.1.0"

__all__ = [
    "AsyncProcess",
    "CgroveError",
    "Classes",
    "CommandFailed",
    "Cpu",
    "CpuMax",
    "Exit",
    "Forks",
    "LeftBehind",
    "Limits",
    "Memory",
    "NotFound",
    "OomKill",
    "Options",
    "PidsMax",
    "Process",
    "ProcessOptions",
    "Report",
    "Result",
    "RunOptions",
    "Survivor",
    "Tasks",
    "find",
    "run",
    "run_async",
    "start",
    "start_async",
]
