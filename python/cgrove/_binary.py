"""Which program ``cgrove`` is.

Somebody who names one means that one: a name that leads nowhere is an error and is not passed over.
"""

from __future__ import annotations

import os
import shutil
from typing import Optional, Union

from ._errors import NotFound

PathName = Union[str, "os.PathLike[str]"]

BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "cgrove")
"""Where a wheel that brings the program along has it."""


def find(binary: Optional[PathName] = None) -> str:
    """The program's path: the argument, ``CGROVE_BIN``, the package's own, the one in ``PATH``."""
    for named, whose in ((binary, "binary="), (os.environ.get("CGROVE_BIN"), "CGROVE_BIN")):
        if named:
            found = shutil.which(os.fspath(named))
            if found is None:
                raise NotFound(
                    f"{os.fspath(named)} is no program; {whose} must name an executable cgrove"
                )
            return os.path.abspath(found)
    found = shutil.which(BUNDLED) or shutil.which("cgrove")
    if found is None:
        raise NotFound(
            "there is no cgrove in PATH; install the program, or name it with CGROVE_BIN or binary="
        )
    return os.path.abspath(found)
