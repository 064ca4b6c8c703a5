"""Builds the package: what PEP 517 and PEP 660 ask of a backend, for this one package.

It needs nothing but Python, so the package installs where nothing can be fetched. The same files
give the same bytes. If `cgrove/bin/cgrove` is there it goes along, and the wheel is then one for
this machine's architecture instead of one for all.
"""

import base64
import gzip
import hashlib
import io
import os
import platform
import re
import stat
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cgrove"
PROGRAM = PACKAGE / "bin" / "cgrove"
VERSION = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(), re.M)[1]
NAME = f"cgrove-{VERSION}"
LICENSES = ["LICENSE-APACHE", "LICENSE-MIT"]
# The oldest time that a zip file can tell.
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def metadata():
    lines = [
        "Metadata-Version: 2.4",
        "Name: cgrove",
        f"Version: {VERSION}",
        "Summary: Run command trees under limits, and read what they did as objects",
        "License-Expression: MIT OR Apache-2.0",
        *(f"License-File: {name}" for name in LICENSES),
        "Requires-Python: >=3.9",
        "Classifier: Operating System :: POSIX :: Linux",
        "Classifier: Typing :: Typed",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + (ROOT / "README.md").read_text()


def license_files():
    """In the repository they lie beside this folder, in a source distribution inside it."""
    for name in LICENSES:
        path = next(base / name for base in (ROOT, ROOT.parent) if (base / name).exists())
        yield name, path.read_bytes()


def tag():
    if not PROGRAM.exists():
        return "py3-none-any"
    return f"py3-none-linux_{platform.machine()}"


def package_files():
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_bytes(), path == PROGRAM


def write_wheel(folder, files):
    info = f"{NAME}.dist-info"
    pure = "false" if PROGRAM.exists() else "true"
    wheel = f"Wheel-Version: 1.0\nGenerator: cgrove\nRoot-Is-Purelib: {pure}\nTag: {tag()}\n"
    entries = [*files, (f"{info}/METADATA", metadata().encode(), False)]
    entries += [(f"{info}/licenses/{name}", text, False) for name, text in license_files()]
    entries += [(f"{info}/WHEEL", wheel.encode(), False)]
    record = f"{info}/RECORD"
    lines = []
    for name, content, _ in entries:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    entries.append((record, ("".join(lines) + f"{record},,\n").encode(), False))
    file_name = f"{NAME}-{tag()}.whl"
    with zipfile.ZipFile(os.path.join(folder, file_name), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, executable in entries:
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            archive.writestr(entry, content)
    return file_name


def build_wheel(folder, config_settings=None, metadata_directory=None):
    return write_wheel(folder, list(package_files()))


def build_editable(folder, config_settings=None, metadata_directory=None):
    return write_wheel(folder, [("cgrove.pth", f"{ROOT}\n".encode(), False)])


def build_sdist(folder, config_settings=None):
    files = [(name, content) for name, content, executable in package_files() if not executable]
    for part in ("pyproject.toml", "README.md", "build-backend", "tests", "examples"):
        path = ROOT / part
        found = [path] if path.is_file() else sorted(path.rglob("*.py"))
        files += [(file.relative_to(ROOT).as_posix(), file.read_bytes()) for file in found]
    files += license_files()
    files.append(("PKG-INFO", metadata().encode()))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files):
            entry = tarfile.TarInfo(f"{NAME}/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    file_name = f"{NAME}.tar.gz"
    Path(folder, file_name).write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return file_name
