"""The report as objects: the fields of docs/REPORT.md under the same names.

A figure that is not known is None. Fields that this package does not know yet are kept in `raw`;
a version that it does not know is refused, because there a known name may mean something else.
Python's own words get an underscore behind: `class_`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Tuple, Type, TypeVar, Union

from ._errors import CgroveError

VERSION = 1
"""The version of the report that the names here stand for."""


@dataclass(frozen=True)
class Exit:
    """The command's end in numbers."""

    code: Optional[int]
    signal: Optional[int]
    status: int


@dataclass(frozen=True)
class CpuMax:
    """CPU bandwidth: so much in every period."""

    quota_us: Optional[int]
    period_us: int


@dataclass(frozen=True)
class Limits:
    """What was asked for; None is no limit."""

    pids_max: Optional[int]
    timeout_ms: Optional[int]
    kill_grace_ms: int
    memory_max: Optional[int] = None
    memory_high: Optional[int] = None
    cpu_max: Optional[CpuMax] = None
    cpus: Optional[str] = None
    cpu_weight: Optional[int] = None


@dataclass(frozen=True)
class PidsMax:
    """What the task limit did."""

    hits: Optional[int]
    where: Optional[str]


@dataclass(frozen=True)
class Cpu:
    """CPU time of the whole tree, daemons and exited children included."""

    user_ns: int
    system_ns: int
    class_: str
    note: Optional[str]
    periods: Optional[int] = None
    throttled_periods: Optional[int] = None
    throttled_ns: Optional[int] = None
    limit_class: Optional[str] = None

    @property
    def total_ns(self) -> int:
        """Both together."""
        return self.user_ns + self.system_ns


@dataclass(frozen=True)
class Tasks:
    """Processes and threads."""

    peak: Optional[int]
    at_most: Optional[int]
    class_: str


@dataclass(frozen=True)
class Forks:
    """Forks, let through and refused."""

    count: Optional[int]
    refused: Optional[int]
    class_: str


@dataclass(frozen=True)
class Survivor:
    """A process that the command left behind."""

    pid: int
    cmdline: Tuple[str, ...]


@dataclass(frozen=True)
class LeftBehind:
    """What was killed at the end."""

    killed: int
    processes: Tuple[Survivor, ...]
    passes: int
    truncated: bool
    class_: str


@dataclass(frozen=True)
class Classes:
    """How well limits, kill and freezes held: exact, sampled, kernel or unknown."""

    pids: str
    kill: str
    freeze: Optional[str] = None


@dataclass(frozen=True)
class OomKill:
    """A process that was killed for memory."""

    pid: int
    cmdline: Tuple[str, ...]
    bytes: Optional[int] = None
    group: Optional[str] = None
    usage_bytes: Optional[int] = None
    limit_bytes: Optional[int] = None
    at_ms: Optional[int] = None


@dataclass(frozen=True)
class Memory:
    """What memory was used, and what its limits did."""

    peak_bytes: Optional[int]
    measure: Optional[str]
    class_: str
    max_hits: Optional[int] = None
    high_hits: Optional[int] = None
    overshoot_bytes: Optional[int] = None
    oom_kill_count: Optional[int] = None
    oom_kills: Tuple[OomKill, ...] = ()


@dataclass(frozen=True)
class Report:
    """A run's result."""

    version: int
    name: str
    command: Tuple[str, ...]
    pid: Optional[int]
    backend: Optional[str]
    backend_reason: str
    exit: Exit
    reason: str
    exec_error: Optional[str]
    limits: Limits
    pids_max: PidsMax
    wall_ns: int
    cpu: Cpu
    tasks: Tasks
    forks: Forks
    left_behind: LeftBehind
    classes: Classes
    warnings: Tuple[str, ...]
    memory: Optional[Memory] = None
    series: Optional[Mapping[str, Any]] = field(default=None, repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, text: Union[str, bytes]) -> Report:
        """Reads what ``cgrove run --json`` wrote."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise CgroveError(f"the report is not JSON: {error}; is this really cgrove's?") from None
        if not isinstance(data, dict):
            raise CgroveError("the report is not a JSON object; is this really cgrove's?")
        version = data.get("version")
        if version != VERSION:
            raise CgroveError(
                f"the report has version {version} and this package knows {VERSION}; "
                "use a package and a program that belong together"
            )
        return _build(cls, data, "report")

    @property
    def ok(self) -> bool:
        """The command ended by itself, with 0."""
        return self.exit.status == 0

    def describe(self) -> str:
        """How the command ended, in a few words for people."""
        name = _signal_name(self.exit.signal)
        ended = f"exited {self.exit.code}" if name is None else f"killed by {name}"
        if self.reason == "timeout":
            limit = self.limits.timeout_ms
            return "timed out" if limit is None else f"timed out after {limit / 1000:g} s"
        if self.reason == "exec-failed":
            return f"did not start: {self.exec_error}"
        if self.reason == "parent-ended":
            return "ended with its parent"
        if self.reason == "supervisor-killed":
            return "its supervisor was killed, and everything with it"
        if self.reason == "pids-max":
            hits, where = self.pids_max.hits, self.pids_max.where
            times = "once" if hits == 1 else f"{hits} times"
            return f"{ended} after the task limit of {where} was hit {times}"
        if self.reason == "memory-max":
            return f"{ended} for memory"
        return ended


def _signal_name(number: Optional[int]) -> Optional[str]:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


T = TypeVar("T")


@functools.lru_cache(maxsize=None)
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Type[T], data: Any, where: str) -> T:
    """An object of dataclass `kind`; every field without a default must be there."""
    if not isinstance(data, dict):
        raise CgroveError(f"{where} is not an object; use a program and a package of one version")
    values: dict[str, Any] = {}
    plain: Any = kind
    hints = _hints(plain)
    for known in dataclasses.fields(plain):
        key = known.name.rstrip("_")
        if known.name == "raw":
            values["raw"] = data
        elif key in data:
            values[known.name] = _value(hints[known.name], data[key], f"{where}.{key}")
        elif known.default is dataclasses.MISSING:
            raise CgroveError(f"{where}.{key} is missing; use a program and a package of one version")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint` wants it: a plain type, Optional, Tuple[X, ...], Mapping or a dataclass."""
    origin = typing.get_origin(hint)
    if origin is Union:
        if value is None:
            return None
        return _value(typing.get_args(hint)[0], value, where)
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, part, where) for part in value)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(Any, hint), value, where)
    plain = dict if origin is not None else hint
    # In JSON true is no number, in Python it is.
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise CgroveError(f"{where} is {value!r}; use a program and a package of one version")
    return value
