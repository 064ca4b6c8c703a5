//! Files and directories as their users see them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use nix::sys::statvfs::statvfs;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::kit::{Mount, Place, errno};

crate::tests!(
    &Place::ALL =>
    what_cannot_be_done_is_refused_as_by_linux,
    content_is_read_in_pieces_and_again,
    a_write_is_one_request_wherever_it_goes,
    truncation_is_taken_and_does_nothing,
    open_files_of_a_removed_cgroup_say_so,
    a_large_directory_is_listed_whole,
    names_are_any_bytes,
    extended_attributes_are_kept,
    modes_and_the_umask,
    a_cgroup_that_is_somebodys_directory_can_be_removed;
    &Place::MOUNTS =>
    a_cgroup_is_made_used_and_removed,
    open_files_of_a_controller_that_went_say_so,
    inode_numbers_stay_and_are_never_anothers,
    lists_go_on_where_they_were_while_names_come_and_go,
    the_file_system_describes_itself;
);

fn a_cgroup_is_made_used_and_removed(place: Place) {
    let mount = Mount::empty(place);
    assert!(mount.read("cgroup.controllers").contains("pids"));
    assert_eq!(mount.read("cgroup.procs"), "");
    mount.write("cgroup.subtree_control", "+pids +memory\n").unwrap();
    let a = mount.mkdir("a");
    assert_eq!(mount.read("a/cgroup.controllers"), "memory pids\n");
    assert_eq!(mount.read("a/pids.max"), "max\n");
    mount.write("a/pids.max", "0x10").unwrap();
    assert_eq!(mount.read("a/pids.max"), "16\n");
    assert_eq!(mount.write("a/pids.max", "-1"), Err(Errno::EINVAL));
    assert_eq!(mount.write("a/cgroup.procs", "999999999"), Err(Errno::ESRCH));
    assert_eq!(mount.write("a/cgroup.procs", "0"), Err(Errno::ESRCH));
    mount.write("a/memory.max", "1M").unwrap();
    assert_eq!(mount.read("a/memory.max"), "1048576\n");

    let (uid, gid) = place.owner();
    for (name, mode) in [("a", 0o40755), ("a/pids.max", 0o100644), ("a/cgroup.kill", 0o100200)] {
        let found = fs::metadata(mount.path(name)).unwrap();
        assert_eq!((found.mode(), found.uid(), found.gid()), (mode, uid, gid), "{name}");
        assert_eq!(found.len(), 0);
    }
    let root = fs::metadata(mount.path("")).unwrap();
    let mode = if place == Place::User { 0o40755 } else { 0o40555 };
    assert_eq!((root.mode(), root.uid(), root.gid(), root.ino()), (mode, uid, gid, 1));
    assert_eq!(root.nlink(), 3);
    mount.mkdir("a/b");
    assert_eq!(fs::metadata(&a).unwrap().nlink(), 3);
    assert_eq!(errno(fs::remove_dir(&a)), Err(Errno::EBUSY));
    fs::remove_dir(a.join("b")).unwrap();
    fs::remove_dir(&a).unwrap();
    assert_eq!(errno(fs::metadata(&a)).err(), Some(Errno::ENOENT));
    assert_eq!(errno(fs::remove_dir(&a)), Err(Errno::ENOENT));
    assert!(mount.names("").iter().all(|name| name != "a"));
}

