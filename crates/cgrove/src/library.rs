//! The parts of the library.

mod command;
mod error;
mod events;
mod group;
mod running;
mod supervisor;

pub use self::command::Command;
pub use self::error::Error;
pub use self::events::Events;
pub use self::group::{Group, GroupBuilder};
pub use self::running::{Output, Running};
pub use self::supervisor::{Supervisor, SupervisorBuilder};
