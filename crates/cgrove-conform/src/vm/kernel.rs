//! Kernels as Debian packages them, fetched by apt without touching the system's own apt.
//!
//! The suite we want is not the system's, so apt works in directories of its own: its own sources,
//! lists and archives. The mirror is the one that the system's apt uses, and the packages are
//! checked against Debian's keys as always.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{VmError, run};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Depends on the newest kernel for virtual machines, whatever its version.
const NEWEST: &str = "linux-image-cloud-amd64";

/// Where kernels are kept: `$CGROVE_ORACLE_CACHE`, else a folder of the user's cache.
#[must_use]
pub fn cache() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("CGROVE_ORACLE_CACHE").unwrap_or_else(|| {
        var("XDG_CACHE_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("cgrove-oracle")
    })
}

/// The kernel image of a suite, fetched if it is not in the cache or `refresh` is set.
///
/// # Errors
///
/// What apt said, if the cache has none either.
pub fn fetch(suite: &str, refresh: bool) -> Result<PathBuf, VmError> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if suite.is_empty() || !suite.chars().all(good) || suite.starts_with('.') {
        return Err(VmError::Kernel(format!("{suite} is no suite")));
    }
    let folder = cache().join(suite);
    let cached = images(&folder).pop();
    match (cached, refresh) {
        (Some(image), false) => Ok(image),
        (cached, _) => match download(suite, &folder) {
            Ok(image) => Ok(image),
            Err(e) => {
                let image = cached.ok_or(e)?;
                eprintln!("the suite cannot be reached; using {}", image.display());
                Ok(image)
            }
        },
    }
}

/// The images in a folder, oldest release first.
fn images(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("vmlinuz-")?;
            let numbers = version
                .split(|c: char| !c.is_ascii_digit())
                .map_while(|part| part.parse().ok())
                .collect();
            Some((numbers, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn download(suite: &str, folder: &Path) -> Result<PathBuf, VmError> {
    let mirror = mirror()?;
    let apt = folder.join("apt");
    for part in ["state/lists/partial", "cache/archives/partial", "etc", "debs"] {
        let part = apt.join(part);
        fs::create_dir_all(&part).map_err(VmError::io(&part))?;
    }
    let sources = apt.join("etc/sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
        .map_err(VmError::io(&sources))?;
    eprintln!("looking for the newest kernel of {suite}");
    run(tool("apt-get", &apt).args(["-qq", "update"]))?;
    let depends = run(tool("apt-cache", &apt).args(["depends", NEWEST]))?;
    let image = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| VmError::Kernel(format!("{NEWEST} of {suite} depends on no image")))?;
    let release = image.trim_start_matches("linux-image-");
    // Newer packaging has the image in a package of its own.
    let split = format!("linux-binary-{release}");
    let package = match run(tool("apt-cache", &apt).args(["show", &split])) {
        Ok(text) if !text.is_empty() => split,
        _ => image.to_owned(),
    };
    eprintln!("fetching {package}");
    let debs = apt.join("debs");
    let _ = fs::remove_dir_all(&debs);
    fs::create_dir_all(&debs).map_err(VmError::io(&debs))?;
    run(tool("apt-get", &apt).args(["-qq", "download", &package]).current_dir(&debs))?;
    let deb = fs::read_dir(&debs)
        .map_err(VmError::io(&debs))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| VmError::Kernel(format!("apt fetched no {package}")))?;
    let files = debs.join("files");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&files))?;
    let found = [
        files.join(format!("usr/lib/modules/{release}/vmlinuz")),
        files.join(format!("boot/vmlinuz-{release}")),
    ]
    .into_iter()
    .find(|path| path.exists())
    .ok_or_else(|| VmError::Kernel(format!("{package} holds no vmlinuz")))?;
    let kept = folder.join(format!("vmlinuz-{release}"));
    fs::rename(&found, &kept).map_err(VmError::io(&kept))?;
    let _ = fs::remove_dir_all(&debs);
    Ok(kept)
}

/// An apt program that knows of our directories only.
fn tool(program: &str, apt: &Path) -> Command {
    let mut command = Command::new(program);
    for (key, value) in [
        ("Dir::Etc::sourcelist", apt.join("etc/sources.list")),
        ("Dir::Etc::sourceparts", PathBuf::from("/dev/null")),
        ("Dir::State", apt.join("state")),
        ("Dir::State::status", PathBuf::from("/dev/null")),
        ("Dir::Cache", apt.join("cache")),
    ] {
        command.arg("-o").arg(format!("{key}={}", value.display()));
    }
    // As root apt would fetch as another user, who cannot write here.
    command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
    command.env("LC_ALL", "C");
    command
}

/// The mirror that the system's apt is set up with.
fn mirror() -> Result<String, VmError> {
    let targets = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    targets
        .lines()
        .map(|uri| uri.trim_end_matches('/'))
        .find(|uri| uri.ends_with("/debian"))
        .map(str::to_owned)
        .ok_or_else(|| VmError::Kernel("apt is set up with no Debian mirror".into()))
}
