//! The helper programs, compiled where the tests run.
//!
//! They are C because half of them do what Rust's runtime hides: vfork, bare clone, odd signal
//! masks. Rust needs a C compiler to link with, so one is always there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("acts.c");

/// Compiles the helper programs into `folder`, readable and executable by everyone.
///
/// # Errors
/// What the file system or the compiler says.
pub fn compile(folder: &Path) -> io::Result<PathBuf> {
    compile_source(folder, "acts", SOURCE, &["-O2", "-pthread"])
}

/// Compiles a C program into `folder`.
///
/// # Errors
/// What the file system or the compiler says.
pub fn compile_source(
    folder: &Path,
    name: &str,
    source: &str,
    flags: &[&str],
) -> io::Result<PathBuf> {
    let text = folder.join(format!("{name}.c"));
    let program = folder.join(name);
    fs::write(&text, source)?;
    let output = Command::new("cc").args(flags).arg("-o").args([&program, &text]).output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("cc cannot make {name}: {why}")));
    }
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    Ok(program)
}
