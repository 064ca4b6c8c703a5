//! Known-wrong variants of the mount, to prove that its tests see them.
//!
//! Built with `--cfg cgrove_mutants` only, and then chosen by `CGROVE_MUTANT`; in every other build
//! the question is the constant `false`.

/// One deliberate defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Supplementary groups do not count.
    GroupsIgnored,
    /// A place in a directory is a position in its list.
    PlacesByPosition,
    /// A file that went and came back has the number that it had.
    NumbersReused,
    /// Who polls a file is not woken when it is taken away.
    GoneUntold,
    /// The guard knows its mount by the device, which another one may have later.
    GuardByDevice,
    /// The guard stays in the server's process group.
    GuardInGroup,
    /// The guard waits for the end of the process, not of the thread that serves.
    GuardOfProcess,
    /// Timers do not fire: the end of a burst is not told.
    ClockStands,
    /// A fault strikes without end.
    FaultForever,
    /// A change that is to come late is told at once.
    LateTold,
    /// A record does not say who has ended.
    EndsUnrecorded,
}

/// Whether this build runs with that defect.
#[inline]
pub(crate) fn broken(which: Mutant) -> bool {
    if cfg!(cgrove_mutants) {
        return std::env::var("CGROVE_MUTANT").is_ok_and(|name| name == format!("{which:?}"));
    }
    false
}
