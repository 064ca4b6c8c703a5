//! Known-wrong variants of the protocols, to prove that the checks see them.
//!
//! Each variant is one bug that Linux had, or nearly had, on its way to the
//! per-css teardown. A hierarchy built with one must make a concurrency test
//! fail; the tests say so. Outside the checkers' builds the question "is this
//! mutant on" is the constant `false` and leaves no code behind.
//!
//! The second half breaks a rule instead of a protocol. Nothing has to run at
//! once to see it, so the replay of what Linux answered must: built with
//! `--cfg cgrove_mutants`, `CGROVE_MUTANT` in the environment chooses one.

/// One deliberate defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Mutant {
    /// The killer does not fence between DYING and the counters.
    NoKillerFence,
    /// The walker does not fence between the counter and DYING.
    NoWalkerFence,
    /// The walker asks whether the reference count is dying, not the css.
    WalkerTestsRef,
    /// The queued kill does not hold a reference on its css.
    NoQueuePin,
    /// `kill_finish` runs again on a css whose count is already killed.
    KillTwice,
    /// A killed count leaves one shard alive.
    KillSkipsShard,
    /// A fork in flight does not compare the kill sequence number.
    ForkIgnoresKill,
    /// A kill bumps its number only before it looks for tasks.
    KillBumpsOnce,
    /// A parent goes offline without waiting for its children.
    ParentFirst,
    /// `css_offline` does not wait for readers.
    NoGrace,
    /// A reader opens its next section without a release.
    NoReleaseOnEnter,
    /// Draining asks whether the reference count is killed, not whether the css
    /// is dying.
    DrainTestsRef,
    /// A place that may be about to move is taken as settled.
    PublishIgnoresMove,
    /// A thread is born without a look at whether its process moves.
    ThreadIgnoresMove,
    /// The move of a process is counted before its tasks hold still.
    MoveCountedEarly,
    /// A task exits while it moves.
    ExitIgnoresMove,
    /// A dead cgroup turns frozen, and counts for those above.
    DeadFreezes,
    /// A task reads as dead before it is unlinked.
    DeadBeforeUnlink,
    /// A controller is enabled though a child of the parent's does not have it.
    EnableUnavailable,
    /// A controller is disabled though a child passes it on.
    DisableInUse,
    /// Domain controllers are enabled over a cgroup with tasks.
    InternalTasks,
    /// Whoever may write the destination may take tasks from anywhere.
    CommonAncestorIgnored,
    /// A thread leaves the domain of its process.
    ThreadLeavesDomain,
    /// A domain below a thread root counts as valid.
    InvalidDomainIgnored,
    /// Thawing a cgroup thaws it though one above is frozen.
    AncestorFreezeIgnored,
    /// A removed cgroup still counts for `cgroup.max.descendants`.
    DyingCounts,
    /// A fork that fills `pids.max` is refused.
    PidsOffByOne,
    /// A hidden task is listed.
    HiddenListed,
    /// `cgroup.kill` does not reach below.
    KillStaysHere,
}

/// Whether the environment asks for this mutant, in builds that listen to it.
#[inline]
pub(crate) fn broken(which: Mutant) -> bool {
    #[cfg(cgrove_mutants)]
    {
        extern crate std;
        std::env::var("CGROVE_MUTANT").is_ok_and(|name| name == alloc::format!("{which:?}"))
    }
    #[cfg(not(cgrove_mutants))]
    {
        let _ = which;
        false
    }
}

/// Which mutant, if any, a hierarchy runs with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mutation {
    #[cfg(any(loom, shuttle, test))]
    pub(crate) on: Option<Mutant>,
}

impl Mutation {
    #[inline]
    pub(crate) fn is(self, which: Mutant) -> bool {
        #[cfg(any(loom, shuttle, test))]
        {
            self.on == Some(which)
        }
        #[cfg(not(any(loom, shuttle, test)))]
        {
            broken(which)
        }
    }
}
