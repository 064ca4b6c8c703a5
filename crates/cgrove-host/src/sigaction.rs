//! What a new action for SIGCHLD would do to a run.
//!
//! **Children thrown away.** A parent whose SIGCHLD is SIG_IGN, or whose action carries
//! SA_NOCLDWAIT, never waits for its children: the kernel reaps them itself and their CPU time goes
//! nowhere (sigaction(2), NOTES).
//!
//! **Forks interrupted.** Until the supervisor has taken a question in, a signal takes the asker out
//! of its wait. With a handler that lacks SA_RESTART the call then fails with EINTR, which fork(2)
//! never does, and programs are not prepared for: a shell that starts a pipeline gives up because
//! the first part ended while it forked the second. So such a handler gets SA_RESTART. What it
//! changes otherwise: a read, a write or a wait that the end of a child interrupts goes on; pause,
//! sigsuspend, poll, select and sleeps still end.
//!
//! The action lies in the asker's memory. Another thread of it can change the bytes after they
//! were read; nothing worse than a mislabelled figure or an interrupted fork follows. What cannot
//! be read is assumed to throw away. The memory is reached through a descriptor that stands for it
//! whatever becomes of the pid; the caller makes sure that the asker still waits after it is open.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::filter::ActionLayout;
use crate::procfs::Proc;
use crate::sys::RawPid;

const SIG_IGN: u64 = libc::SIG_IGN as u64;
const SA_NOCLDWAIT: u64 = libc::SA_NOCLDWAIT as u64;
const SA_RESTART: u64 = libc::SA_RESTART as u64;

/// What is to be done about an action.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing.
    Harmless,
    /// Children may be thrown away.
    Discards,
    /// Forks could be interrupted: [`Restart::set`] prevents it.
    Interrupts(Restart),
}

/// Where SA_RESTART is missing.
#[derive(Debug)]
pub struct Restart {
    memory: File,
    at: u64,
    flags: u32,
}

impl Restart {
    /// Adds the flag, which the kernel is about to read. Fails where memory cannot be written, and
    /// then the program is as it was.
    pub fn set(self) {
        let flags = self.flags | libc::SA_RESTART as u32;
        let _ = self.memory.write_all_at(&flags.to_ne_bytes(), self.at);
    }
}

/// Reads the action at `address` in `tid`'s memory.
pub fn examine(proc: &Proc, tid: RawPid, address: u64, layout: ActionLayout) -> Verdict {
    let mut bytes = [0u8; 16];
    let len = match layout {
        ActionLayout::Native => 16,
        ActionLayout::Compat => 8,
        ActionLayout::Opaque => return Verdict::Discards,
    };
    let Ok(memory) = proc.memory(tid) else { return Verdict::Discards };
    if memory.read_exact_at(&mut bytes[..len], address).is_err() {
        return Verdict::Discards;
    }
    let half = len / 2;
    let (handler, flags) = words(&bytes[..len]);
    if handler == SIG_IGN || flags & SA_NOCLDWAIT != 0 {
        Verdict::Discards
    } else if handler != 0 && flags & SA_RESTART == 0 {
        // Every known flag is in the low half, also where the word is wider.
        Verdict::Interrupts(Restart { memory, at: address + half as u64, flags: flags as u32 })
    } else {
        Verdict::Harmless
    }
}

/// Two words of equal size: the handler and the flags.
fn words(action: &[u8]) -> (u64, u64) {
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
    let (handler, flags) = action.split_at(action.len() / 2);
    (word(handler), word(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(address: u64, layout: ActionLayout) -> Verdict {
        examine(&Proc::open().unwrap(), std::process::id() as RawPid, address, layout)
    }

    fn native(handler: u64, flags: u64) -> Verdict {
        let action = [handler, flags];
        look(action.as_ptr() as u64, ActionLayout::Native)
    }

    #[test]
    fn only_ignoring_discards() {
        assert!(matches!(native(1, 0), Verdict::Discards));
        assert!(matches!(native(0, 0), Verdict::Harmless));
        assert!(matches!(native(0x1234_5678, SA_RESTART), Verdict::Harmless));
        assert!(matches!(native(0x1234_5678, SA_NOCLDWAIT | SA_RESTART), Verdict::Discards));
        let compat = |handler: u32, flags: u32| {
            let action = [handler, flags];
            look(action.as_ptr() as u64, ActionLayout::Compat)
        };
        assert!(matches!(compat(1, 0), Verdict::Discards));
        assert!(matches!(compat(0, SA_NOCLDWAIT as u32), Verdict::Discards));
        assert!(matches!(compat(0x1000_0001, SA_RESTART as u32), Verdict::Harmless));
    }

    #[test]
    fn a_handler_that_interrupts_gets_the_flag_and_keeps_the_others() {
        let action = [0x1234_5678u64, 4, 7];
        let verdict = look(action.as_ptr() as u64, ActionLayout::Native);
        let Verdict::Interrupts(restart) = verdict else { panic!("{verdict:?}") };
        restart.set();
        assert_eq!(std::hint::black_box(&action), &[0x1234_5678, 4 | SA_RESTART, 7]);
        let action = [0x1234u32, 4, 7];
        let verdict = look(action.as_ptr() as u64, ActionLayout::Compat);
        let Verdict::Interrupts(restart) = verdict else { panic!("{verdict:?}") };
        restart.set();
        assert_eq!(std::hint::black_box(&action), &[0x1234, 4 | SA_RESTART as u32, 7]);
    }

    #[test]
    fn unreadable_memory_is_assumed_to_discard() {
        assert!(matches!(look(8, ActionLayout::Native), Verdict::Discards));
        assert!(matches!(look(u64::MAX - 4, ActionLayout::Native), Verdict::Discards));
        let action = [2u64, SA_RESTART];
        let address = action.as_ptr() as u64;
        assert!(matches!(look(address, ActionLayout::Native), Verdict::Harmless));
        assert!(matches!(look(address, ActionLayout::Opaque), Verdict::Discards));
    }
}
