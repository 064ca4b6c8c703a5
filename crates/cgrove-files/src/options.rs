//! Mount options of cgroup2, as values.

use cgrove_core::controller::memory::Memory;
use cgrove_core::controller::registry::Standard;
use cgrove_core::{Errno, Pids};
use core::fmt;

/// What `mount -o` takes. Two of them are the tree's, the others are the
/// controllers': see [`apply`](Self::apply).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Cgroup namespaces are boundaries of delegation.
    pub nsdelegate: bool,
    /// Makes moves cheap in Linux and forks dearer. Here neither is affected:
    /// it is kept and shown.
    pub favordynmods: bool,
    /// `memory.events` counts what happened in the very cgroup.
    pub memory_localevents: bool,
    /// `memory.min` and `memory.low` of a cgroup protect what is below it.
    pub memory_recursiveprot: bool,
    /// `pids.events` counts what happened in the very cgroup.
    pub pids_localevents: bool,
}

impl MountOptions {
    const NAMES: [&'static str; 5] = [
        "nsdelegate",
        "favordynmods",
        "memory_localevents",
        "memory_recursiveprot",
        "pids_localevents",
    ];

    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "nsdelegate" => Some(&mut self.nsdelegate),
            "favordynmods" => Some(&mut self.favordynmods),
            "memory_localevents" => Some(&mut self.memory_localevents),
            "memory_recursiveprot" => Some(&mut self.memory_recursiveprot),
            "pids_localevents" => Some(&mut self.pids_localevents),
            _ => None,
        }
    }

    /// Reads `nsdelegate,memory_localevents`.
    ///
    /// # Errors
    /// EINVAL for one that cgroup2 does not have.
    pub fn parse(text: &str) -> Result<Self, Errno> {
        let mut options = Self::default();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            match name {
                "nofavordynmods" => options.favordynmods = false,
                _ => *options.flag(name).ok_or(Errno::EINVAL)? = true,
            }
        }
        Ok(options)
    }

    /// Makes the controllers that have options heed them.
    pub fn apply(&self, controllers: &mut Standard) {
        let mut memory = Memory::new();
        if self.memory_localevents {
            memory = memory.with_local_events();
        }
        if self.memory_recursiveprot {
            memory = memory.with_recursive_protection();
        }
        controllers.memory = memory;
        controllers.pids =
            if self.pids_localevents { Pids::with_local_events() } else { Pids::new() };
    }
}

/// As in `/proc/self/mounts`.
impl fmt::Display for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = *self;
        let mut separator = "";
        for name in Self::NAMES {
            if options.flag(name).is_some_and(|on| *on) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn options_are_read_and_shown() {
        let all =
            "nsdelegate,favordynmods,memory_localevents,memory_recursiveprot,pids_localevents";
        assert_eq!(MountOptions::parse(all).map(|options| options.to_string()), Ok(all.into()));
        assert_eq!(MountOptions::parse(""), Ok(MountOptions::default()));
        let off = MountOptions::parse("favordynmods,nofavordynmods");
        assert_eq!(off, Ok(MountOptions::default()));
        assert_eq!(MountOptions::parse("nsdelegate,xattr"), Err(Errno::EINVAL));
    }
}
