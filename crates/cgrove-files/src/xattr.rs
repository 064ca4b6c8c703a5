//! Extended attributes, as kernfs keeps them.
//!
//! Three kinds, by the start of the name: `user.` for who may read and write
//! the node, at most 128 of them with 128 KiB of values per node; `trusted.`
//! for the superuser, invisible to others; `security.` readable by all. systemd
//! marks delegated cgroups with one (`trusted.delegate`, `user.delegate`).

use crate::attr::{Attrs, is_sticky};
use crate::cred::{Access, Cred};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use cgrove_core::Errno;

/// The longest name (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;
/// The longest value (`XATTR_SIZE_MAX`).
const SIZE_MAX: usize = 65_536;
/// How many `user.` attributes a node has at most.
const USER_MAX: usize = 128;
/// How many bytes their values have at most.
const USER_SIZE_MAX: usize = 128 << 10;

/// Whether setting an attribute makes it, changes it, or either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Whichever it takes.
    #[default]
    Any,
    /// It must not be there yet (`XATTR_CREATE`).
    Create,
    /// It must be there (`XATTR_REPLACE`).
    Replace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    User,
    Trusted,
    Security,
}

/// The attributes of one node.
#[derive(Debug, Default)]
pub(crate) struct Xattrs {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    users: usize,
    user_size: usize,
}

impl Xattrs {
    pub(crate) fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.values.get(name).cloned()
    }

    pub(crate) fn set(&mut self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        let old = self.values.get(name).map(Vec::len);
        let is_user = kind(name) == Some(Kind::User);
        // Counted as one more before the old one goes, as in Linux.
        if is_user && (self.users >= USER_MAX || self.user_size + value.len() > USER_SIZE_MAX) {
            return Err(Errno::ENOSPC);
        }
        match (mode, old) {
            (XattrMode::Create, Some(_)) => return Err(Errno::EEXIST),
            (XattrMode::Replace, None) => return Err(Errno::ENODATA),
            _ => {}
        }
        if is_user {
            self.users += usize::from(old.is_none());
            self.user_size = self.user_size + value.len() - old.unwrap_or(0);
        }
        self.values.insert(name.into(), value.into());
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Result<(), Errno> {
        let old = self.values.remove(name).ok_or(Errno::ENODATA)?;
        if kind(name) == Some(Kind::User) {
            self.users -= 1;
            self.user_size -= old.len();
        }
        Ok(())
    }

    /// The names that `cred` is shown.
    pub(crate) fn names(&self, cred: &Cred) -> Vec<Vec<u8>> {
        let shown = |name: &&Vec<u8>| cred.is_root() || kind(name) != Some(Kind::Trusted);
        self.values.keys().filter(shown).cloned().collect()
    }
}

fn kind(name: &[u8]) -> Option<Kind> {
    let kinds = [
        (b"user.".as_slice(), Kind::User),
        (b"trusted.", Kind::Trusted),
        (b"security.", Kind::Security),
    ];
    kinds.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, kind)| kind)
}

/// What comes before the node is looked at.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.is_empty() || name.len() > NAME_MAX { Err(Errno::ERANGE) } else { Ok(()) }
}

/// Whether `cred` may read an attribute of this name, and whether there can be
/// one.
pub(crate) fn may_read(name: &[u8], attrs: &Attrs, cred: &Cred) -> Result<(), Errno> {
    match kind(name) {
        Some(Kind::Trusted) if !cred.is_root() => return Err(Errno::ENODATA),
        Some(Kind::Trusted | Kind::Security) => {}
        _ if name.starts_with(b"system.") => {}
        _ => cred.check(attrs, Access::READ)?,
    }
    resolve(name)
}

/// Whether `cred` may write an attribute of this name and size, and whether
/// there can be one.
pub(crate) fn may_write(
    name: &[u8],
    value: &[u8],
    attrs: &Attrs,
    is_dir: bool,
    cred: &Cred,
) -> Result<(), Errno> {
    if value.len() > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    match kind(name) {
        Some(Kind::Trusted | Kind::Security) if !cred.is_root() => return Err(Errno::EPERM),
        Some(Kind::Trusted | Kind::Security) => {}
        Some(Kind::User)
            if is_dir && is_sticky(attrs) && !cred.is_root() && cred.uid != attrs.uid =>
        {
            return Err(Errno::EPERM);
        }
        _ if name.starts_with(b"system.") => {}
        _ => cred.check(attrs, Access::WRITE)?,
    }
    resolve(name)
}

