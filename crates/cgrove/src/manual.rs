//! `cgrove man DIR`: writes the manual pages.

use std::fs;
use std::path::Path;

use crate::say;

/// Writes each page into the directory, which is made if need be; returns the exit status.
pub fn write(dir: &Path, pages: &[(String, Vec<u8>)]) -> i32 {
    let written = fs::create_dir_all(dir)
        .and_then(|()| pages.iter().try_for_each(|(name, page)| fs::write(dir.join(name), page)));
    match written {
        Ok(()) => 0,
        Err(error) => say::failed(&format_args!(
            "cannot write the manual to {}: {error}; name a directory that is writable",
            dir.display()
        )),
    }
}
