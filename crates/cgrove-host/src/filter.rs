//! The seccomp program of the fork gate.
//!
//! The gate must see every call that makes a task and must cost nothing elsewhere. So the program
//! looks at the architecture and the call number alone for everything it lets through: the kernel
//! (5.11 and newer) then caches "allow" per call number and does not run the program at all.
//!
//! - `fork`, `vfork`, `clone`: ask the supervisor. While no task limit is set, threads
//!   (`CLONE_THREAD`) need no permission.
//! - `clone3`: ENOSYS, as in Docker's default profile. Its flags lie in memory, where a filter
//!   cannot see them; every libc falls back to `clone`.
//! - `rt_sigaction(SIGCHLD, act ≠ NULL)`: tell the supervisor, because a parent that ignores SIGCHLD
//!   makes the kernel throw away its children's CPU time, and one whose handler lacks SA_RESTART could
//!   have its forks interrupted (`sigaction.rs`).
//! - `unshare(CLONE_NEWPID)`, `setns` into what may be a pid namespace: tell the supervisor, because
//!   the init of such a namespace ends with its children unaccounted for, and takes in the orphans
//!   of whoever enters it.
//! - An architecture whose numbers we do not know could fork unseen: it is killed.
//!
//! A 32-bit program runs under a 64-bit kernel with numbers of its own; x32 shares x86-64's with
//! one bit set.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRACE,
    SECCOMP_RET_USER_NOTIF,
};

use crate::sys::BpfInsn;

const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;
const CLONE_THREAD: u32 = libc::CLONE_THREAD as u32;
const CLONE_UNTRACED: u32 = libc::CLONE_UNTRACED as u32;
const CLONE_NEWPID: u32 = libc::CLONE_NEWPID as u32;
const SIGCHLD: u32 = libc::SIGCHLD as u32;
const ENOSYS: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// The bit that marks an x32 call on x86-64.
const X32_BIT: u32 = 0x4000_0000;

/// What a notified call asks, by architecture and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A new task, with the clone flags (0 for `fork`, `CLONE_VM|CLONE_VFORK` for `vfork`).
    Fork {
        /// CLONE_* flags without the exit signal.
        flags: u64,
    },
    /// A new action for SIGCHLD.
    ChildAction(ActionLayout),
    /// A pid namespace for the children to come.
    PidNamespace(Namespace),
    /// Other CPUs for a thread.
    Affinity,
    /// Nothing this filter asks about.
    Other,
}

/// Which pid namespace children are to be born into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// A new one.
    New,
    /// An existing one; if the caller did not say of which kind it is, this descriptor tells.
    Existing {
        /// The asker's descriptor to look at.
        unsure: Option<i32>,
    },
}

/// Where handler and flags lie in the `struct sigaction` that a call points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionLayout {
    /// handler: u64 at 0, flags: u64 at 8.
    Native,
    /// handler: u32 at 0, flags: u32 at 4.
    Compat,
    /// Not read: assume that children may be thrown away.
    Opaque,
}

/// Call numbers of one architecture. `None`: it has no such call.
struct Numbers {
    audit_arch: u32,
    /// Bits to clear in the number before comparing.
    mask: u32,
    fork: Option<u32>,
    vfork: Option<u32>,
    clone: u32,
    clone3: u32,
    /// Calls that set a signal's action, and how to read it. All take the signal first.
    actions: &'static [(u32, ActionLayout)],
    /// unshare(flags)
    unshare: u32,
    /// setns(fd, flags)
    setns: u32,
    /// sched_setaffinity(pid, len, mask)
    affinity: u32,
}

#[cfg(target_arch = "x86_64")]
const ARCHES: &[Numbers] = &[
    Numbers {
        audit_arch: 0xc000_003e,
        mask: X32_BIT,
        fork: Some(57),
        vfork: Some(58),
        clone: 56,
        clone3: 435,
        // 512 is x32's own rt_sigaction.
        actions: &[(13, ActionLayout::Native), (512, ActionLayout::Opaque)],
        unshare: 272,
        setns: 308,
        affinity: 203,
    },
    Numbers {
        audit_arch: 0x4000_0003,
        mask: 0,
        fork: Some(2),
        vfork: Some(190),
        clone: 120,
        clone3: 435,
        actions: COMPAT_ACTIONS,
        unshare: 310,
        setns: 346,
        affinity: 241,
    },
];

