//! What sequences are about, and how often what is done in them.

/// What a sequence is mostly about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    Tree,
    Control,
    Threaded,
    Migrate,
    Teardown,
    Freezer,
    Limits,
    Pids,
    Delegation,
    Everything,
}

/// All of them.
pub(super) const THEMES: [Theme; 10] = [
    Theme::Tree,
    Theme::Control,
    Theme::Threaded,
    Theme::Migrate,
    Theme::Teardown,
    Theme::Freezer,
    Theme::Limits,
    Theme::Pids,
    Theme::Delegation,
    Theme::Everything,
];

/// What is done next; the generator says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Mkdir,
    Rmdir,
    Control,
    Type,
    Procs,
    Threads,
    MoveSelf,
    Spawn,
    Thread,
    Exec,
    Exit,
    ExitThread,
    FinishExit,
    Kill,
    StopCont,
    Reap,
    Freeze,
    KillFile,
    Limit,
    TreeLimit,
    Junk,
    Read,
    List,
    Look,
    Own,
    AsUser,
    Unshare,
    Handle,
    Drain,
    Pids,
    Tight,
    Delegate,
    PassHandle,
}

impl Theme {
    /// How often each deed is drawn.
    pub(super) fn weights(self) -> Vec<(Deed, u32)> {
        use Deed::*;
        let mut weights = vec![
            (Mkdir, 8),
            (Rmdir, 4),
            (Control, 4),
            (Spawn, 4),
            (Exit, 2),
            (Reap, 2),
            (Procs, 2),
            (Read, 5),
            (List, 1),
            (Look, 2),
            (Junk, 1),
        ];
        weights.extend(match self {
            Self::Tree => {
                vec![(Mkdir, 8), (Rmdir, 8), (TreeLimit, 4), (Tight, 4), (List, 2), (Handle, 3)]
            }
            Self::Control => vec![(Control, 14), (Mkdir, 4), (Limit, 2), (Procs, 2), (Type, 1)],
            Self::Threaded => vec![
                (Type, 8),
                (Threads, 6),
                (Thread, 6),
                (Control, 4),
                (ExitThread, 2),
                (MoveSelf, 2),
                (Exec, 3),
                (KillFile, 1),
            ],
            Self::Migrate => {
                vec![(Procs, 8), (Spawn, 4), (MoveSelf, 4), (Thread, 2), (Control, 4), (Limit, 2)]
            }
            Self::Teardown => vec![
                (Spawn, 6),
                (Exit, 5),
                (FinishExit, 4),
                (Rmdir, 5),
                (Control, 6),
                (Kill, 3),
                (Reap, 2),
                (ExitThread, 1),
                (Thread, 2),
                (Drain, 16),
                (Tight, 8),
                (Rmdir, 4),
            ],
            Self::Freezer => vec![
                (Freeze, 12),
                (Spawn, 3),
                (Procs, 4),
                (Kill, 2),
                (StopCont, 3),
                (KillFile, 2),
                (Thread, 2),
                (FinishExit, 1),
            ],
            Self::Limits => vec![(Limit, 30), (Control, 8), (Mkdir, 4), (Junk, 8)],
            Self::Pids => vec![
                (Pids, 14),
                (Spawn, 10),
                (Thread, 8),
                (Procs, 3),
                (MoveSelf, 2),
                (Reap, 3),
                (ExitThread, 2),
            ],
            Self::Delegation => vec![
                (Delegate, 5),
                (PassHandle, 4),
                (Own, 4),
                (AsUser, 16),
                (Spawn, 4),
                (Unshare, 2),
                (Procs, 4),
                (Control, 3),
                (Handle, 3),
                (MoveSelf, 2),
            ],
            Self::Everything => vec![
                (Type, 3),
                (Threads, 2),
                (Thread, 3),
                (MoveSelf, 2),
                (ExitThread, 1),
                (FinishExit, 2),
                (Kill, 2),
                (StopCont, 1),
                (Freeze, 4),
                (KillFile, 2),
                (Limit, 4),
                (TreeLimit, 2),
                (Junk, 2),
                (Own, 1),
                (AsUser, 2),
                (Handle, 2),
                (Exec, 2),
                (Pids, 3),
                (Tight, 2),
                (Delegate, 1),
                (PassHandle, 1),
            ],
        });
        weights
    }

    /// Whether there are tasks. Without them every limit can be tried.
    pub(super) fn has_tasks(self) -> bool {
        self != Self::Limits
    }
}
