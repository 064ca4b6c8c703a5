//! Files whose content only the embedder knows.
//!
//! A ledger knows what it was told; `memory.stat` breaks usage down by what the
//! pages are used for, which nobody tells. Such a file exists where an embedder
//! provides it and not otherwise: a file that shows zeros deceives its reader.

use crate::table::{FileDef, Reading, Table};
use alloc::string::String;
use alloc::vec::Vec;
use cgrove_core::controller::memory::Memory;
use cgrove_core::{Cgroup, Errno};
use core::fmt;

/// A file that an embedder can provide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// `memory.stat`.
    MemoryStat,
    /// `memory.numa_stat`.
    MemoryNumaStat,
}

impl Figure {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::MemoryStat, Self::MemoryNumaStat];

    /// The file's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemoryStat => "memory.stat",
            Self::MemoryNumaStat => "memory.numa_stat",
        }
    }
}

/// An embedder's figures.
pub trait Figures: Send + Sync {
    /// Whether there is such a file.
    fn has(&self, figure: Figure) -> bool;

    /// Prints its content for a cgroup.
    ///
    /// # Errors
    /// Any number; the reader gets it.
    fn print(&self, figure: Figure, cgroup: &Cgroup, out: &mut String) -> Result<(), Errno>;
}

/// For `Debug` of those that hold one.
impl fmt::Debug for dyn Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

pub(crate) fn table(figures: &dyn Figures) -> Table {
    let there = Figure::ALL.into_iter().filter(|figure| figures.has(*figure));
    let files: Vec<FileDef> =
        there.map(|figure| FileDef::new(figure.name()).read(print).tag(figure as usize)).collect();
    Table { owner: Some(Memory::NAME), files }
}

fn print(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let figures = cx.tree.figures().ok_or(Errno::EINVAL)?;
    figures.print(Figure::ALL[cx.tag], cx.cgroup, out)
}