fn what_cannot_be_done_is_refused_as_by_linux(place: Place) {
    let mount = Mount::empty(place);
    let (a, b) = (mount.mkdir("a"), mount.mkdir("b"));
    let file = mount.path("a/cgroup.procs");
    assert_eq!(errno(fs::create_dir(&a)), Err(Errno::EEXIST));
    assert_eq!(errno(fs::create_dir(&file)), Err(Errno::EEXIST));
    assert_eq!(errno(fs::create_dir(file.join("x"))), Err(Errno::ENOTDIR));
    assert_eq!(errno(fs::remove_dir(&file)), Err(Errno::ENOTDIR));
    assert_eq!(errno(fs::remove_file(&file)), Err(Errno::EPERM));
    assert_eq!(unlinkat(nix::fcntl::AT_FDCWD, &a, UnlinkatFlags::NoRemoveDir), Err(Errno::EISDIR));
    assert_eq!(errno(fs::rename(&a, a.with_file_name("c"))), Err(Errno::EPERM));
    assert_eq!(errno(fs::rename(&file, mount.path("a/x"))), Err(Errno::EPERM));
    let at = nix::fcntl::AT_FDCWD;
    let flags = RenameFlags::RENAME_NOREPLACE;
    let new = a.with_file_name("c");
    assert_eq!(renameat2(at, &a, at, &new, flags), Err(Errno::EINVAL));
    let create = OpenOptions::new().append(true).create(true).open(mount.path("a/new"));
    assert_eq!(errno(create).err(), Some(Errno::EACCES));
    let create = OpenOptions::new().write(true).create_new(true).open(&file);
    assert_eq!(errno(create).err(), Some(Errno::EEXIST));
    // What is there opens, O_CREAT or not.
    OpenOptions::new().write(true).create(true).truncate(false).open(&file).unwrap();
    let fifo = mknod(&mount.path("a/fifo"), SFlag::S_IFIFO, Mode::S_IRUSR, 0);
    assert_eq!(fifo, Err(Errno::EPERM));
    assert_eq!(errno(symlink("x", mount.path("a/link"))), Err(Errno::EPERM));
    assert_eq!(linkat(at, &file, at, &mount.path("a/l"), AtFlags::empty()), Err(Errno::EPERM));
    assert_eq!(errno(File::options().write(true).open(&a)).err(), Some(Errno::EISDIR));
    assert_eq!(errno(fs::read_link(&file)).err(), Some(Errno::EINVAL));
    let tmp = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(&a);
    assert_eq!(errno(tmp).err(), Some(Errno::EOPNOTSUPP));
    let open = OpenOptions::new().read(true).write(true).open(&file).unwrap();
    let flags = nix::fcntl::FallocateFlags::empty();
    assert_eq!(nix::fcntl::fallocate(&open, flags, 0, 1), Err(Errno::EOPNOTSUPP));
    open.sync_all().unwrap();
    assert_eq!(errno(File::open(&b).unwrap().sync_all()), Err(Errno::EINVAL));
    assert_eq!(errno(mount.mkdir_mode("new\nline")), Err(Errno::EINVAL));

    // A file that cannot be written: the superuser opens it and is refused the write, others
    // cannot open it.
    let kinds = OpenOptions::new().write(true).open(mount.path("a/cgroup.events"));
    match place {
        Place::User => assert_eq!(errno(kinds).err(), Some(Errno::EACCES)),
        _ => assert_eq!(errno(kinds.unwrap().write(b"1")), Err(Errno::EINVAL)),
    }
    let kill = File::open(mount.path("a/cgroup.kill"));
    match place {
        Place::User => assert_eq!(errno(kill).err(), Some(Errno::EACCES)),
        _ => assert_eq!(errno(kill.unwrap().read(&mut [0])), Err(Errno::EINVAL)),
    }
}

fn content_is_read_in_pieces_and_again(place: Place) {
    let mount = Mount::empty(place);
    let mut file = File::open(mount.path("cgroup.stat")).unwrap();
    let mut whole = String::new();
    file.read_to_string(&mut whole).unwrap();
    assert!(whole.starts_with("nr_descendants 0\n"), "{whole}");
    assert_eq!(file.read(&mut [0; 8]).unwrap(), 0, "its end");
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut pieces = Vec::new();
    for _ in 0..4 {
        let mut piece = [0; 5];
        file.read_exact(&mut piece).unwrap();
        pieces.extend_from_slice(&piece);
    }
    assert_eq!(pieces, whole.as_bytes()[..20]);
    // What is read piece by piece is one content, though it changes meanwhile.
    let mut count = File::open(mount.path("cgroup.stat")).unwrap();
    let mut start = [0; 16];
    count.read_exact(&mut start).unwrap();
    mount.mkdir("a");
    let mut rest = String::new();
    count.read_to_string(&mut rest).unwrap();
    assert_eq!(start, *b"nr_descendants 0");
    assert!(rest.starts_with("\nnr_subsys"), "{rest}");
    // From the start it is made anew, and from elsewhere too.
    let mut at = [0; 8];
    assert_eq!(file.read_at(&mut at, 15).unwrap(), 8);
    assert_eq!(at[..2], *b"1\n");
    count.seek(SeekFrom::Start(0)).unwrap();
    let mut anew = String::new();
    count.read_to_string(&mut anew).unwrap();
    assert!(anew.starts_with("nr_descendants 1\n"), "{anew}");
    assert_eq!(count.read_at(&mut at, 1 << 40).unwrap(), 0);
    assert_eq!(count.seek(SeekFrom::End(0)).unwrap(), 0, "files have no size");
    assert_eq!(count.read(&mut []).unwrap(), 0);
}

