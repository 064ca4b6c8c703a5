//! A controller that every cgroup has, wherever tasks are.
//!
//! What a controller that is switched on and off obliges tasks to (no internal
//! processes, above all) is tested on its own. Tests of the rest are free to put
//! tasks anywhere, and have the controller they look at made implicit for that.

use cgrove_core::*;

/// Makes any controller implicit.
pub struct Everywhere<C>(pub C);

impl<C: Controller> Controller for Everywhere<C> {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn hooks(&self) -> Hooks {
        self.0.hooks()
    }
    fn threaded(&self) -> bool {
        true
    }
    fn implicit(&self) -> bool {
        true
    }
    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        self.0.css_alloc(new)
    }
    fn css_online(&self, css: &Css, fx: &mut Effects) -> Result<(), Errno> {
        self.0.css_online(css, fx)
    }
    fn css_killed(&self, css: &Css, fx: &mut Effects) {
        self.0.css_killed(css, fx);
    }
    fn css_offline(&self, css: &Css, fx: &mut Effects) {
        self.0.css_offline(css, fx);
    }
    fn css_released(&self, css: &Css) {
        self.0.css_released(css);
    }
    fn css_free(&self, css: &Css) {
        self.0.css_free(css);
    }
    fn can_attach(&self, tasks: &TaskSet<'_>, fx: &mut Effects) -> Result<(), Errno> {
        self.0.can_attach(tasks, fx)
    }
    fn cancel_attach(&self, tasks: &TaskSet<'_>, fx: &mut Effects) {
        self.0.cancel_attach(tasks, fx);
    }
    fn attach(&self, task: TaskId, to: &Css, from: Option<&Css>, fx: &mut Effects) {
        self.0.attach(task, to, from, fx);
    }
    fn move_forks(&self, n: usize, to: &Css, from: &Css, fx: &mut Effects) {
        self.0.move_forks(n, to, from, fx);
    }
    fn can_fork(&self, css: &Css, fx: &mut Effects) -> Result<(), Errno> {
        self.0.can_fork(css, fx)
    }
    fn cancel_fork(&self, css: &Css) {
        self.0.cancel_fork(css);
    }
    fn fork(&self, task: TaskId, css: &Css, fx: &mut Effects) {
        self.0.fork(task, css, fx);
    }
    fn exit(&self, task: TaskId, css: &Css, fx: &mut Effects) {
        self.0.exit(task, css, fx);
    }
    fn release(&self, task: TaskId, css: &Css) {
        self.0.release(task, css);
    }
}
