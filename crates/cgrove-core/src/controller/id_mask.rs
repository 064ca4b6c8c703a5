//! A set of CPUs or memory nodes by number.

use alloc::vec::Vec;
use core::fmt;

const BITS: usize = u64::BITS as usize;

/// Numbers of CPUs or of memory nodes. Printed as Linux prints lists of them:
/// ranges and single numbers, `0-3,8`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct IdMask {
    /// One bit per number; the last word is never 0, so that equal sets are
    /// equal values.
    words: Vec<u64>,
}

impl IdMask {
    /// The largest number that a mask takes: more than any Linux is built for,
    /// and little enough that no text can make a mask large.
    pub const MAX_ID: u32 = 65_535;

    /// No numbers.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: Vec::new() }
    }

    /// The numbers below `n`.
    #[must_use]
    pub fn first(n: u32) -> Self {
        (0..n).collect()
    }

    /// Adds a number. False if it is above [`MAX_ID`](Self::MAX_ID) and was
    /// left out.
    pub fn insert(&mut self, id: u32) -> bool {
        if id > Self::MAX_ID {
            return false;
        }
        let (word, bit) = (id as usize / BITS, id as usize % BITS);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
        true
    }

    /// Whether a number is in it.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        let (word, bit) = (id as usize / BITS, id as usize % BITS);
        self.words.get(word).is_some_and(|bits| bits & 1 << bit != 0)
    }

    /// Whether there is none in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The largest number in it.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        let top = self.words.last()?.ilog2();
        u32::try_from((self.words.len() - 1) * BITS).ok().map(|base| base + top)
    }

    /// Its numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let bits = self.words.iter().enumerate();
        bits.flat_map(|(word, bits)| {
            let set = (0..BITS).filter(move |bit| bits & 1 << bit != 0);
            set.filter_map(move |bit| u32::try_from(word * BITS + bit).ok())
        })
    }

    /// Those in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        Self { words }.trim()
    }

    /// Those in this one only.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let others = other.words.iter().copied().chain(core::iter::repeat(0));
        Self { words: self.words.iter().zip(others).map(|(a, b)| a & !b).collect() }.trim()
    }

    /// Whether any is in both.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// Whether all of these are in the other.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.without(other).is_empty()
    }

    fn trim(mut self) -> Self {
        let used = self.words.iter().rposition(|bits| *bits != 0).map_or(0, |last| last + 1);
        self.words.truncate(used);
        self
    }
}

/// Those that [`insert`](IdMask::insert) takes.
impl FromIterator<u32> for IdMask {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut mask = Self::new();
        for id in ids {
            mask.insert(id);
        }
        mask
    }
}

impl fmt::Display for IdMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for IdMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn mask(ids: &[u32]) -> IdMask {
        ids.iter().copied().collect()
    }

    #[test]
    fn lists_are_ranges_and_single_numbers() {
        assert_eq!(mask(&[]).to_string(), "");
        assert_eq!(mask(&[5]).to_string(), "5");
        assert_eq!(mask(&[0, 1]).to_string(), "0-1");
        assert_eq!(mask(&[8, 0, 1, 2, 3, 63, 64, 65, 200]).to_string(), "0-3,8,63-65,200");
    }

    #[test]
    fn sets_of_other_lengths_compare_and_combine() {
        let (low, high) = (mask(&[1, 2]), mask(&[2, 130]));
        assert_eq!(low.and(&high), mask(&[2]));
        assert_eq!(high.without(&low), mask(&[130]));
        assert_eq!(high.without(&mask(&[130])), mask(&[2]), "no empty words are left");
        assert!(mask(&[2]).is_subset(&high) && !high.is_subset(&low));
        assert!(low.intersects(&high) && !low.intersects(&mask(&[130])));
        assert!(high.contains(130) && !high.contains(1_000) && !low.contains(0));
        assert_eq!(mask(&[IdMask::MAX_ID + 1]), IdMask::new());
        assert!(IdMask::new().insert(IdMask::MAX_ID) && !IdMask::new().insert(u32::MAX));
        assert_eq!(
            [&high, &IdMask::new(), &mask(&[63])].map(IdMask::last),
            [Some(130), None, Some(63)]
        );
        assert_eq!(IdMask::first(3), mask(&[0, 1, 2]));
    }
}
