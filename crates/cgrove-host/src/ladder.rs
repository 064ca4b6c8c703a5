//! Which backend a run gets: the strongest rung that the place allows and the options leave.
//!
//! A rung is not probed for, but tried by the command itself before its exec: that costs nothing
//! where it works, and what comes of it is what holds. Who tries and fails says why, and tries the
//! next rung, or gives up if what is required leaves none.

use crate::error::HostError;
use crate::options::{BackendChoice, RunOptions};
use crate::report::Backend;
use crate::supervisor::in_kernel::InKernel;

/// Those of them that a run may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ladder<'a> {
    options: &'a RunOptions,
    sigchld_ignored: bool,
    /// What holds as much as it can, so that the others are for what is left.
    kernel: Option<&'a InKernel>,
}

impl<'a> Ladder<'a> {
    pub fn new(
        options: &'a RunOptions,
        sigchld_ignored: bool,
        kernel: Option<&'a InKernel>,
    ) -> Ladder<'a> {
        Ladder { options, sigchld_ignored, kernel }
    }

    /// Whether the options leave this rung, beside the kernel if that holds the run.
    pub fn has(self, rung: Backend) -> bool {
        if let Some(kernel) = self.kernel {
            return (!rung.asks() || kernel.wants_gate(self.options, self.sigchld_ignored))
                && kernel.unmet(self.options, rung, self.sigchld_ignored).is_none();
        }
        let chosen = match self.options.backend {
            BackendChoice::Auto => true,
            BackendChoice::Only(only) => only == rung,
        };
        chosen && self.options.unmet(rung, self.sigchld_ignored).is_none()
    }

    /// Refuses what no rung could meet.
    pub fn check(self) -> Result<(), HostError> {
        // The kernel's is settled by then.
        let mut others = Backend::ALL.iter().filter(|rung| **rung != Backend::Kernel);
        if others.any(|rung| self.has(*rung)) {
            return Ok(());
        }
        let strongest = match self.options.backend {
            BackendChoice::Auto => Backend::Gate,
            BackendChoice::Only(only) => only,
        };
        let unmet = self.options.unmet(strongest, self.sigchld_ignored);
        let unmet = unmet.map_or_else(String::new, |unmet| format!(" {unmet}"));
        Err(HostError::new(
            format!("--require{unmet} is not met"),
            match self.options.backend {
                BackendChoice::Auto => "no backend gives it here".to_owned(),
                BackendChoice::Only(only) => format!("--backend {} does not give it", only.name()),
            },
            "run `cgrove doctor` to see what each backend gives",
        ))
    }

    /// No rung that is left can be had here.
    pub fn nothing_holds(self, why: &str) -> HostError {
        let what = match self.options.backend {
            BackendChoice::Only(only) => format!("--backend {} is not possible", only.name()),
            BackendChoice::Auto => {
                match self.options.unmet(Backend::Reaper, self.sigchld_ignored) {
                    Some(unmet) => format!("--require {unmet} is not met"),
                    None => "the tree cannot be held".to_owned(),
                }
            }
        };
        HostError::new(
            what,
            why,
            "drop the requirement, or run `cgrove doctor` to see what this place allows",
        )
    }
}
