//! The formats that files are printed in.
//!
//! A value is a line. Flat keyed files have `KEY VALUE` lines, nested keyed ones
//! `KEY SUB=VALUE …` (`cgroup-v2.rst`, "Interface Files").

use alloc::string::String;
use core::fmt::{Display, Write};

/// One value on a line.
pub(crate) fn value(out: &mut String, value: impl Display) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{value}");
}

/// A line of a flat keyed file.
pub(crate) fn keyed(out: &mut String, key: impl Display, value: impl Display) {
    let _ = writeln!(out, "{key} {value}");
}

/// A part of a line of a nested keyed file, with a blank in front.
pub(crate) fn nested(out: &mut String, key: impl Display, value: impl Display) {
    let _ = write!(out, " {key}={value}");
}
