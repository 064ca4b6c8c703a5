//! Runs a command in the jail of the tests. Also good as a cargo runner, which puts a whole test
//! run in.
//!
//! ```text
//! cgrove-jail [--no-seccomp] COMMAND [ARG…]
//! ```

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    std::process::exit(cgrove_testkit::jail::main(&args));
}
