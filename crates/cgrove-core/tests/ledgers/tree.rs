//! A tree of cgroups with every controller on everywhere.

use cgrove_core::*;
use std::sync::Arc;

pub struct Tree {
    pub h: Hierarchy,
    pub fx: Effects,
}

impl Tree {
    pub fn with(controller: impl Controller) -> Self {
        Self::of(Hierarchy::builder().controller(Arc::new(controller)))
    }

    pub fn of(builder: Builder) -> Self {
        Self { h: builder.build(Time(0)), fx: Effects::at(Time(0)) }
    }

    pub fn top(&mut self, name: &str) -> Arc<Cgroup> {
        let root = self.h.root().clone();
        self.mkdir(&root, name)
    }

    pub fn mkdir(&mut self, parent: &Arc<Cgroup>, name: &str) -> Arc<Cgroup> {
        self.h.write_subtree_control(parent, self.h.bound(), SsMask::NONE, &mut self.fx).unwrap();
        self.h.create(parent, name, &mut self.fx).unwrap()
    }

    pub fn rmdir(&mut self, cgroup: &Arc<Cgroup>) {
        self.h.remove(cgroup, &mut self.fx).unwrap();
        assert_eq!(self.h.pump(&mut self.fx), 0);
    }

    /// The files notified since the last call, as `id/name`. Time moves on so
    /// that the next notification of each is let through.
    pub fn notified(&mut self) -> Vec<String> {
        let later = self.fx.now().after(NOTIFY_INTERVAL * 2);
        let seen = self
            .fx
            .drain()
            .filter_map(|effect| match effect {
                Effect::Notify(file) => Some(format!("{}/{}", file.cgroup(), file.name())),
                _ => None,
            })
            .collect();
        self.fx.set_now(later);
        seen
    }
}
