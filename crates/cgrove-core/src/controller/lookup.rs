//! From a cgroup to a controller's state.
//!
//! Two questions that differ once a controller is off somewhere: "whose files
//! are in this directory" and "whom does a task here charge". The first is
//! answered by the cgroup itself or not at all, the second by the nearest
//! cgroup upwards that has the controller (`cgroup_e_css`).

use crate::cgroup::Cgroup;
use alloc::sync::Arc;

/// The state of the controller `name` on this very cgroup, if it has files.
pub(crate) fn own<T: Send + Sync + 'static>(cgroup: &Cgroup, name: &str) -> Option<Arc<T>> {
    cgroup.css(name).filter(|css| css.is_visible())?.state_arc()
}

/// The state that a task of this cgroup charges. A css that is switched off
/// but waits for its last tasks is passed over: tasks that can still move have
/// moved to the css above.
pub(crate) fn effective<T: Send + Sync + 'static>(cgroup: &Cgroup, name: &str) -> Option<Arc<T>> {
    cgroup
        .ancestors_and_self()
        .filter_map(|cgroup| cgroup.css(name))
        .find(|css| !css.is_dying())?
        .state_arc()
}