/// `xattr_resolve_name`.
fn resolve(name: &[u8]) -> Result<(), Errno> {
    if kind(name).is_none() {
        return Err(Errno::EOPNOTSUPP);
    }
    if name.last() == Some(&b'.') && name.iter().filter(|byte| **byte == b'.').count() == 1 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_attributes_are_limited_in_number_and_size() {
        let mut xattrs = Xattrs::default();
        for n in 0..128u32 {
            let name = alloc::format!("user.{n}");
            assert_eq!(xattrs.set(name.as_bytes(), b"", XattrMode::Any), Ok(()));
        }
        assert_eq!(xattrs.set(b"user.more", b"", XattrMode::Any), Err(Errno::ENOSPC));
        assert_eq!(xattrs.set(b"trusted.more", b"", XattrMode::Any), Ok(()));
        assert_eq!(xattrs.set(b"user.0", b"", XattrMode::Any), Err(Errno::ENOSPC), "as in Linux");
        assert_eq!(xattrs.remove(b"user.1"), Ok(()));
        assert_eq!(xattrs.set(b"user.0", b"new", XattrMode::Replace), Ok(()));

        let mut xattrs = Xattrs::default();
        let large = alloc::vec![0; SIZE_MAX];
        assert_eq!(xattrs.set(b"user.a", &large, XattrMode::Any), Ok(()));
        assert_eq!(xattrs.set(b"user.b", &large, XattrMode::Any), Ok(()));
        assert_eq!(xattrs.set(b"user.c", b"x", XattrMode::Any), Err(Errno::ENOSPC));
        assert_eq!(xattrs.remove(b"user.a"), Ok(()));
        assert_eq!(xattrs.set(b"user.c", b"x", XattrMode::Any), Ok(()));
    }

    #[test]
    fn making_and_replacing_look_whether_it_is_there() {
        let mut xattrs = Xattrs::default();
        assert_eq!(xattrs.set(b"user.a", b"1", XattrMode::Replace), Err(Errno::ENODATA));
        assert_eq!(xattrs.set(b"user.a", b"1", XattrMode::Create), Ok(()));
        assert_eq!(xattrs.set(b"user.a", b"2", XattrMode::Create), Err(Errno::EEXIST));
        assert_eq!(xattrs.get(b"user.a"), Some(b"1".to_vec()));
        assert_eq!(xattrs.remove(b"user.b"), Err(Errno::ENODATA));
    }

    #[test]
    fn kinds_have_their_own_rules() {
        let attrs = Attrs { mode: 0o644, uid: 0, gid: 0 };
        let (root, user) = (Cred::root(), Cred::user(1, 1));
        assert_eq!(may_read(b"user.a", &attrs, &user), Ok(()));
        assert_eq!(may_read(b"trusted.a", &attrs, &user), Err(Errno::ENODATA));
        assert_eq!(may_read(b"security.a", &attrs, &user), Ok(()));
        let write = |name: &[u8], cred| may_write(name, b"", &attrs, false, cred);
        assert_eq!(write(b"user.a", &user), Err(Errno::EACCES));
        assert_eq!(write(b"trusted.a", &user), Err(Errno::EPERM));
        assert_eq!(write(b"security.a", &user), Err(Errno::EPERM));
        assert_eq!(write(b"system.a", &root), Err(Errno::EOPNOTSUPP));
        assert_eq!(write(b"a", &root), Err(Errno::EOPNOTSUPP));
        assert_eq!(write(b"user.", &root), Err(Errno::EINVAL));
        assert_eq!(write(b"user.a", &root), Ok(()));
        let sticky = Attrs { mode: 0o1777, uid: 0, gid: 0 };
        assert_eq!(may_write(b"user.a", b"", &sticky, true, &user), Err(Errno::EPERM));
        assert_eq!(check_name(&[b'x'; 256]), Err(Errno::ERANGE));
    }
}
