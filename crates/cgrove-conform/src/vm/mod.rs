//! A virtual machine with a kernel of our choice and nothing in it but our init.
//!
//! [`kernel`] gets the kernel, [`image`] builds what it boots into, [`machine`] runs it.

pub mod image;
pub mod kernel;
pub mod machine;

use std::path::PathBuf;

use thiserror::Error;

/// Why there is no machine, or no more.
#[derive(Debug, Error)]
pub enum VmError {
    /// A program that is needed is missing or failed.
    #[error("{program}: {what}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        what: String,
    },
    /// No kernel can be had.
    #[error("no kernel: {0}")]
    Kernel(String),
    /// The machine could not be reached, or broke off.
    #[error("{what}; the console is in {}", console.display())]
    Machine {
        /// What went wrong.
        what: String,
        /// The console's output.
        console: PathBuf,
    },
    /// Input or output failed.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
}

impl VmError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |e| Self::Io(path, e)
    }
}

/// Runs a program to its end and gives what it printed.
pub(crate) fn run(command: &mut std::process::Command) -> Result<String, VmError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |what: String| VmError::Program { program: program.clone(), what };
    let out =
        command.stdin(std::process::Stdio::null()).output().map_err(|e| fail(e.to_string()))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(fail(format!("{}: {}", out.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
