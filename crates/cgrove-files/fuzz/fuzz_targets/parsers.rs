//! `cargo +nightly fuzz run parsers`, in `crates/cgrove-files`.

#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| support::entry::parsers(data));
