//! The kernel as a target: cases played with real processes on a real hierarchy.
//!
//! Runs as the first process of a virtual machine. [`executor`] holds the tasks of a case by name
//! and does the steps; each task is an [`actor`] that waits on a socket for what it is to do.

pub mod actor;
pub mod executor;
pub mod files;
pub mod init;
mod line;
mod proc;
pub mod tool;
