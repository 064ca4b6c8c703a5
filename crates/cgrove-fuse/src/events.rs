//! What follows from an operation: pollers to wake, timers, queued work, orders to the world.
//!
//! Effects are performed after the operation and before its requester is answered, by whichever
//! thread has them: one of the server's, the clock's, or one of the world's.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;

use cgrove_core::{Effect, Effects, EventFile, Time};

use crate::handles::Handles;
use crate::hooks::{Armed, Hooks};
use crate::inodes::Inodes;
use crate::late::Late;
use crate::mutant::{Mutant, broken};
use crate::world::World;

/// What is due at a time.
enum Alarm {
    /// A timer that an event file has asked for.
    Timer(Arc<EventFile>),
    /// A change that is told late.
    Late(Arc<EventFile>),
}

/// What the threads of one mount share.
pub(crate) struct Shared<W> {
    pub(crate) world: W,
    pub(crate) inodes: Inodes,
    pub(crate) handles: Handles,
    pub(crate) hooks: Option<Box<Armed>>,
    alarms: Sender<(Time, Alarm)>,
}

impl<W: World> Shared<W> {
    /// Starts the clock.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(crate) fn new(world: W, hooks: Hooks) -> io::Result<Arc<Self>> {
        let (alarms, asked) = channel();
        let inodes = Inodes::new(world.tree().root());
        let hooks = hooks.arm(world.tree());
        let shared = Arc::new(Self { world, inodes, handles: Handles::default(), hooks, alarms });
        let weak = Arc::downgrade(&shared);
        thread::Builder::new().name("cgrove-clock".into()).spawn(move || clock(&asked, &weak))?;
        let performer: Weak<dyn Perform> = Arc::<Self>::downgrade(&shared);
        shared.world.mounted(Events(performer));
        Ok(shared)
    }

    pub(crate) fn effects(&self) -> Effects {
        Effects::at(self.world.now())
    }

    pub(crate) fn late(&self) -> Option<&Late> {
        self.hooks.as_ref()?.late.as_ref()
    }

    /// Tells of a change, or has it told later.
    fn tell(&self, file: &Arc<EventFile>) {
        let late = self.late().filter(|_| !broken(Mutant::LateTold));
        match late.and_then(|late| late.hold(file, self.world.now())) {
            Some(at) => drop(self.alarms.send((at, Alarm::Late(Arc::clone(file))))),
            None if self.world.tree().notify(file) => {
                self.handles.changed(file.cgroup(), file.name());
            }
            None => {}
        }
    }
}

trait Perform: Send + Sync {
    fn perform(&self, fx: &mut Effects);
}

impl<W: World> Perform for Shared<W> {
    fn perform(&self, fx: &mut Effects) {
        self.perform(fx);
    }
}

impl<W: World> Shared<W> {
    /// Performs effects, and those that follow from them, until there are none.
    pub(crate) fn perform(&self, fx: &mut Effects) {
        let tree = self.world.tree();
        while !fx.is_empty() {
            let mut work = false;
            for effect in fx.drain().collect::<Vec<_>>() {
                match effect {
                    Effect::Notify(file) => self.tell(&file),
                    // The clock lives as long as this does, so somebody receives it.
                    Effect::Timer { at, file } => {
                        drop(self.alarms.send((at, Alarm::Timer(file))));
                    }
                    Effect::Work(_) => work = true,
                    // Whoever waits for it tries again by itself.
                    Effect::Offline(_) => {}
                    order => self.world.perform(order, fx),
                }
            }
            if work {
                tree.hierarchy().pump(fx);
            }
        }
    }
}

/// Performs what follows from what happens in a world by itself.
#[derive(Clone)]
pub struct Events(Weak<dyn Perform>);

impl Events {
    /// Performs these effects and what follows from them. Once the mount is gone, nothing.
    pub fn perform(&self, fx: &mut Effects) {
        if let Some(shared) = self.0.upgrade() {
            shared.perform(fx);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Fires timers, until the mount is gone.
fn clock<W: World>(asked: &Receiver<(Time, Alarm)>, shared: &Weak<Shared<W>>) {
    let mut due: BTreeMap<Time, Vec<Alarm>> = BTreeMap::new();
    loop {
        let received = match due.first_key_value() {
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((&at, _)) => {
                let Some(now) = shared.upgrade().map(|shared| shared.world.now()) else { return };
                asked.recv_timeout(at.since(now))
            }
        };
        match received {
            Ok(_) if broken(Mutant::ClockStands) => {}
            Ok((at, alarm)) => due.entry(at).or_default().push(alarm),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let Some(shared) = shared.upgrade() else { return };
                let mut fx = shared.effects();
                while let Some(first) = due.first_entry().filter(|first| *first.key() <= fx.now()) {
                    for alarm in first.remove() {
                        match alarm {
                            Alarm::Timer(file) => {
                                shared.world.tree().hierarchy().timer(&file, &mut fx);
                            }
                            Alarm::Late(file) => shared.tell(&file),
                        }
                    }
                }
                shared.perform(&mut fx);
            }
        }
    }
}
