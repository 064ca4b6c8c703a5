//! Where the supervisor's loop meets the limits on memory and CPU.

use std::time::Instant;

use super::{Phase, Supervisor};
use crate::door::Request;
use crate::journal::{What, cut_text};
use crate::ledger::GroupId;
use crate::resources::{Around, Figures, Resources};
use crate::sys::Waited;

impl Supervisor<'_> {
    fn with_resources<T>(&mut self, what: impl FnOnce(&mut Resources, Around<'_>) -> T) -> T {
        let Supervisor { resources, ledger, scanner, freezer, started, .. } = self;
        what(resources, Around::new(ledger, scanner, freezer, *started))
    }

    /// Looks at usage when due. Who is being killed is held within no limits any more.
    pub(super) fn hold_limits(&mut self) {
        if matches!(self.phase, Phase::Running { .. } | Phase::Terminating { .. }) {
            self.with_resources(Resources::step);
        }
    }

    pub(super) fn limits_due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running { .. } | Phase::Terminating { .. } => self.resources.due(),
            Phase::Killing { .. } | Phase::Over => None,
        }
    }

    /// A process was collected.
    pub(super) fn collected(&mut self, waited: &Waited) {
        self.with_resources(|resources, around| resources.reaped(waited, around));
    }

    /// Brings usage up to date.
    pub(super) fn look_at_limits(&mut self) {
        if matches!(self.phase, Phase::Running { .. } | Phase::Terminating { .. }) {
            self.with_resources(Resources::look);
        }
    }

    /// What is told is to be true now.
    pub(super) fn look_for(&mut self, request: &Request) {
        if !matches!(self.phase, Phase::Running { .. }) {
            return;
        }
        match request {
            Request::Get { file, .. } if file.starts_with("memory.") => {
                self.with_resources(Resources::measure);
            }
            Request::Get { file, .. } if file.starts_with("cpu.") => {
                self.with_resources(Resources::look);
            }
            Request::Snapshot { offset: 0 } => self.with_resources(Resources::look),
            _ => {}
        }
    }

    /// A file was written from outside.
    pub(super) fn limit_set(&mut self, id: GroupId, file: &str, value: &[u8]) {
        let value = cut_text(&String::from_utf8_lossy(value));
        self.happened_to(id, What::Set { file: file.to_owned(), value });
        self.resources.poke();
    }

    /// For the report. Must come before the group goes.
    pub(super) fn limit_figures(&mut self) -> Figures {
        let resources = std::mem::replace(&mut self.resources, Resources::new(false, self.started));
        self.with_resources(|_, around| resources.finish(around))
    }
}