#[cfg(target_arch = "aarch64")]
const ARCHES: &[Numbers] = &[
    Numbers {
        audit_arch: 0xc000_00b7,
        mask: 0,
        fork: None,
        vfork: None,
        clone: 220,
        clone3: 435,
        actions: &[(134, ActionLayout::Native)],
        unshare: 97,
        setns: 268,
        affinity: 122,
    },
    Numbers {
        audit_arch: 0x4000_0028,
        mask: 0,
        fork: Some(2),
        vfork: Some(190),
        clone: 120,
        clone3: 435,
        actions: COMPAT_ACTIONS,
        unshare: 337,
        setns: 375,
        affinity: 241,
    },
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHES: &[Numbers] = &[];

/// i386 and 32-bit Arm agree: rt_sigaction, the old sigaction (its flags lie elsewhere), signal.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const COMPAT_ACTIONS: &[(u32, ActionLayout)] =
    &[(174, ActionLayout::Compat), (67, ActionLayout::Opaque), (48, ActionLayout::Opaque)];

/// Without CLONE_UNTRACED, the first argument of a call that makes a task; `None` if it has not got
/// that. And whether the call is a 32-bit one.
pub fn traced(arch: u32, nr: i32, args: &[u64; 6]) -> Option<(u64, bool)> {
    let table = ARCHES.iter().find(|table| table.audit_arch == arch)?;
    let flag = u64::from(CLONE_UNTRACED);
    let untraced = (nr as u32) & !table.mask == table.clone && args[0] & flag != 0;
    untraced.then_some((args[0] & !flag, arch == AUDIT_ARCH_I386))
}

/// Reads a notified call.
pub fn classify(arch: u32, nr: i32, args: &[u64; 6]) -> Request {
    let Some(table) = ARCHES.iter().find(|table| table.audit_arch == arch) else {
        return Request::Other;
    };
    let nr = (nr as u32) & !table.mask;
    if nr == table.clone {
        // The low byte is the exit signal.
        Request::Fork { flags: args[0] & 0xffff_ff00 }
    } else if Some(nr) == table.fork {
        Request::Fork { flags: 0 }
    } else if Some(nr) == table.vfork {
        Request::Fork { flags: (libc::CLONE_VM | libc::CLONE_VFORK) as u64 }
    } else if let Some(&(_, layout)) = table.actions.iter().find(|(n, _)| *n == nr) {
        Request::ChildAction(layout)
    } else if nr == table.unshare {
        Request::PidNamespace(Namespace::New)
    } else if nr == table.setns {
        let unsure = (args[1] as u32 == 0).then_some(args[0] as i32);
        Request::PidNamespace(Namespace::Existing { unsure })
    } else if nr == table.affinity {
        Request::Affinity
    } else {
        Request::Other
    }
}

/// What a filter asks about beyond what every one does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ask {
    /// Notify `clone` with CLONE_THREAD too.
    pub threads: bool,
    /// Notify `sched_setaffinity`.
    pub affinity: bool,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The listener of the filter.
    Listener,
    /// The tracer of the task.
    Tracer,
}

impl Whom {
    fn action(self) -> u32 {
        match self {
            Whom::Listener => SECCOMP_RET_USER_NOTIF,
            Whom::Tracer => SECCOMP_RET_TRACE,
        }
    }
}

