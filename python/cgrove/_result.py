"""What a finished run gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ._errors import CommandFailed
from ._report import Report


@dataclass(frozen=True)
class Result:
    """The report, and what was captured: None for a stream that was not."""

    report: Report
    stdout: Optional[bytes] = None
    stderr: Optional[bytes] = None

    @property
    def returncode(self) -> int:
        """The command's exit code; 128+N for signal N, 124 for a timeout, 126, 127: not started."""
        return self.report.exit.status

    @property
    def ok(self) -> bool:
        """The command ended by itself, with 0."""
        return self.report.ok

    @property
    def out(self) -> str:
        """Its standard output as text; bytes that are not UTF-8 are replaced."""
        return (self.stdout or b"").decode(errors="replace")

    @property
    def err(self) -> str:
        """Its standard error as text."""
        return (self.stderr or b"").decode(errors="replace")

    def check(self) -> Result:
        """This result if the command exited with 0; raises `CommandFailed` otherwise."""
        if not self.ok:
            raise CommandFailed(self)
        return self
