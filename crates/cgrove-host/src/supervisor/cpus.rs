//! Who chooses CPUs asks, and gets those of them that his group has.
//!
//! The mask lies in the asker's memory, where another thread could change it after it was looked at.
//! So the call that was asked for never runs: the supervisor makes one of its own, with what it read,
//! and the asker's returns. The rights are checked as the kernel would check the asker's, because the
//! supervisor may have more of them.

use cgrove_core::controller::cpuset::Cpuset;
use cgrove_core::controller::id_mask::IdMask;
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::Supervisor;
use super::asked::Asker;
use crate::sys::{self, RawPid};

/// The kernel looks at no more of a mask than it can have CPUs; this is for 8192.
const MAX_MASK: usize = 1024;

/// What becomes of a question.
enum Verdict {
    /// It is the kernel's business, and what comes of it is looked at.
    Pass,
    /// Done.
    Done,
}

impl Supervisor<'_> {
    pub(super) fn on_affinity(&mut self, asker: Asker, target: RawPid, len: u64, address: u64) {
        match self.choose_cpus(asker, target, len, address) {
            Ok(Verdict::Done) => self.done(asker),
            Ok(Verdict::Pass) => {
                self.allow(asker);
                // From now on it has to be looked for.
                self.resources.affinity_asks(false);
                self.resources.poke();
            }
            Err(errno) => self.refuse(asker, errno),
        }
    }

    fn choose_cpus(
        &mut self,
        asker: Asker,
        target: RawPid,
        len: u64,
        address: u64,
    ) -> Result<Verdict, Errno> {
        let tid = asker.tid;
        if target < 0 {
            return Err(Errno::EINVAL);
        }
        let proc = &mut self.scanner.proc;
        if target != 0 && !proc.same_pid_namespace(tid) {
            return Ok(Verdict::Pass);
        }
        let mask = match read_mask(tid, len, address) {
            Ok(mask) => mask,
            Err(Errno::EFAULT) => return Err(Errno::EFAULT),
            // It may not be looked into.
            Err(_) => return Ok(Verdict::Pass),
        };
        if !self.still_waits(asker) {
            return Ok(Verdict::Pass);
        }
        let target = if target == 0 { tid } else { target };
        if target != tid {
            if !sys::thread_exists_anywhere(target) {
                return Err(Errno::ESRCH);
            }
            let ours = self.ledger.knows(target) || self.scanner.contains(target);
            if !ours {
                return Ok(Verdict::Pass);
            }
            let proc = &mut self.scanner.proc;
            let may = match (proc.uids(tid), proc.uids(target)) {
                (Some((_, asker)), Some((real, effective))) => {
                    asker == 0 || asker == effective || asker == real
                }
                _ => false,
            };
            if !may {
                return Err(Errno::EPERM);
            }
        }
        let group = self.ledger.cgroup_of(target);
        let group = group.as_ref().unwrap_or_else(|| self.ledger.root());
        let allowed = Cpuset::effective(group).ok_or(Errno::ENODEV)?.effective_cpus();
        let new = mask.and(&allowed);
        if new.is_empty() {
            return Err(Errno::EINVAL);
        }
        sys::set_cpus_of(target, new.iter()).map(|()| Verdict::Done)
    }
}

fn read_mask(tid: RawPid, len: u64, address: u64) -> Result<IdMask, Errno> {
    let mut bytes = [0; MAX_MASK];
    let len = usize::try_from(len).unwrap_or(MAX_MASK).min(MAX_MASK);
    let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    let buf = bytes.get_mut(..len).ok_or(Errno::EINVAL)?;
    if len > 0 {
        let remote = [RemoteIoVec { base, len }];
        let got =
            process_vm_readv(Pid::from_raw(tid), &mut [std::io::IoSliceMut::new(buf)], &remote)?;
        // As long as the kernel's own masks are, or it is none.
        if got < len.min(8) {
            return Err(Errno::EFAULT);
        }
    }
    let mut mask = IdMask::default();
    for (byte, at) in bytes.iter().zip(0u32..) {
        for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
            mask.insert(at * 8 + bit);
        }
    }
    Ok(mask)
}
