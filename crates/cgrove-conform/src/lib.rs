//! The oracle: cases that Linux answers, so that cgrove can be held to the answers.
//!
//! [`case`] is what a case is and what plays it, [`lang`] and [`transcript`] are the text forms,
//! [`guest`] plays cases with real processes on a real kernel, and [`vm`] gets a kernel, boots it
//! and feeds it cases. [`model`] plays them on the core, [`replay`] holds the core to what kernels have
//! answered, and [`random`] asks both what nobody thought of. [`backend`] has the command itself run
//! there, on the kernel's own cgroups.

pub mod backend;
pub mod case;
pub mod guest;
pub mod lang;
pub mod model;
pub mod random;
pub mod record;
pub mod replay;
pub mod reported;
pub mod sys;
pub mod transcript;
pub mod vm;
pub mod wire;
