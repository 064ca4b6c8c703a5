//! Sets of controllers, by their number.
//!
//! A controller's number (`ssid` in Linux) is its place in the order of
//! registration, which is also the order in which controllers are asked,
//! printed and refused. A set of them is one word, as in the kernel.

use core::fmt;
use core::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Sub, SubAssign};

/// A set of controllers of one hierarchy.
///
/// ```
/// use cgrove_core::SsMask;
/// let both = SsMask::of(0) | SsMask::of(3);
/// assert!(both.contains(3) && !both.contains(1));
/// assert_eq!((both - SsMask::of(0)).iter().collect::<Vec<_>>(), [3]);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SsMask(u32);

impl SsMask {
    /// No controller.
    pub const NONE: Self = Self(0);
    /// How many controllers a hierarchy may have.
    pub const CAPACITY: usize = 32;

    /// The controller with this number.
    ///
    /// # Panics
    /// If `ssid` is not below [`CAPACITY`](Self::CAPACITY).
    #[must_use]
    pub const fn of(ssid: usize) -> Self {
        assert!(ssid < Self::CAPACITY, "no controller has this number");
        Self(1 << ssid)
    }

    /// The controllers numbered below `n`.
    #[must_use]
    pub(crate) const fn first(n: usize) -> Self {
        if n >= Self::CAPACITY { Self(u32::MAX) } else { Self((1 << n) - 1) }
    }

    /// Whether the controller with this number is among them.
    #[must_use]
    pub const fn contains(self, ssid: usize) -> bool {
        ssid < Self::CAPACITY && self.0 & (1 << ssid) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any is in both.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Their numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::CAPACITY).filter(move |&ssid| self.contains(ssid))
    }
}

impl FromIterator<usize> for SsMask {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        numbers.into_iter().fold(Self::NONE, |mask, ssid| mask | Self::of(ssid))
    }
}

macro_rules! operator {
    ($trait:ident $method:ident, $assign:ident $assign_method:ident, $apply:expr) => {
        impl $trait for SsMask {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                let apply: fn(u32, u32) -> u32 = $apply;
                Self(apply(self.0, other.0))
            }
        }
        impl $assign for SsMask {
            fn $assign_method(&mut self, other: Self) {
                *self = $trait::$method(*self, other);
            }
        }
    };
}

operator!(BitOr bitor, BitOrAssign bitor_assign, |a, b| a | b);
operator!(BitAnd bitand, BitAndAssign bitand_assign, |a, b| a & b);
operator!(Sub sub, SubAssign sub_assign, |a, b| a & !b);

impl fmt::Debug for SsMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
