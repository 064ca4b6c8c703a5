//! One system call as another user, and what it answers: this program, started again.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, Gid, Uid, access, setgroups, setresgid, setresuid};

use crate::kit;

/// Somebody.
#[derive(Clone, Copy)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
}

pub const USER: Who = Who { uid: kit::USER, gid: kit::USER, groups: &[] };

impl Who {
    /// Does it; `ok`, what was read, or the errno's name.
    pub fn does(self, words: &[&str]) -> String {
        self.does_with(words, Stdio::null())
    }

    /// The same with an open file as standard input.
    pub fn does_with(self, words: &[&str], stdin: Stdio) -> String {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let mut command = Command::new(kit::program());
        command.arg("act").arg(self.uid.to_string()).arg(self.gid.to_string());
        command.arg(groups.join(",")).args(words).stdin(stdin);
        let output = command.output().expect("it is started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

pub fn main(words: &[&str]) -> ExitCode {
    let [uid, gid, groups, ref act @ ..] = words[..] else { panic!("{words:?}") };
    let number = |word: &str| word.parse::<u32>().expect("a number");
    let groups: Vec<Gid> =
        groups.split(',').filter(|g| !g.is_empty()).map(|g| Gid::from_raw(number(g))).collect();
    let (uid, gid) = (Uid::from_raw(number(uid)), Gid::from_raw(number(gid)));
    setgroups(&groups).expect("groups");
    setresgid(gid, gid, gid).expect("a group");
    setresuid(uid, uid, uid).expect("a user");
    match perform(act) {
        Ok(text) => print!("{text}"),
        Err(error) => {
            print!("{:?}", Errno::from_raw(error.raw_os_error().expect("an errno")));
        }
    }
    ExitCode::SUCCESS
}

fn perform(words: &[&str]) -> io::Result<String> {
    let ok = |()| "ok".to_owned();
    let mode = |word: &str| u32::from_str_radix(word, 8).expect("a mode");
    match words {
        ["read", path] => fs::read_to_string(path),
        ["list", path] => fs::read_dir(path)?.collect::<io::Result<Vec<_>>>().map(|_| ok(())),
        ["stat", path] => fs::metadata(path).map(|_| ok(())),
        ["write", path, text] => {
            File::options().write(true).open(path)?.write_all(text.as_bytes()).map(ok)
        }
        ["write-stdin", text] => {
            let mut file = File::from(std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?);
            file.write_all(text.as_bytes()).map(ok)
        }
        ["read-stdin"] => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map(|_| text)
        }
        ["truncate", path] => Ok(nix::unistd::truncate(*path, 0)).and_then(|r| Ok(r?)).map(ok),
        ["open-truncated", path] => {
            let flags = nix::fcntl::OFlag::O_TRUNC;
            Ok(nix::fcntl::open(*path, flags, nix::sys::stat::Mode::empty()).map(|_| ok(()))?)
        }
        ["mkdir", path, bits] => DirBuilder::new().mode(mode(bits)).create(path).map(ok),
        ["rmdir", path] => fs::remove_dir(path).map(ok),
        ["chmod", path, bits] => {
            fs::set_permissions(path, Permissions::from_mode(mode(bits))).map(ok)
        }
        ["chgrp", path, gid] => chown(path, None, Some(gid.parse().expect("a group"))).map(ok),
        ["chown", path, uid] => chown(path, Some(uid.parse().expect("a user")), None).map(ok),
        ["touch", path] => File::open(path)?.set_modified(std::time::SystemTime::now()).map(ok),
        ["touch-now", path] => {
            let (now, flags) = (TimeSpec::UTIME_NOW, UtimensatFlags::FollowSymlink);
            Ok(utimensat(AT_FDCWD, *path, &now, &now, flags).map(ok)?)
        }
        ["access", bits, path] => {
            let flags = AccessFlags::from_bits_retain(bits.parse().expect("a number"));
            Ok(access(*path, flags).map(ok)?)
        }
        _ => panic!("{words:?}"),
    }
}
