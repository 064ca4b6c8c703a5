//! The C entry point, and the one system call that no library wraps.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsString, c_char, c_int};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

/// Called by the C library's start code, before any thread but this one exists.
///
/// # Safety
///
/// `argv` must hold `argc` pointers to C strings, as the C standard promises to `main`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    let args: Vec<OsString> = (0..count)
        .map(|n| {
            // SAFETY: `argv` has `argc` valid entries, each a C string that lives as long as the
            // process.
            let bytes = unsafe { CStr::from_ptr(*argv.add(n)) }.to_bytes();
            OsString::from_vec(bytes.to_vec())
        })
        .collect();
    crate::cgrove(args)
}

/// Rows and columns of a terminal, if it knows.
pub fn window_size(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` to where the third argument points; `size` is live
    // and writable.
    let got = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (got == 0).then_some((size.ws_row, size.ws_col))
}
