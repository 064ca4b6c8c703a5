//! Names that are never used twice.

use core::fmt;
use core::time::Duration;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A task, named by the embedder. It must not reuse a name while the
    /// hierarchy lives: pids come back, so a pid alone will not do.
    TaskId
}
id! {
    /// A cgroup. The root of a hierarchy is 1; a removed name that is made
    /// anew is another cgroup with another id.
    CgroupId
}
id! {
    /// A css: one controller on one cgroup. Ascending in order of creation and
    /// never reused (Linux: `serial_nr`).
    CssId
}

/// A moment on the embedder's monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `later` after this one, or the end of time.
    #[must_use]
    pub const fn after(self, later: Duration) -> Self {
        let nanos = later.as_nanos();
        if nanos > u64::MAX as u128 {
            Self(u64::MAX)
        } else {
            Self(self.0.saturating_add(nanos as u64))
        }
    }

    /// How long ago `earlier` was; zero if it is not in the past.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