fn a_write_is_one_request_wherever_it_goes(place: Place) {
    let mount = Mount::empty(place);
    mount.mkdir("a");
    let path = mount.path("a/cgroup.max.descendants");
    let mut append = OpenOptions::new().append(true).open(&path).unwrap();
    append.write_all(b"5").unwrap();
    append.write_all(b"6\n").unwrap();
    assert_eq!(mount.read("a/cgroup.max.descendants"), "6\n");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert_eq!(file.write_at(b"77", 1000).unwrap(), 2);
    assert_eq!(mount.read("a/cgroup.max.descendants"), "77\n");
    assert_eq!(file.write_at(b"", 0).unwrap(), 0);
    let mut both = [0; 8];
    assert_eq!(file.read_at(&mut both, 0).unwrap(), 3);
    let long = vec![b' '; 4097];
    assert_eq!(errno(file.write_at(&long, 0)), Err(Errno::E2BIG));
    assert_eq!(errno(file.write_at(&vec![b'1'; 1 << 20], 0)), Err(Errno::E2BIG));
    let mut fits = vec![b' '; 4096];
    fits[4095] = b'9';
    assert_eq!(file.write_at(&fits, 0).unwrap(), 4096);
    assert_eq!(mount.read("a/cgroup.max.descendants"), "9\n");
    assert_eq!(file.write_at(b"8\0junk", 0).unwrap(), 6);
    assert_eq!(mount.read("a/cgroup.max.descendants"), "8\n");
    // Several buffers are one write.
    let parts = [std::io::IoSlice::new(b"1"), std::io::IoSlice::new(b"2")];
    assert_eq!(nix::sys::uio::writev(&file, &parts), Ok(2));
    assert_eq!(mount.read("a/cgroup.max.descendants"), "12\n");
}

fn truncation_is_taken_and_does_nothing(place: Place) {
    let mount = Mount::empty(place);
    mount.mkdir("a");
    fs::write(mount.path("a/cgroup.max.descendants"), "3").unwrap();
    let file = File::create(mount.path("a/cgroup.max.descendants")).unwrap();
    assert_eq!(mount.read("a/cgroup.max.descendants"), "3\n");
    file.set_len(0).unwrap();
    file.set_len(1000).unwrap();
    nix::unistd::truncate(&mount.path("a/cgroup.max.descendants"), 7).unwrap();
    assert_eq!(fs::metadata(mount.path("a/cgroup.max.descendants")).unwrap().len(), 0);
    assert_eq!(mount.read("a/cgroup.max.descendants"), "3\n");
}

fn open_files_of_a_controller_that_went_say_so(place: Place) {
    let mount = Mount::empty(place);
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    mount.mkdir("a");
    let path = mount.path("a/pids.max");
    let old = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    mount.write("cgroup.subtree_control", "-pids").unwrap();
    assert_eq!(errno(old.read_at(&mut [0; 9], 0)), Err(Errno::ENODEV));
    assert_eq!(errno(old.write_at(b"1", 0)), Err(Errno::ENODEV));
    assert_eq!(errno(File::open(&path)).err(), Some(Errno::ENOENT));
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(errno(old.read_at(&mut [0; 9], 0)), Err(Errno::ENODEV), "another file of its name");
    mount.write("a/pids.max", "4").unwrap();
    assert_eq!(mount.read("a/pids.max"), "4\n");
}

fn open_files_of_a_removed_cgroup_say_so(place: Place) {
    let mount = Mount::empty(place);
    mount.mkdir("a");
    let events = File::open(mount.path("a/cgroup.events")).unwrap();
    let directory = File::open(mount.path("a")).unwrap();
    fs::remove_dir(mount.path("a")).unwrap();
    mount.mkdir("a");
    assert_eq!(mount.read("a/cgroup.max.depth"), "max\n");
    assert_eq!(errno(events.read_at(&mut [0; 9], 0)), Err(Errno::ENODEV));
    assert!(directory.metadata().is_ok());
    let inner = nix::fcntl::openat(&directory, "cgroup.procs", OFlag::O_RDONLY, Mode::empty());
    assert_eq!(inner.err(), Some(Errno::ENOENT));
}