/// Builds the program. `None` on an architecture whose call numbers this file does not know, or
/// on which nobody knows how a tracer answers.
pub fn program(ask: Ask, whom: Whom) -> Option<Vec<BpfInsn>> {
    if whom == Whom::Tracer && cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    if ARCHES.is_empty() {
        return None;
    }
    let mut asm = Assembler::default();
    asm.load(OFFSET_ARCH);
    let sections: Vec<Label> = ARCHES.iter().map(|_| asm.label()).collect();
    for (table, &section) in ARCHES.iter().zip(&sections) {
        asm.jump_if_equal(table.audit_arch, section);
    }
    asm.ret(SECCOMP_RET_KILL_PROCESS);
    for (table, &section) in ARCHES.iter().zip(&sections) {
        asm.here(section);
        arch_section(&mut asm, table, ask, whom);
    }
    Some(asm.finish())
}

fn arch_section(asm: &mut Assembler, table: &Numbers, more: Ask, whom: Whom) {
    let (ask, clone, clone3, action) = (asm.label(), asm.label(), asm.label(), asm.label());
    let (unshare, setns) = (asm.label(), asm.label());
    asm.load(OFFSET_NR);
    if table.mask != 0 {
        asm.and(!table.mask);
    }
    for nr in [table.fork, table.vfork].into_iter().flatten() {
        asm.jump_if_equal(nr, ask);
    }
    asm.jump_if_equal(table.clone, clone);
    asm.jump_if_equal(table.clone3, clone3);
    for &(nr, _) in table.actions {
        asm.jump_if_equal(nr, action);
    }
    asm.jump_if_equal(table.unshare, unshare);
    asm.jump_if_equal(table.setns, setns);
    if more.affinity {
        asm.jump_if_equal(table.affinity, ask);
    }
    asm.ret(SECCOMP_RET_ALLOW);

    asm.here(unshare);
    asm.load(argument_low(0));
    asm.jump_if_set(CLONE_NEWPID, ask);
    asm.ret(SECCOMP_RET_ALLOW);

    // Without flags any kind of namespace will do.
    asm.here(setns);
    asm.load(argument_low(1));
    asm.jump_if_equal(0, ask);
    asm.jump_if_set(CLONE_NEWPID, ask);
    asm.ret(SECCOMP_RET_ALLOW);

    asm.here(clone3);
    asm.ret(ENOSYS);

    asm.here(clone);
    if !more.threads {
        let thread = asm.label();
        asm.load(argument_low(0));
        if whom == Whom::Tracer {
            // Nobody would trace it, and its forks would all fail.
            asm.jump_if_set(CLONE_UNTRACED, ask);
        }
        asm.jump_if_set(CLONE_THREAD, thread);
        asm.ret(whom.action());
        asm.here(thread);
        asm.ret(SECCOMP_RET_ALLOW);
    }

    asm.here(ask);
    asm.ret(whom.action());

    // The signal is an int: only the low half counts. The action is a pointer: both halves do.
    let (child_signal, low_is_null, null) = (asm.label(), asm.label(), asm.label());
    asm.here(action);
    asm.load(argument_low(0));
    asm.jump_if_equal(SIGCHLD, child_signal);
    asm.ret(SECCOMP_RET_ALLOW);
    asm.here(child_signal);
    asm.load(argument_low(1));
    asm.jump_if_equal(0, low_is_null);
    asm.ret(whom.action());
    asm.here(low_is_null);
    asm.load(argument_low(1) + 4);
    asm.jump_if_equal(0, null);
    asm.ret(whom.action());
    asm.here(null);
    asm.ret(SECCOMP_RET_ALLOW);
}

