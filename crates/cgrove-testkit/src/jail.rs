//! A place as poor as a container gives: no user, no capabilities, no new privileges, and a filter
//! shaped like Docker's default profile.
//!
//! The point of the filter is what it refuses and how: `mount`, `unshare`, `setns` and `pidfd_getfd`
//! with EPERM, namespaces in `clone` likewise, and all of `clone3` with ENOSYS, on which C libraries
//! fall back to `clone`. `ptrace` and `process_vm_readv` stay allowed, as in Docker since 2019.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use cgrove_host::sys::set_signal_ignored;
use nix::unistd::{Gid, Uid, execvp, getuid, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// The user without rights, by the number that every Linux gives it.
const NOBODY: u32 = 65534;

/// Calls that Docker's default profile refuses to a container without capabilities, as far as a
/// program could use them to look at or change its surroundings.
const REFUSED: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
];

const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];

/// How poor the place is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jail {
    /// `seccomp` is refused too, as some hardened places do: no fork gate.
    pub no_seccomp: bool,
    /// `ptrace` is refused.
    pub no_ptrace: bool,
}

impl Jail {
    /// Puts the calling process in and runs `command` instead of it. Returns only on failure.
    pub fn exec(self, command: &[impl AsRef<OsStr>]) -> io::Error {
        // Rust's runtime ignores it, and exec would hand that down.
        set_signal_ignored(libc::SIGPIPE, false);
        match self.enter().and_then(|()| run(command)) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Gives up root, if the caller has it, and everything else. Cannot be undone.
    ///
    /// # Errors
    /// What the kernel refuses with.
    pub fn enter(self) -> io::Result<()> {
        if getuid().is_root() {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            setgroups(&[])?;
            setresgid(group, group, group)?;
            // With the last root id go all capabilities.
            setresuid(user, user, user)?;
        }
        for filter in self.filters().map_err(io::Error::other)? {
            // Sets no_new_privs first.
            apply_filter(&filter).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// One filter answers with one errno, so there is one for each.
    fn filters(self) -> Result<[BpfProgram; 2], seccompiler::Error> {
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
            REFUSED.iter().map(|&nr| (nr, Vec::new())).collect();
        if self.no_seccomp {
            refused.insert(libc::SYS_seccomp, Vec::new());
        }
        if self.no_ptrace {
            refused.insert(libc::SYS_ptrace, Vec::new());
        }
        let mut namespaces = Vec::new();
        for flag in NAMESPACES {
            let flag = u64::from(flag.unsigned_abs());
            namespaces.push(SeccompRule::new(vec![SeccompCondition::new(
                0,
                SeccompCmpArgLen::Qword,
                SeccompCmpOp::MaskedEq(flag),
                flag,
            )?])?);
        }
        refused.insert(libc::SYS_clone, namespaces);
        let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        // The one that may refuse seccomp comes last.
        Ok([filter(unknown, libc::ENOSYS)?, filter(refused, libc::EPERM)?])
    }
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, seccompiler::Error> {
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()?)
}

fn run(command: &[impl AsRef<OsStr>]) -> io::Result<Infallible> {
    let words: Vec<CString> = command
        .iter()
        .map(|word| CString::new(word.as_ref().as_bytes()))
        .collect::<Result<_, _>>()?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(execvp(program, &words)?)
}

/// Runs `[--no-seccomp] [--no-ptrace] COMMAND [ARG…]` in the jail; returns the exit status of a
/// failure.
pub fn main(args: &[impl AsRef<OsStr>]) -> i32 {
    let mut command = args;
    let mut takes = |flag: &str| {
        let found = command.first().is_some_and(|arg| arg.as_ref() == flag);
        command = &command[usize::from(found)..];
        found
    };
    let jail = Jail { no_seccomp: takes("--no-seccomp"), no_ptrace: takes("--no-ptrace") };
    let error = jail.exec(command);
    let what = command.first().map_or_else(Default::default, |word| word.as_ref().to_owned());
    eprintln!("cannot run {} in the jail: {error}", what.display());
    125
}