fn inode_numbers_stay_and_are_never_anothers(place: Place) {
    let mount = Mount::empty(place);
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    mount.mkdir("a");
    let number = |name: &str| fs::metadata(mount.path(name)).unwrap().ino();
    let listed = |name: &str| {
        let mut entries = fs::read_dir(mount.path("a")).unwrap().map(Result::unwrap);
        use std::os::unix::fs::DirEntryExt;
        entries.find(|entry| entry.file_name() == name).unwrap().ino()
    };
    let (dir, procs, max) = (number("a"), number("a/cgroup.procs"), number("a/pids.max"));
    assert_eq!(number("a/cgroup.procs"), procs);
    assert_eq!((listed("cgroup.procs"), listed("pids.max")), (procs, max));
    mount.write("cgroup.subtree_control", "-pids").unwrap();
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    assert_ne!(number("a/pids.max"), max, "it is another file");
    assert_eq!(number("a/cgroup.procs"), procs);
    // Hidden and shown again, for one that another needs: also another file.
    mount.write("cgroup.subtree_control", "+io +memory").unwrap();
    let shown = number("a/memory.max");
    mount.write("cgroup.subtree_control", "-memory").unwrap();
    assert!(fs::metadata(mount.path("a/memory.max")).is_err());
    mount.write("cgroup.subtree_control", "+memory").unwrap();
    assert_ne!(number("a/memory.max"), shown);
    fs::remove_dir(mount.path("a")).unwrap();
    mount.mkdir("a");
    assert_ne!(number("a"), dir);
    assert_ne!(number("a/cgroup.procs"), procs);
}

/// More than kernfs does: where the name that it stands at is taken away, it goes on at one of the
/// neighbours in its search tree, and so may list a name twice or leave one out.
fn lists_go_on_where_they_were_while_names_come_and_go(place: Place) {
    let mount = Mount::empty(place);
    for n in 0..600 {
        mount.mkdir(&format!("stays-{n:03}"));
        mount.mkdir(&format!("goes-{n:03}"));
    }
    let mut seen = Vec::new();
    let dir = Dir::open(&mount.path(""), OFlag::O_RDONLY, Mode::empty()).unwrap();
    for (n, entry) in dir.into_iter().enumerate() {
        let name = String::from_utf8(entry.unwrap().file_name().to_bytes().to_vec()).unwrap();
        if n == 100 {
            for n in 0..600 {
                fs::remove_dir(mount.path(&format!("goes-{n:03}"))).unwrap();
                if n % 3 == 0 {
                    mount.mkdir(&format!("a-new-{n:03}"));
                }
            }
        }
        seen.push(name);
    }
    assert_eq!(seen[..2], [".", ".."]);
    let mut stayed: Vec<_> = seen.iter().filter(|name| name.starts_with("stays")).collect();
    stayed.sort();
    let count = stayed.len();
    stayed.dedup();
    assert_eq!((count, stayed.len()), (600, 600), "each once");
    let mut all = seen.clone();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), seen.len(), "nothing twice");
    assert_eq!(mount.names("").iter().filter(|name| name.starts_with("a-new")).count(), 200);
}

fn a_large_directory_is_listed_whole(place: Place) {
    let mount = Mount::empty(place);
    for n in 0..3000 {
        mount.mkdir(&n.to_string());
    }
    let names = mount.names("");
    assert_eq!(names.iter().filter(|name| name.parse::<u32>().is_ok()).count(), 3000);
    assert_eq!(fs::metadata(mount.path("")).unwrap().nlink(), 3002);
    for n in 0..3000 {
        fs::remove_dir(mount.path(&n.to_string())).unwrap();
    }
    assert_eq!(fs::metadata(mount.path("")).unwrap().nlink(), 2);
}

fn names_are_any_bytes(place: Place) {
    let mount = Mount::empty(place);
    for name in [&b"\xff\xfe"[..], b"a b", "gr\u{fc}n".as_bytes(), b"-", b"\x01", &[b'x'; 255]] {
        let path = mount.path("").join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&path).unwrap();
        let listed = fs::read_dir(mount.path("")).unwrap();
        let found = listed.map(|e| e.unwrap().file_name()).any(|found| found.as_bytes() == name);
        assert!(found, "{}", name.escape_ascii());
        assert!(fs::read(path.join("cgroup.events")).is_ok());
        fs::remove_dir(&path).unwrap();
    }
    let long = mount.path(&"x".repeat(4095));
    assert_eq!(errno(fs::create_dir(long)), Err(Errno::ENAMETOOLONG));
}

