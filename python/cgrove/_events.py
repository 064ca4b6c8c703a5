"""What happens in a run, handed to a function as it happens.

The lines come through a pipe that cgrove opens by its path in ``/proc``, so the command inherits
nothing. A thread takes them in. The pipe's other end is kept open until cgrove has ended: the
reader's end of file is then the end of the run.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Callable, Dict

Event = Dict[str, Any]
"""A line of docs/REPORT.md, "The events", as an object."""


class Events:
    """A function that is told what happens."""

    def __init__(self, tell: Callable[[Event], object]) -> None:
        self._tell = tell
        reader, self._writer = os.pipe()
        self.path = f"/proc/{os.readlink('/proc/self')}/fd/{self._writer}"
        self._thread = threading.Thread(
            target=self._read, args=(reader,), name="cgrove-events", daemon=True
        )
        self._thread.start()

    def _read(self, reader: int) -> None:
        with open(reader, "rb") as lines:
            for line in lines:
                self._tell(json.loads(line))

    def end(self) -> None:
        """Returns when everything has been told; cgrove has ended."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        if self._thread is not threading.current_thread():
            self._thread.join()
