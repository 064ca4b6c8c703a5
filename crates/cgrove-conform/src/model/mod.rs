//! The core as a target: cases played on `cgrove-core` and `cgrove-files`, without a kernel.
//!
//! [`world`] has simulated processes and performs the core's effects on them, [`files`] does what a
//! process does with files, [`memory`] is its memory, and [`target`] plays cases on all three in the
//! words of the kernel's executor (`guest/executor`): what a step waits for there, and what it says
//! when that does not come, is what it says here.

pub mod files;
mod lives;
mod machine;
pub mod memory;
pub mod target;
mod turns;
mod view;
pub mod world;