fn extended_attributes_are_kept(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    let attr = |args: &[&str], path: &std::path::Path| {
        let output = std::process::Command::new("setfattr").args(args).arg(path).output();
        output.map(|output| output.status.success())
    };
    let Ok(set) = attr(&["-n", "user.mark", "-v", "x1"], &a) else {
        return eprintln!("setfattr is not here");
    };
    assert!(set);
    let value = |name: &str| {
        let mut get = std::process::Command::new("getfattr");
        let output = get.args(["--only-values", "-n", name]).arg(&a).output().unwrap();
        output.status.success().then_some(output.stdout)
    };
    assert_eq!(value("user.mark").unwrap(), b"x1");
    assert_eq!(value("user.none"), None);
    let list = std::process::Command::new("getfattr").args(["-m", "-"]).arg(&a).output().unwrap();
    assert!(String::from_utf8(list.stdout).unwrap().contains("user.mark"));
    assert!(attr(&["-x", "user.mark"], &a).unwrap());
    assert_eq!(value("user.mark"), None);
    assert!(!attr(&["-n", "strange.mark", "-v", "x"], &a).unwrap());
    // Only for the superuser of the machine, says the kernel before it asks us.
    let trusted = attr(&["-n", "trusted.delegate", "-v", "1"], &a).unwrap();
    assert_eq!(trusted, matches!(place, Place::Root | Place::Kernel));
    if trusted {
        assert_eq!(value("trusted.delegate").unwrap(), b"1");
    }
}

fn modes_and_the_umask(place: Place) {
    let mount = Mount::empty(place);
    let mode = |name: &str| fs::metadata(mount.path(name)).unwrap().permissions().mode() & 0o7777;
    umask(Mode::from_bits_truncate(0o027));
    nix::unistd::mkdir(&mount.path("a"), Mode::from_bits_truncate(0o777)).unwrap();
    assert_eq!(mode("a"), 0o750);
    umask(Mode::empty());
    nix::unistd::mkdir(&mount.path("b"), Mode::from_bits_truncate(0o1770)).unwrap();
    assert_eq!(mode("b"), 0o1770);
    fs::set_permissions(mount.path("b/cgroup.procs"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(mode("b/cgroup.procs"), 0o640);
    fs::set_permissions(mount.path("b"), fs::Permissions::from_mode(0o2755)).unwrap();
    assert_eq!(mode("b"), 0o2755);
    mount.mkdir("b/c");
    assert_eq!(mode("b/c") & 0o2000, 0o2000, "it is inherited");
    fs::set_permissions(mount.path("b/cgroup.type"), fs::Permissions::from_mode(0o4711)).unwrap();
    mount.write("b/cgroup.type", "nonsense").unwrap_err();
    assert_eq!(mode("b/cgroup.type"), 0o4711, "a write clears nothing");
    let (uid, gid) = place.owner();
    std::os::unix::fs::chown(mount.path("b/cgroup.type"), Some(uid), Some(gid)).unwrap();
    assert_eq!(mode("b/cgroup.type"), 0o711, "a change of owner does");
    assert!(File::open(mount.path("b")).unwrap().set_modified(std::time::UNIX_EPOCH).is_ok());
}

fn the_file_system_describes_itself(place: Place) {
    let mount = Mount::empty(place);
    let described = statvfs(&mount.path("")).unwrap();
    assert_eq!((described.block_size(), described.name_max(), described.blocks()), (4096, 255, 0));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let path = mount.path("");
    let path = path.to_str().unwrap().trim_end_matches('/');
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path)).unwrap();
    assert!(line.starts_with("cgrove "), "{line}");
    let words: Vec<&str> = line.split([' ', ',']).collect();
    for word in ["fuse.cgrove", "rw", "nosuid", "nodev", "noexec"] {
        assert!(words.contains(&word), "{word}: {line}");
    }
}

fn a_cgroup_that_is_somebodys_directory_can_be_removed(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    std::env::set_current_dir(&a).unwrap();
    fs::create_dir("b").unwrap();
    fs::remove_dir("b").unwrap();
    fs::remove_dir(&a).unwrap();
    assert_eq!(errno(fs::create_dir("b")), Err(Errno::ENOENT));
    assert_eq!(errno(fs::read("cgroup.procs")).err(), Some(Errno::ENOENT));
    assert!(fs::metadata(".").is_ok());
    assert_eq!(fs::read_dir(".").map_or(0, Iterator::count), 0);
    std::env::set_current_dir("/").unwrap();
}

impl Mount {
    fn mkdir_mode(&self, name: &str) -> std::io::Result<()> {
        fs::create_dir(self.path(name))
    }
}
