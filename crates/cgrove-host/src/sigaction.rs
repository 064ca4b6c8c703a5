//! Would this action for SIGCHLD make the kernel throw children away?
//!
//! A parent whose SIGCHLD is SIG_IGN, or whose action carries SA_NOCLDWAIT, never waits for its
//! children: the kernel reaps them itself and their CPU time goes nowhere (sigaction(2), NOTES).
//! The action lies in the asker's memory. Another thread of it can change the bytes after they
//! were read; the figures' class is all that depends on them, so nothing worse than a mislabelled
//! figure follows. What cannot be read is assumed to throw away.

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::filter::ActionLayout;
use crate::sys::RawPid;

const SIG_IGN: u64 = libc::SIG_IGN as u64;
const SA_NOCLDWAIT: u64 = libc::SA_NOCLDWAIT as u64;

/// Reads the action at `address` in `tid`'s memory.
pub fn may_discard_children(tid: RawPid, address: u64, layout: ActionLayout) -> bool {
    let mut bytes = [0u8; 16];
    let len = match layout {
        ActionLayout::Native => 16,
        ActionLayout::Compat => 8,
        ActionLayout::Opaque => return true,
    };
    let Ok(base) = usize::try_from(address) else { return true };
    let got = process_vm_readv(
        Pid::from_raw(tid),
        &mut [IoSliceMut::new(&mut bytes[..len])],
        &[RemoteIoVec { base, len }],
    );
    if got != Ok(len) {
        return true;
    }
    discards(&bytes[..len])
}

/// Two words of equal size: the handler and the flags.
fn discards(action: &[u8]) -> bool {
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
    let (handler, flags) = action.split_at(action.len() / 2);
    word(handler) == SIG_IGN || word(flags) & SA_NOCLDWAIT != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ignoring_discards() {
        let native = |handler: u64, flags: u64| {
            discards(&[handler.to_le_bytes(), flags.to_le_bytes()].concat())
        };
        assert!(native(1, 0));
        assert!(!native(0, 0));
        assert!(!native(0x1234_5678, libc::SA_RESTART as u64));
        assert!(native(0x1234_5678, SA_NOCLDWAIT | libc::SA_RESTART as u64));
        let compat = |handler: u32, flags: u32| {
            discards(&[handler.to_le_bytes(), flags.to_le_bytes()].concat())
        };
        assert!(compat(1, 0));
        assert!(!compat(0x1000_0001, 0));
        assert!(compat(0, SA_NOCLDWAIT as u32));
    }

    #[test]
    fn unreadable_memory_is_assumed_to_discard() {
        let me = std::process::id() as RawPid;
        assert!(may_discard_children(me, 8, ActionLayout::Native));
        let action = [2u64, 0];
        let address = action.as_ptr() as u64;
        assert!(!may_discard_children(me, address, ActionLayout::Native));
        assert!(may_discard_children(me, address, ActionLayout::Opaque));
    }
}
