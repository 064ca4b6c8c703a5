//! What the tests of cgrove share.
//!
//! The command is tested from outside, with real processes: [`acts`] are small programs that do odd
//! things, [`jail`] is a place as poor as a container gives, [`watch`] looks at `/proc` as a third
//! party would, and [`pty`] is a terminal with somebody typing.
#![forbid(unsafe_code)]

pub mod acts;
pub mod jail;
pub mod pty;
pub mod watch;