/// Offset of the low half of argument `n` in `struct seccomp_data` (little-endian only, as every
/// architecture in [`ARCHES`] is).
const fn argument_low(n: u32) -> u32 {
    OFFSET_ARGS + 8 * n
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// A two-pass assembler: conditional jumps name a label further down and fall through otherwise.
#[derive(Default)]
struct Assembler {
    code: Vec<(BpfInsnParts, Option<Label>)>,
    /// Label → index of the instruction it stands before.
    places: Vec<Option<usize>>,
}

#[derive(Clone, Copy)]
struct BpfInsnParts {
    code: u32,
    k: u32,
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    fn here(&mut self, label: Label) {
        self.places[label.0] = Some(self.code.len());
    }

    fn push(&mut self, code: u32, k: u32, target: Option<Label>) {
        self.code.push((BpfInsnParts { code, k }, target));
    }

    fn load(&mut self, offset: u32) {
        self.push(BPF_LD | BPF_W | BPF_ABS, offset, None);
    }

    fn and(&mut self, mask: u32) {
        self.push(BPF_ALU | BPF_AND | BPF_K, mask, None);
    }

    fn jump_if_equal(&mut self, k: u32, target: Label) {
        self.push(BPF_JMP | BPF_JEQ | BPF_K, k, Some(target));
    }

    fn jump_if_set(&mut self, k: u32, target: Label) {
        self.push(BPF_JMP | BPF_JSET | BPF_K, k, Some(target));
    }

    fn ret(&mut self, k: u32) {
        self.push(BPF_RET | BPF_K, k, None);
    }

    /// Resolves the jumps. The programs built here are far below the 255 instructions that a
    /// conditional jump can span, and every label is placed after its jumps: both are asserted,
    /// on input that only this file supplies.
    fn finish(self) -> Vec<BpfInsn> {
        let places = self.places;
        let resolve = |at: usize, label: Label| {
            let target = places[label.0].expect("every label is placed");
            u8::try_from(target - at - 1).expect("jumps are short and go forward")
        };
        self.code
            .iter()
            .enumerate()
            .map(|(at, (insn, target))| BpfInsn {
                code: insn.code as u16,
                jt: target.map_or(0, |label| resolve(at, label)),
                jf: 0,
                k: insn.k,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The decision a program takes, by following it: only the seven instruction kinds the
    /// assembler emits exist, so anything else is a bug worth a panic.
    fn run(program: &[BpfInsn], arch: u32, nr: u32, args: [u64; 2]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&nr.to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        data[16..24].copy_from_slice(&args[0].to_le_bytes());
        data[24..32].copy_from_slice(&args[1].to_le_bytes());
        let (mut pc, mut a) = (0usize, 0u32);
        loop {
            let insn = &program[pc];
            let k = insn.k;
            pc += 1;
            let jump = |taken: bool| usize::from(if taken { insn.jt } else { insn.jf });
            match u32::from(insn.code) {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    let at = k as usize;
                    a = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                }
                c if c == BPF_ALU | BPF_AND | BPF_K => a &= k,
                c if c == BPF_JMP | BPF_JEQ | BPF_K => pc += jump(a == k),
                c if c == BPF_JMP | BPF_JSET | BPF_K => pc += jump(a & k != 0),
                c if c == BPF_RET | BPF_K => return k,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    const ASK: u32 = SECCOMP_RET_USER_NOTIF;
    const ALLOW: u32 = SECCOMP_RET_ALLOW;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn decisions_on_x86_64() {
        let (native, i386) = (0xc000_003e, 0x4000_0003);
        let thread = u64::from(CLONE_THREAD);
        let high = 1u64 << 32;
        #[rustfmt::skip]
        let table = [
            // (arch, nr, args, with a limit, without)
            (native, 0, [0, 0], ALLOW, ALLOW),                      // read
            (native, 39, [17, 1], ALLOW, ALLOW),                    // getpid
            (native, 57, [0, 0], ASK, ASK),                         // fork
            (native, 58, [0, 0], ASK, ASK),                         // vfork
            (native, 56, [17, 0], ASK, ASK),                        // clone, a process
            (native, 56, [thread, 0], ASK, ALLOW),                  // clone, a thread
            (native, 56, [thread | high, 0], ASK, ALLOW),
            (native, 435, [0, 0], ENOSYS, ENOSYS),                  // clone3
            (native, X32_BIT | 57, [0, 0], ASK, ASK),
            (native, X32_BIT | 56, [thread, 0], ASK, ALLOW),
            (native, X32_BIT | 435, [0, 0], ENOSYS, ENOSYS),
            (native, X32_BIT | 512, [17, 8], ASK, ASK),
            (native, 13, [17, 0], ALLOW, ALLOW),                    // sigaction that only asks
            (native, 13, [17, 8], ASK, ASK),
            (native, 13, [17, high], ASK, ASK),
            (native, 13, [17 | high, 8], ASK, ASK),
            (native, 13, [2, 8], ALLOW, ALLOW),
            (native, 272, [0x2000_0000, 0], ASK, ASK),              // unshare
            (native, 272, [0x1000_0000, 0], ALLOW, ALLOW),
            (native, X32_BIT | 272, [0x2002_0000, 0], ASK, ASK),
            (native, 308, [3, 0], ASK, ASK),                        // setns
            (native, 308, [3, 0x4000_0000], ALLOW, ALLOW),
            (native, 308, [3, 0x2000_0000], ASK, ASK),
            (i386, 310, [0x2000_0000, 0], ASK, ASK),
            (i386, 346, [3, 0], ASK, ASK),
            (i386, 2, [0, 0], ASK, ASK),
            (i386, 190, [0, 0], ASK, ASK),
            (i386, 120, [thread, 0], ASK, ALLOW),
            (i386, 435, [0, 0], ENOSYS, ENOSYS),
            (i386, 57, [0, 0], ALLOW, ALLOW),                       // setpgid there
            (i386, 174, [17, 8], ASK, ASK),
            (i386, 67, [17, 8], ASK, ASK),
            (i386, 48, [17, 1], ASK, ASK),
            (0xc000_00b7, 220, [0, 0], SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_PROCESS),
        ];
        let threads = Ask { threads: true, affinity: false };
        let of = |ask| program(ask, Whom::Listener);
        let (limited, free) = (of(threads).unwrap(), of(Ask::default()).unwrap());
        for (arch, nr, args, with_limit, without) in table {
            assert_eq!(run(&limited, arch, nr, args), with_limit, "{arch:#x} {nr} {args:?}");
            assert_eq!(run(&free, arch, nr, args), without, "{arch:#x} {nr} {args:?}");
        }
        let pinned = of(Ask { threads: false, affinity: true }).unwrap();
        for (arch, nr, asks) in [(native, 203, true), (i386, 241, true), (native, 204, false)] {
            assert_eq!(run(&pinned, arch, nr, [0, 0]), if asks { ASK } else { ALLOW }, "{nr}");
            assert_eq!(run(&free, arch, nr, [0, 0]), ALLOW, "{nr}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_tracer_is_asked_about_what_it_would_not_trace() {
        let traced = program(Ask::default(), Whom::Tracer).unwrap();
        let (thread, untraced) = (u64::from(CLONE_THREAD), u64::from(CLONE_UNTRACED));
        for arch_and_clone in [(0xc000_003e, 56), (0x4000_0003, 120)] {
            let (arch, clone) = arch_and_clone;
            assert_eq!(run(&traced, arch, clone, [thread, 0]), ALLOW);
            for flags in [17, untraced, thread | untraced] {
                assert_eq!(run(&traced, arch, clone, [flags, 0]), SECCOMP_RET_TRACE, "{flags:#x}");
            }
        }
    }

    #[test]
    fn whatever_is_asked_can_be_classified() {
        for table in ARCHES {
            let mut asked = vec![table.clone];
            asked.extend(table.fork);
            asked.extend(table.vfork);
            for nr in asked {
                let got = classify(table.audit_arch, nr as i32, &[0; 6]);
                assert!(matches!(got, Request::Fork { .. }), "{nr}");
            }
            for &(nr, layout) in table.actions {
                let got = classify(table.audit_arch, nr as i32, &[17, 8, 0, 0, 0, 0]);
                assert_eq!(got, Request::ChildAction(layout));
            }
            let got = classify(table.audit_arch, table.affinity as i32, &[0; 6]);
            assert_eq!(got, Request::Affinity);
            for nr in [table.unshare, table.setns] {
                let got = classify(table.audit_arch, nr as i32, &[7, 0, 0, 0, 0, 0]);
                assert!(matches!(got, Request::PidNamespace(_)), "{nr}");
            }
        }
    }
}
