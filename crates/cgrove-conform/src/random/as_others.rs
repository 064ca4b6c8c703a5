//! What a sequence does with other users: giving away, and using what was given; open files.

use super::generate::*;
use super::values;
use crate::case::{Access, Act, Outcome, Piece, Step, Text};

impl Generator {
    /// Gives a cgroup to the user, as one does; or forgets some of it.
    pub(super) fn delegate(&mut self) {
        let Some(path) = self.below_root() else { return };
        let files =
            [None, Some("cgroup.procs"), Some("cgroup.threads"), Some("cgroup.subtree_control")];
        for file in files {
            if self.chance(4) {
                continue;
            }
            let path = Text::plain(path.as_str());
            self.emit(step(Act::Chown { path, file: file.map(Text::plain), uid: USER }));
        }
        self.given.push(path);
    }

    /// A cgroup that the user has something of, most of the time.
    pub(super) fn given(&mut self) -> String {
        let given: Vec<String> =
            self.given.iter().filter(|path| self.at(path).is_some()).cloned().collect();
        match self.pick(&given).cloned() {
            Some(path) if !self.chance(5) => path,
            _ => self.cgroup(),
        }
    }

    /// A descriptor of `cgroup.procs` is opened by one and written by another.
    pub(super) fn pass_handle(&mut self) {
        let Some(task) = self.task(|_, _, _| true) else { return };
        let path = self.given();
        let handle = format!("g{}", self.handles);
        self.handles += 1;
        let opener = self.rng.bool();
        let uid = |is: bool| if is { Some(USER) } else { None };
        let act = Act::Open {
            path: Text::plain(path),
            file: Text::plain(if self.chance(4) { "cgroup.threads" } else { "cgroup.procs" }),
            access: Access::Write,
            handle: handle.clone(),
        };
        if self.emit(Step { by: None, uid: uid(opener), act }) == Some(Outcome::Done) {
            let writer = !opener || self.chance(4);
            let act = Act::WriteHandle { handle, text: Text(vec![Piece::Task(task)]) };
            self.emit(Step { by: None, uid: uid(writer), act });
        }
    }

    pub(super) fn own(&mut self) {
        let Some(path) = self.below_root() else { return };
        const FILES: [&str; 4] =
            ["cgroup.procs", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];
        let uid = if self.chance(6) { 0 } else { USER };
        let file = match self.rng.u32(..5) {
            0 | 1 => None,
            _ => Some(Text::plain(FILES[self.rng.usize(..FILES.len())])),
        };
        let path = Text::plain(path);
        let act = if self.chance(8) {
            const MODES: [u32; 5] = [0o700, 0o755, 0o777, 0o666, 0o400];
            let mode = MODES[self.rng.usize(..MODES.len())];
            Act::Chmod { path, file, mode }
        } else {
            Act::Chown { path, file, uid }
        };
        self.emit(step(act));
    }

    pub(super) fn as_user(&mut self) {
        let path = self.given();
        let by = if self.chance(3) { self.actor() } else { None };
        let act = match self.rng.u32(..9) {
            0 | 1 => {
                let name = CGROUPS[self.rng.usize(..CGROUPS.len())];
                let path = if path == "." { name.to_owned() } else { format!("{path}/{name}") };
                if path.matches('/').count() >= DEPTH {
                    return;
                }
                Act::Mkdir { path: Text::plain(path) }
            }
            2 => Act::Rmdir { path: Text::plain(path), retry: false },
            3 if !self.held => {
                let tokens = self.apt_tokens(&path);
                write(&path, "cgroup.subtree_control", tokens.as_str())
            }
            4 => write(&path, "pids.max", "10"),
            5 => {
                let file = self.file_of(&path);
                if !values::can_be_compared(&file) || file == "cgroup.stat" {
                    return;
                }
                Act::Read { path: Text::plain(path), file: Text::plain(file), keys: Vec::new() }
            }
            6 => write(&path, "cgroup.freeze", if self.rng.bool() { "1" } else { "0" }),
            _ => {
                let Some(task) = self.task(|_, _, _| true) else { return };
                let text = Text(vec![Piece::Task(task)]);
                let file = if self.chance(4) { "cgroup.threads" } else { "cgroup.procs" };
                Act::Write { path: Text::plain(path), file: Text::plain(file), text }
            }
        };
        let uid = if self.chance(5) { None } else { Some(USER) };
        self.emit(Step { by, uid, act });
    }

    pub(super) fn handle(&mut self) {
        let open = self.open.clone();
        if let Some(handle) = self.pick(&open).cloned()
            && !self.chance(3)
        {
            let act = match self.rng.u32(..6) {
                0 => Act::Close { handle },
                1 => Act::Seek { handle, offset: 0 },
                2 if self.rng.bool() => {
                    Act::WriteHandle { handle, text: Text::plain(values::small(&mut self.rng)) }
                }
                _ => Act::ReadHandle { handle },
            };
            self.emit(step(act));
            return;
        }
        let path = self.cgroup();
        // Files of which neither a read nor a small number does harm.
        const FILES: [&str; 5] =
            ["cgroup.procs", "cgroup.max.depth", "cgroup.type", "pids.max", "cgroup.controllers"];
        let file = FILES[self.rng.usize(..FILES.len())];
        let access = [Access::Read, Access::Both, Access::Write][self.rng.usize(..3)];
        // A number is a process there.
        let access = if file == "cgroup.procs" { Access::Read } else { access };
        let handle = format!("h{}", self.handles);
        self.handles += 1;
        self.open.push(handle.clone());
        self.emit(step(Act::Open {
            path: Text::plain(path),
            file: Text::plain(file),
            access,
            handle,
        }));
    }
}
