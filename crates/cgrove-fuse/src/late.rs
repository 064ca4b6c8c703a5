//! A cgroup that seems populated for a while after its last task has gone.
//!
//! Clients that wait for `populated 0` are right or wrong depending on when it comes, and on a
//! healthy machine it always comes at once. Here it comes late: `cgroup.events` says `populated 1`
//! until a time, and only then is the change told. The tree knows better meanwhile: the cgroup can be
//! removed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cgrove_core::{Cgroup, CgroupId, EventFile, Time};

/// The file that it is about, and where in its text the digit is.
const FILE: &str = "cgroup.events";
const DIGIT: usize = "populated ".len();

/// What has been shown of a cgroup.
struct Shown {
    cgroup: Arc<Cgroup>,
    populated: bool,
    /// It has no task any more, and this is when that is shown.
    until: Option<Time>,
}

/// The cgroups that were made through the mount, and what has been shown of each.
pub(crate) struct Late {
    delay: Duration,
    cgroups: Mutex<HashMap<CgroupId, Shown>>,
}

impl Late {
    pub(crate) fn new(delay: Duration) -> Self {
        Self { delay, cgroups: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CgroupId, Shown>> {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn made(&self, cgroup: &Arc<Cgroup>) {
        let shown = Shown { cgroup: Arc::clone(cgroup), populated: false, until: None };
        self.lock().insert(cgroup.id(), shown);
    }

    pub(crate) fn removed(&self, cgroup: CgroupId) {
        let shown = self.lock().remove(&cgroup);
        drop(shown);
    }

    /// Until when the change of a file is not to be told.
    pub(crate) fn hold(&self, file: &EventFile, now: Time) -> Option<Time> {
        if file.name() != FILE {
            return None;
        }
        self.until(file.cgroup(), now)
    }

    /// What a reader gets of a file, of which this is the part from `offset` on.
    pub(crate) fn alter(
        &self,
        name: &str,
        cgroup: CgroupId,
        offset: u64,
        text: &mut [u8],
        now: Time,
    ) {
        if name != FILE {
            return;
        }
        let place = usize::try_from(offset).ok().and_then(|offset| DIGIT.checked_sub(offset));
        if let Some(digit) = place.and_then(|place| text.get_mut(place))
            && self.until(cgroup, now).is_some()
        {
            *digit = b'1';
        }
    }

    /// Until when a cgroup without tasks seems to have some. Whoever asks learns for the others: the
    /// delay begins with the first question, be it of a reader or a notification.
    fn until(&self, cgroup: CgroupId, now: Time) -> Option<Time> {
        let mut cgroups = self.lock();
        let shown = cgroups.get_mut(&cgroup)?;
        if shown.cgroup.populated() {
            (shown.populated, shown.until) = (true, None);
            return None;
        }
        if !shown.populated {
            return None;
        }
        let until = *shown.until.get_or_insert(now.after(self.delay));
        if now >= until {
            (shown.populated, shown.until) = (false, None);
            return None;
        }
        Some(until)
    }
}
