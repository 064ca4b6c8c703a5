//! Known-wrong variants of the host layer, to prove that its tests see them.
//!
//! Built with `--cfg cgrove_mutants` only, and then chosen by `CGROVE_MUTANT`; in every other build
//! the question is the constant `false`. `checks/mutants` runs each against the test that must fail.

/// One deliberate defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// In a mounted tree, who is to halt is said to have, and runs.
    AdoptedRuns,
    /// There, who is born over the limit lives.
    AdoptedSpared,
    /// The gate lets forks through without charging them.
    UnchargedFork,
    /// At the limit the ledger refuses without looking who is gone.
    NoRecount,
    /// A complete census cancels the charges of children that are still to come.
    ToComeForgotten,
    /// Whoever has a name is taken for alive when the peak is told.
    DeadCounted,
    /// One walk over `/proc` passes for a complete census.
    OnePass,
    /// A kill leaves the gate open.
    OpenGate,
    /// The supervisor goes on without its front.
    FrontIgnored,
    /// The front does not become the subreaper of its supervisor's orphans.
    NoSecondReaper,
    /// A supervisor that is stopped stays so.
    StaysStopped,
    /// Nobody looks whether a program ignores SIGCHLD.
    ActionUnseen,
    /// Nobody looks who makes a pid namespace.
    NamespaceUnseen,
    /// What `/proc` hides counts as not there.
    HiddenForgotten,
    /// Any CPU time of a forker proves its fork finished, that of the fork itself included.
    SystemTimeProves,
    /// The supervisor stays in the caller's session.
    SameSession,
    /// cgrove's processes keep what was handed to the command.
    PipesHeld,
    /// The front takes all its children for the run's.
    KinKilled,
    /// The terminal goes back to the caller's group whoever has it.
    TerminalTaken,
    /// A handler without SA_RESTART is left so.
    ForkInterrupted,
    /// A kill that is asked for after the end begins all over.
    EndForgotten,
    /// A freeze is reached when all who were known when it was asked for have stopped.
    NewcomersMissed,
    /// What tracees do passes for what children do.
    TraceesConfused,
    /// The end of a tracee passes for that of a child.
    EndsMistaken,
    /// A job that was stopped before the freeze is continued by the thaw.
    JobContinued,
    /// Who has not stopped when the thaw comes is never let go.
    LeavingForgotten,
    /// The supervisor waits for as long as the kernel lets a SEIZE wait.
    SeizeWaits,
    /// The gate answers while the run is frozen.
    FrozenForks,
    /// Whoever is over a limit by the cheap upper bound is killed without being measured.
    KilledUnmeasured,
    /// A group that has used up its quota runs on.
    NeverThrottled,
    /// What a limit halts is frozen in the sight of everyone.
    HaltShown,
    /// The end of a traced thread passes for that of a process.
    ThreadsCounted,
    /// For memory a group's reaper is killed as anybody else.
    ReaperChosen,
    /// A child that is not to be traced is not.
    UntracedChild,
    /// What a fork that did not happen was counted for stays counted.
    FailedForks,
    /// Time of children that were waited for is charged again.
    OwedForgotten,
    /// Nobody is put back onto his CPUs.
    AffinityLost,
    /// The command is not told that the tree has run long enough.
    NoWarning,
    /// The watcher does not end with its front.
    WatcherStays,
    /// Progress is shown from the background.
    ProgressFromBehind,
    /// A client of the metrics waits for those who came before, however slow.
    ClientsInTurn,
    /// Every fork is charged to the run's own group.
    ChargedToRun,
    /// An orphan of a group whose reaper is gone is left alive.
    LostSpared,
    /// The run goes on when the process has ended that it is to end with.
    ParentForgotten,
    /// Whoever follows is waited for.
    FollowersAwaited,
    /// Whoever asks at the door may act on the whole run.
    MembershipUnchecked,
    /// Limits that the kernel is to hold are not written to its files.
    KernelUntold,
    /// A kill spares who is in the kernel's cgroup and no child of ours.
    KernelSpares,
}

/// Whether this build runs with that defect.
#[inline]
pub fn is(which: Mutant) -> bool {
    if cfg!(cgrove_mutants) {
        return std::env::var("CGROVE_MUTANT").is_ok_and(|name| name == format!("{which:?}"));
    }
    false
}
