"""Keyword arguments as options of ``cgrove run``.

There is one rule for all, `words`, and the program alone decides what an option may be: a keyword
that it does not know, or a value that makes no sense, comes back as its own line of refusal.
The lists below are for type checkers and editors; a test holds them to ``cgrove run --help``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import IO, Any, Callable, Optional, Sequence, TypedDict, Union

from ._binary import PathName
from ._events import Event

Seconds = Union[int, float, str, timedelta]
"""Seconds, or a text such as ``1.5s`` or ``10m``."""
Amount = Union[int, str]
"""A number, or a text such as ``2G`` or ``max``."""
Stream = Union[None, int, IO[Any]]
"""What `subprocess.Popen` takes for a stream."""


class RunOptions(TypedDict, total=False):
    """Options of ``cgrove run``; `None` is as good as absent."""

    pids_max: Optional[Amount]
    memory_max: Optional[Amount]
    memory_high: Optional[Amount]
    cpu_max: Optional[str]
    cpu_weight: Optional[Amount]
    cpus: Union[str, Sequence[int], None]
    timeout: Optional[Seconds]
    kill_grace: Optional[Seconds]
    set: Optional[Mapping[str, Amount]]
    on_high: Optional[str]
    name: Optional[str]
    keep_descendants: Optional[bool]
    die_with_parent: Union[bool, int, None]
    backend: Optional[str]
    require: Union[str, Sequence[str], None]
    series: Optional[bool]
    report: Optional[PathName]
    metrics: Optional[str]
    progress: Optional[bool]
    events: Union[PathName, Callable[[Event], object], None]


class ProcessOptions(TypedDict, total=False):
    """How the program is started, with the meanings of `subprocess.Popen`."""

    binary: Optional[PathName]
    cwd: Optional[PathName]
    env: Optional[Mapping[str, str]]
    stdin: Stream
    stdout: Stream
    stderr: Stream
    pass_fds: Sequence[int]
    start_new_session: bool


class Options(RunOptions, ProcessOptions, total=False):
    """Everything that `run` and `start` take by keyword."""


OURS = {
    "json": "the report comes back as an object",
    "quiet": "there is no summary line to silence",
    "verbose": "what it would say is in the report",
}
"""Options that this package uses itself, and what there is instead."""


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the process, and those of ``cgrove run``."""
    process = {key: options[key] for key in options if key in ProcessOptions.__annotations__}
    return process, {key: options[key] for key in options if key not in process}


def words(options: Mapping[str, Any]) -> list[str]:
    """``pids_max=64`` as ``--pids-max=64``: the one rule by which keywords become options.

    True is the option alone, None and False leave it out, a mapping repeats it with each
    ``KEY=VALUE``, a list is joined with commas, a `timedelta` is seconds.
    """
    line = []
    for key, value in options.items():
        if key in OURS:
            raise TypeError(f"{key} is not for callers: {OURS[key]}")
        option = "--" + key.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            line.append(option)
        elif isinstance(value, Mapping):
            line.extend(f"{option}={name}={text(part)}" for name, part in value.items())
        elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
            line.append(f"{option}={','.join(text(part) for part in value)}")
        else:
            line.append(f"{option}={text(value)}")
    return line


def text(value: object) -> str:
    """One value as the program reads it."""
    if isinstance(value, timedelta):
        return repr(value.total_seconds())
    if isinstance(value, (str, bytes, os.PathLike)):
        return os.fsdecode(value)
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"no option takes a {type(value).__name__}")
