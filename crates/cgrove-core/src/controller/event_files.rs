//! The event files of one css: made by their first use, silent once removed.
//!
//! Most cgroups never see a limit hit, so a css starts with none of the files
//! that would tell of it. When the css is killed its files leave the directory
//! while tasks in its subtree may still hit limits: from then on there is
//! nobody to notify. One lock covers both, so an event that meets the removal
//! either notifies before it or finds the files gone.

use crate::effect::Effects;
use crate::errno::Errno;
use crate::event::EventFile;
use crate::id::CgroupId;
use crate::sync::lock::Leaf;
use alloc::boxed::Box;
use alloc::sync::Arc;

/// `N` files in the directory of one cgroup.
#[derive(Debug)]
pub(crate) struct EventFiles<const N: usize> {
    cgroup: CgroupId,
    names: [&'static str; N],
    state: Leaf<State<N>>,
}

#[derive(Debug)]
enum State<const N: usize> {
    Unused,
    Made(Box<[Arc<EventFile>; N]>),
    Removed,
}

impl<const N: usize> EventFiles<N> {
    pub(crate) fn new(cgroup: CgroupId, names: [&'static str; N]) -> Self {
        Self { cgroup, names, state: Leaf::new(State::Unused) }
    }

    /// The file at `index`; `None` once the files are removed.
    pub(crate) fn file(&self, index: usize) -> Option<Arc<EventFile>> {
        let mut state = self.state.lock();
        if let State::Unused = *state {
            let files = self.names.map(|name| EventFile::new(self.cgroup, name));
            *state = State::Made(Box::new(files));
        }
        match &*state {
            State::Made(files) => Some(Arc::clone(&files[index])),
            State::Unused | State::Removed => None,
        }
    }

    /// The content of the file at `index` changed.
    pub(crate) fn changed(&self, index: usize, fx: &mut Effects) {
        // A removal between the two is seen by the file itself.
        if let Some(file) = self.file(index) {
            file.changed(fx);
        }
    }

    /// The files leave their directory.
    pub(crate) fn remove(&self) {
        let old = core::mem::replace(&mut *self.state.lock(), State::Removed);
        if let State::Made(files) = old {
            files.iter().for_each(|file| file.remove());
        }
    }

    /// The files leave their directory, and may come back as new ones: the
    /// css stays for another controller's sake.
    pub(crate) fn hide(&self) {
        let mut state = self.state.lock();
        if let State::Made(files) = &*state {
            files.iter().for_each(|file| file.remove());
            *state = State::Unused;
        }
    }

    /// What a write to any file of the css meets first.
    ///
    /// # Errors
    /// ENODEV once the files are removed (kernfs refuses an open file whose
    /// node is gone).
    pub(crate) fn check(&self) -> Result<(), Errno> {
        match *self.state.lock() {
            State::Removed => Err(Errno::ENODEV),
            State::Unused | State::Made(_) => Ok(()),
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::effect::Effect;
    use crate::id::Time;

    #[test]
    fn a_hidden_file_is_silent_and_its_successor_is_not() {
        let files = EventFiles::new(CgroupId(7), ["a.events"]);
        let old = files.file(0).unwrap();
        files.hide();
        let mut fx = Effects::at(Time(0));
        old.changed(&mut fx);
        assert!(fx.is_empty());
        assert_eq!(files.check(), Ok(()));
        files.changed(0, &mut fx);
        assert_eq!(fx.as_slice().len(), 1);
        files.remove();
        files.hide();
        assert!(files.file(0).is_none(), "gone for good");
    }

    #[test]
    fn a_removed_file_is_silent_and_refuses_writes() {
        let files = EventFiles::new(CgroupId(7), ["a.events", "a.events.local"]);
        let mut fx = Effects::at(Time(0));
        files.changed(1, &mut fx);
        let [Effect::Notify(file)] = fx.as_slice() else { panic!("{fx:?}") };
        assert_eq!((file.cgroup(), file.name()), (CgroupId(7), "a.events.local"));
        let kept = files.file(0).unwrap();
        assert_eq!(files.check(), Ok(()));

        files.remove();
        let mut fx = Effects::at(Time(1_000_000_000));
        files.changed(1, &mut fx);
        kept.changed(&mut fx);
        assert!(fx.is_empty());
        assert_eq!(files.check(), Err(Errno::ENODEV));
        assert!(files.file(0).is_none());
    }
}
