//! A controller that refuses when it is told to.
//!
//! `pids` refuses a fork and nothing else. What a refused css or a fork refused
//! by a later controller leaves behind has to be provoked, and the callbacks
//! that the core owes to a controller have to be heard by somebody.

use crate::reference::Refusal;
use cgrove_core::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The controller that refuses when told to, and counts.
#[derive(Default)]
pub struct Gate {
    refuse: Mutex<Refusal>,
    csses: Mutex<HashMap<CgroupId, Arc<GateCss>>>,
}

#[derive(Debug, Default)]
pub struct GateCss {
    pub heard: Mutex<Vec<&'static str>>,
    pub charged: AtomicUsize,
    pub exits: AtomicUsize,
}

fn gate_css(css: &Css) -> &GateCss {
    css.state().expect("a css of the gate")
}

impl GateCss {
    fn hear(&self, verb: &'static str) {
        self.heard.lock().unwrap().push(verb);
    }
}

impl Gate {
    pub fn refuse(&self, refusal: Refusal) {
        *self.refuse.lock().unwrap() = refusal;
    }

    /// Its css on a cgroup, if ever there was one: it is kept past the end.
    pub fn css(&self, cgroup: CgroupId) -> Option<Arc<GateCss>> {
        self.csses.lock().unwrap().get(&cgroup).cloned()
    }

    fn refuses(&self, refusal: Refusal) -> bool {
        *self.refuse.lock().unwrap() == refusal
    }
}

impl Controller for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn hooks(&self) -> Hooks {
        Hooks::all()
    }

    fn threaded(&self) -> bool {
        true
    }

    fn implicit(&self) -> bool {
        true
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        if self.refuses(Refusal::Alloc) {
            return Err(Refusal::Alloc.errno());
        }
        let css = Arc::new(GateCss::default());
        let old = self.csses.lock().unwrap().insert(new.cgroup, css.clone());
        assert!(old.is_none(), "I6: a second css in one slot");
        Ok(css)
    }

    fn css_online(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        if self.refuses(Refusal::Online) {
            return Err(Refusal::Online.errno());
        }
        gate_css(css).hear("online");
        Ok(())
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        gate_css(css).hear("killed");
    }

    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        gate_css(css).hear("offline");
    }

    fn css_released(&self, css: &Css) {
        gate_css(css).hear("released");
    }

    fn css_free(&self, css: &Css) {
        gate_css(css).hear("free");
    }

    fn attach(&self, _task: TaskId, to: &Css, _from: Option<&Css>, _fx: &mut Effects) {
        gate_css(to).charged.fetch_add(1, Ordering::Relaxed);
    }

    fn move_forks(&self, n: usize, to: &Css, from: &Css, _fx: &mut Effects) {
        gate_css(to).charged.fetch_add(n, Ordering::Relaxed);
        gate_css(from).charged.fetch_sub(n, Ordering::Relaxed);
    }

    fn can_fork(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        if self.refuses(Refusal::Fork) {
            return Err(Refusal::Fork.errno());
        }
        gate_css(css).charged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn cancel_fork(&self, css: &Css) {
        gate_css(css).charged.fetch_sub(1, Ordering::Relaxed);
    }

    fn exit(&self, _task: TaskId, css: &Css, _fx: &mut Effects) {
        gate_css(css).exits.fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self, _task: TaskId, css: &Css) {
        gate_css(css).charged.fetch_sub(1, Ordering::Relaxed);
    }
}
