"""The build backend: what is in a wheel, and that the same files give the same bytes."""

import base64
import csv
import hashlib
import importlib.util
import io
import subprocess
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

import cgrove

ROOT = Path(__file__).resolve().parent.parent


def backend():
    spec = importlib.util.spec_from_file_location("backend", ROOT / "build-backend" / "backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@unittest.skipUnless((ROOT / "build-backend").exists(), "the package is installed, not its source")
class Package(unittest.TestCase):
    def test_a_wheel_is_whole_and_always_the_same(self):
        wheels = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                wheels.append((Path(folder) / backend().build_wheel(folder)).read_bytes())
        self.assertEqual(wheels[0], wheels[1])
        with zipfile.ZipFile(io.BytesIO(wheels[0])) as wheel:
            names = wheel.namelist()
            for source in (ROOT / "cgrove").glob("*.py"):
                self.assertIn(f"cgrove/{source.name}", names)
            info = f"cgrove-{cgrove.__version__}.dist-info"
            self.assertIn("cgrove/py.typed", names)
            self.assertIn(f"{info}/licenses/LICENSE-MIT", names)
            self.assertIn("Requires-Python: >=3.9", wheel.read(f"{info}/METADATA").decode())
            record = csv.reader(io.StringIO(wheel.read(f"{info}/RECORD").decode()))
            listed = {name: digest for name, digest, _ in record}
            self.assertEqual(sorted(listed), sorted(names))
            for name, digest in listed.items():
                if digest:
                    sha = hashlib.sha256(wheel.read(name)).digest()
                    text = base64.urlsafe_b64encode(sha).rstrip(b"=").decode()
                    self.assertEqual(digest, f"sha256={text}", name)

    def test_a_source_distribution_has_what_it_takes(self):
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(Path(folder) / backend().build_sdist(folder)) as archive:
                names = archive.getnames()
        top = f"cgrove-{cgrove.__version__}"
        for name in ("PKG-INFO", "pyproject.toml", "LICENSE-APACHE", "build-backend/backend.py",
                     "cgrove/_launch.py", "tests/test_run.py", "examples/tool_runner.py"):
            self.assertIn(f"{top}/{name}", names)

    def test_package_and_program_have_one_version(self):
        text = subprocess.run([cgrove.find(), "--version"], stdout=subprocess.PIPE).stdout
        self.assertEqual(text.decode(), f"cgrove {cgrove.__version__}\n")


if __name__ == "__main__":
    unittest.main()
