//! A world over real processes: who writes a pid to `cgroup.procs` has that process taken in.
//!
//! What nothing here acts upon has no file: there is no controller but `pids`, and no CPU time.
//! What there is holds by looking (`kin.rs`): every question looks first, and a thread looks every
//! now and then, so that pollers learn of what happens by itself. Who is to halt is held by another
//! thread (`freezer.rs`).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use cgrove_core::{Effect, Effects, Hierarchy, Pids, Task, Time};
use cgrove_files::{File, Tasks, Tree};
use cgrove_fuse::{Events, Requester, World};
use cgrove_host::procfs::Proc;
use cgrove_host::sys::RawPid;
use nix::errno::Errno;

use super::freezer::Freezer;
use super::kin::Kin;

/// Between two looks while there are processes, and while there are none.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(5)];
/// Looks take no more than this share of a core.
const SHARE: u32 = 100;

/// Files of the core that say or do what nobody here does.
const NOT_HELD: [&str; 2] = ["cpu.stat", "cpu.stat.local"];
/// Likewise, where there is no freezer.
const FREEZER: [&str; 2] = ["cgroup.freeze", "cgroup.stat.local"];

/// The world.
#[derive(Clone)]
pub(super) struct Adopted(Arc<Shared>);

/// What its threads share.
pub(super) struct Shared {
    tree: Tree,
    start: Instant,
    kin: Mutex<Kin>,
    events: OnceLock<Events>,
    looker: OnceLock<Thread>,
    /// None: it could not be started, or has ended.
    freezer: Mutex<Option<Freezer>>,
}

impl Adopted {
    /// A world with nobody in it.
    pub(super) fn new() -> Result<Adopted, Errno> {
        let kin = Mutex::new(Kin::new(Proc::open()?));
        let pids = Arc::new(Pids::new());
        let hierarchy = Hierarchy::builder().controller(pids).build(Time(0));
        let tree = Tree::builder(hierarchy).build();
        let (events, looker) = (OnceLock::new(), OnceLock::new());
        let (start, freezer) = (Instant::now(), Mutex::new(None));
        Ok(Adopted(Arc::new(Shared { tree, start, kin, events, looker, freezer })))
    }

    /// Lets everyone go who is frozen, for good.
    pub(super) fn let_everyone_go(&self) {
        let freezer = self.0.freezer().take();
        if let Some(freezer) = freezer {
            freezer.end();
        }
    }
}

impl Shared {
    fn now(&self) -> Time {
        Time(0).after(self.start.elapsed())
    }

    fn kin(&self) -> MutexGuard<'_, Kin> {
        self.kin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn freezer(&self) -> MutexGuard<'_, Option<Freezer>> {
        self.freezer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hierarchy(&self) -> &Hierarchy {
        self.tree.hierarchy()
    }

    /// Does something with those that are known, and what follows from it. Effects are performed
    /// without the lock: they can be kills, which take it.
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut Kin, &mut Effects) -> T) -> T {
        let mut fx = Effects::at(self.now());
        let done = what(&mut self.kin(), &mut fx);
        if let Some(events) = self.events.get() {
            events.perform(&mut fx);
        }
        done
    }

    /// Looks who was born and who is gone.
    pub(super) fn look(&self) {
        self.with(|kin, fx| kin.look(self.tree.hierarchy(), fx));
    }
}

/// Looks until the mount is gone.
fn keep_looking(shared: &Weak<Shared>) {
    loop {
        let Some(world) = shared.upgrade() else { return };
        let begin = Instant::now();
        world.look();
        let pause = PAUSE[usize::from(world.kin().is_empty())];
        drop(world);
        thread::park_timeout(pause.max(begin.elapsed() * SHARE));
    }
}

/// Tasks by the pids of `/proc`.
struct View<'w> {
    shared: &'w Shared,
    who: Requester,
    opener: u32,
}

impl Tasks for View<'_> {
    fn find(&self, pid: u32) -> Option<Arc<Task>> {
        let pid = if pid == 0 { self.who.tid } else { pid };
        let pid = RawPid::try_from(pid).ok().filter(|pid| *pid > 0)?;
        let hierarchy = self.shared.tree.hierarchy();
        let found = self.shared.with(|kin, fx| {
            // Whoever is in the tree can be killed by its owner. So nobody takes in another's.
            let user = kin.user(pid)?;
            (self.opener == 0 || self.opener == user).then(|| kin.find(hierarchy, pid, fx))?
        });
        if let Some(looker) = self.shared.looker.get() {
            looker.unpark();
        }
        found
    }

    fn pid(&self, task: &Arc<Task>) -> Option<u32> {
        u32::try_from(self.shared.kin().pid(task)?).ok()
    }
}

impl World for Adopted {
    fn tree(&self) -> &Tree {
        &self.0.tree
    }

    fn now(&self) -> Time {
        self.0.now()
    }

    fn hides(&self, name: &str) -> bool {
        NOT_HELD.contains(&name) || (FREEZER.contains(&name) && self.0.freezer().is_none())
    }

    fn look(&self) {
        self.0.look();
    }

    fn mounted(&self, events: Events) {
        // A world is mounted once.
        let _ = self.0.events.set(events);
        let shared = Arc::downgrade(&self.0);
        // Without it the files of it are not there.
        *self.0.freezer() = Freezer::start(Weak::clone(&shared)).ok();
        let looker = thread::Builder::new().name("cgrove-look".into());
        // Without it pollers learn of ends only when somebody asks.
        if let Ok(looker) = looker.spawn(move || keep_looking(&shared)) {
            let _ = self.0.looker.set(looker.thread().clone());
        }
    }

    fn reader<'w>(&'w self, who: Requester, file: &File) -> Box<dyn Tasks + 'w> {
        Box::new(View { shared: &self.0, who, opener: file.opener().uid })
    }

    fn writer<'w>(&'w self, who: Requester, file: &File, _text: &[u8]) -> Box<dyn Tasks + 'w> {
        self.reader(who, file)
    }

    fn perform(&self, effect: Effect, _fx: &mut Effects) {
        match effect {
            Effect::Kill(task) => self.0.kin().kill(task),
            Effect::Freeze(task) | Effect::Unfreeze(task) => {
                let subject = self.0.kin().subject(task);
                if let (Some(subject), Some(freezer)) = (subject, &*self.0.freezer()) {
                    freezer.look(subject);
                }
            }
            _ => {}
        }
    }
}
