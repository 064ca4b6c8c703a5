//! The end of a long chain of parents.
//!
//! A cgroup, a css and a controller's state each hold the one above. Whoever
//! keeps a handle on the deepest of many that were removed keeps them all, and
//! drops them all with it: by a recursion as deep as the tree was, unless each
//! is taken out of the one below before that is dropped. Any user can make a
//! tree deeper than a stack.

use alloc::sync::Arc;

/// Drops what is above something that is being dropped, level by level; `above`
/// takes the next one out of a level.
pub(crate) fn drop_upwards<T>(first: Option<Arc<T>>, above: impl Fn(&mut T) -> Option<Arc<T>>) {
    let mut next = first;
    while let Some(mut level) = next.and_then(Arc::into_inner) {
        next = above(&mut level);
    }
}
