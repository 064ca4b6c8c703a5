//! What is done between cases: whatever one has left must not reach the next.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::super::files::{ROOT, read_file};
use super::super::proc;
use super::{DEATH, Executor, file_name};
use crate::case::{Act, Text};

impl Executor {
    /// Ends and reaps everything, then empties the tree.
    pub(super) fn clean(&mut self) -> Result<(), String> {
        self.files.clear();
        self.opened.clear();
        for task in self.tasks.values() {
            // Gone already, perhaps.
            let _ = kill(task.process, Signal::SIGKILL);
            if let Some(helper) = task.helper {
                let _ = kill(helper, Signal::SIGKILL);
            }
        }
        self.tasks.clear();
        self.names.clear();
        while let Ok(_) | Err(Errno::EINTR) = waitpid(None, None) {}
        if proc::cgroup(Pid::this(), Pid::this()).as_deref() != Some("/") {
            // The case has moved us.
            fs::write(Path::new(ROOT).join("cgroup.procs"), "0")
                .map_err(|e| format!("cannot return to the root: {e}"))?;
        }
        remove_below(Path::new(ROOT))?;
        let control = Path::new(ROOT).join("cgroup.subtree_control");
        let on = read_file(&control).map_err(|e| format!("root control: {e}"))?;
        if !on.trim().is_empty() {
            let off: String = on.split_whitespace().map(|name| format!("-{name} ")).collect();
            fs::write(&control, off).map_err(|e| format!("root control: {e}"))?;
        }
        for file in std::mem::take(&mut self.root_files) {
            if matches!(file.as_str(), "cgroup.max.depth" | "cgroup.max.descendants") {
                let _ = fs::write(Path::new(ROOT).join(file), "max");
            }
        }
        Ok(())
    }

    pub(super) fn remount(&mut self, options: &[String]) -> Result<(), String> {
        if self.mounted != options {
            let text = options.join(",");
            mount(None::<&str>, ROOT, None::<&str>, MsFlags::MS_REMOUNT, Some(text.as_str()))
                .map_err(|e| format!("remount with {text:?}: {e}"))?;
            self.mounted = options.to_vec();
        }
        Ok(())
    }
}

/// Whether a step looks at the numbers of what is dying.
pub(super) fn counts_the_dying(act: &Act) -> bool {
    let dying = |key: &Text| key.known().is_some_and(|key| key.starts_with(b"nr_dying_"));
    let (file, counts) = match act {
        Act::Read { file, keys, .. } => (file, keys.is_empty() || keys.iter().any(dying)),
        Act::Compare { file, key, .. } | Act::WaitFor { file, key, .. } => {
            (file, key.as_ref().is_none_or(dying))
        }
        Act::Open { file, .. } => (file, true),
        _ => return false,
    };
    counts && file_name(file).as_deref() == Some("cgroup.stat")
}

pub(super) fn some_are_dying(stat: &str) -> bool {
    stat.lines().any(|line| line.starts_with("nr_dying_") && !line.ends_with(" 0"))
}

/// Removes all cgroups below one, deepest first.
fn remove_below(at: &Path) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(at) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        remove_below(&path)?;
        let end = Instant::now() + DEATH;
        while let Err(e) = fs::remove_dir(&path) {
            if e.kind() != std::io::ErrorKind::ResourceBusy || Instant::now() > end {
                return Err(format!("cannot remove {}: {e}", path.display()));
            }
            // What keeps it busy dies without an event that is sure to come after it is gone.
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    Ok(())
}
