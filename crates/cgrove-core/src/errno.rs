//! Refusals, by the number Linux gives for them.

use core::fmt;

/// The kernel's error numbers that cgroup operations refuse with.
///
/// One refusal has one number, the one Linux returns for it, so that a front
/// end can hand it on unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum Errno {
    /// Not permitted, whatever the file's mode says.
    EPERM = 1,
    /// No such file or directory.
    ENOENT = 2,
    /// No such process.
    ESRCH = 3,
    /// More than a page was written.
    E2BIG = 7,
    /// The descriptor is not of a cgroup's directory.
    EBADF = 9,
    /// A limit was reached; the same call may succeed later.
    EAGAIN = 11,
    /// Out of memory.
    ENOMEM = 12,
    /// Not allowed to the one who opened the file.
    EACCES = 13,
    /// In use: tasks or children.
    EBUSY = 16,
    /// The name exists.
    EEXIST = 17,
    /// The cgroup is dead.
    ENODEV = 19,
    /// Part of the path is a file.
    ENOTDIR = 20,
    /// The path is a directory.
    EISDIR = 21,
    /// Malformed argument.
    EINVAL = 22,
    /// No room: no CPU would be left to run on, or too many extended attributes.
    ENOSPC = 28,
    /// A number outside the range.
    ERANGE = 34,
    /// The name is longer than a path can be.
    ENAMETOOLONG = 36,
    /// `..` cannot be removed.
    ENOTEMPTY = 39,
    /// There is no such extended attribute.
    ENODATA = 61,
    /// A number in a list does not fit its type.
    EOVERFLOW = 75,
    /// The cgroup's type, or the kind of attribute, does not allow it.
    EOPNOTSUPP = 95,
}

impl Errno {
    /// The number, as in `errno(3)`; positive.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The symbolic name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EPERM => "EPERM",
            Self::ENOENT => "ENOENT",
            Self::ESRCH => "ESRCH",
            Self::E2BIG => "E2BIG",
            Self::EBADF => "EBADF",
            Self::EAGAIN => "EAGAIN",
            Self::ENOMEM => "ENOMEM",
            Self::EACCES => "EACCES",
            Self::EBUSY => "EBUSY",
            Self::EEXIST => "EEXIST",
            Self::ENODEV => "ENODEV",
            Self::ENOTDIR => "ENOTDIR",
            Self::EISDIR => "EISDIR",
            Self::EINVAL => "EINVAL",
            Self::ENOSPC => "ENOSPC",
            Self::ERANGE => "ERANGE",
            Self::ENAMETOOLONG => "ENAMETOOLONG",
            Self::ENOTEMPTY => "ENOTEMPTY",
            Self::ENODATA => "ENODATA",
            Self::EOVERFLOW => "EOVERFLOW",
            Self::EOPNOTSUPP => "EOPNOTSUPP",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}
