//! The one kind of lock here. Three uses, outermost first:
//!
//! * of an open file, so that operations on it come one after the other; held
//!   while the core is called, like `kernfs_open_file.mutex`;
//! * of changes to the tree, which the core makes and this crate then puts down
//!   the owners of; held likewise;
//! * of what is kept (attributes, open files): a leaf. The core asks for
//!   attributes with its own locks held, so it is never called under this one.

#[cfg(not(any(feature = "std", feature = "spin")))]
compile_error!("cgrove-files needs locks: enable the feature `std` or `spin`");

#[cfg(feature = "std")]
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(std::sync::Mutex<T>);

#[cfg(feature = "std")]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(all(not(feature = "std"), feature = "spin"))]
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(spin::Mutex<T>);

#[cfg(all(not(feature = "std"), feature = "spin"))]
impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> spin::MutexGuard<'_, T> {
        self.0.lock()
    }
}
