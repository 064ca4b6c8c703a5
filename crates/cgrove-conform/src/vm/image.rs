//! What the kernel boots into: an initramfs with our init and the places it mounts things on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use cpio::newc;

use super::{VmError, run};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const INIT: &str = "cgrove-oracle-init";

/// Builds the init, static, and gives its path.
///
/// # Errors
///
/// What cargo said.
pub fn build_init() -> Result<PathBuf, VmError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let out = run(Command::new(cargo)
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET])
        .args(["--bin", INIT, "--message-format", "json-render-diagnostics", "--manifest-path"])
        .arg(manifest)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    // One JSON message per line; the one about our program names its file.
    out.lines()
        .filter_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"'))
        .map(|(path, _)| PathBuf::from(path))
        .find(|path| path.ends_with(INIT))
        .ok_or_else(|| VmError::Program { program: "cargo".into(), what: "built no init".into() })
}

/// Writes an initramfs around an init, with other programs beside it: a name, and where they are.
///
/// # Errors
///
/// Those of reading and writing.
pub fn write(init: &Path, others: &[(&str, &Path)], to: &Path) -> Result<(), VmError> {
    let mut programs = Vec::new();
    for (name, path) in [("init", init)].iter().chain(others) {
        programs.push((*name, fs::read(path).map_err(VmError::io(*path))?));
    }
    archive(&programs).and_then(|bytes| fs::write(to, bytes)).map_err(VmError::io(to))
}

fn archive(programs: &[(&str, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    const FOLDER: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const CHARACTER_DEVICE: u32 = 0o020_600;
    let mut out = Vec::new();
    let entry = |name: &str, number: u32, mode: u32| {
        newc::Builder::new(name).ino(number).mode(mode).nlink(1)
    };
    for (number, name) in ["dev", "proc", "sys"].into_iter().enumerate() {
        entry(name, number as u32 + 1, FOLDER).write(&mut out, 0).finish()?;
    }
    // The kernel gives its init this as standard output before anything is mounted.
    entry("dev/console", 4, CHARACTER_DEVICE)
        .rdev_major(5)
        .rdev_minor(1)
        .write(&mut out, 0)
        .finish()?;
    for (number, (name, program)) in (5..).zip(programs) {
        let size = u32::try_from(program.len()).map_err(std::io::Error::other)?;
        let mut file = entry(name, number, PROGRAM).write(&mut out, size);
        file.write_all(program)?;
        file.finish()?;
    }
    newc::trailer(out)
}
