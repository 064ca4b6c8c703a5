"""What can go wrong, apart from the command itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._result import Result


class CgroveError(Exception):
    """cgrove did not do what was asked; the text is one line that says why and what to do."""


class NotFound(CgroveError):
    """There is no program ``cgrove`` to run."""


class CommandFailed(CgroveError):
    """The command did not exit with 0, and `check` was asked for."""

    def __init__(self, result: Result) -> None:
        command = " ".join(result.report.command)
        super().__init__(f"{command}: {result.report.describe()}")
        self.result = result
        """Everything that is known of the run."""
