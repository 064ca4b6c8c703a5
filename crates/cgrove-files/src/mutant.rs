//! Known-wrong variants of reading and printing, to prove that the replay of
//! what Linux answered sees them.
//!
//! Built with `--cfg cgrove_mutants` only, and then chosen by `CGROVE_MUTANT`;
//! in every other build the question is the constant `false`.

/// One deliberate defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A number that begins with 0 is decimal.
    DecimalOnly,
    /// Whatever is behind a number is overlooked.
    JunkOverlooked,
    /// With `+x -x` in one write, the first mention counts.
    FirstMentionCounts,
    /// A write is judged by whoever writes, not by whoever opened.
    WriterJudged,
}

/// Whether this build runs with that defect.
#[inline]
pub(crate) fn broken(which: Mutant) -> bool {
    #[cfg(cgrove_mutants)]
    {
        extern crate std;
        std::env::var("CGROVE_MUTANT").is_ok_and(|name| name == alloc::format!("{which:?}"))
    }
    #[cfg(not(cgrove_mutants))]
    {
        let _ = which;
        false
    }
}
