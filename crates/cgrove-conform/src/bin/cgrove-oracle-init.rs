//! The one program inside the virtual machine: its init, and every task of a case after an exec.

use cgrove_conform::guest::{actor, init, tool};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((tool::ARGUMENT, rest)) = words.split_first().map(|(it, rest)| (it.as_str(), rest))
    {
        std::process::exit(tool::main(rest).into());
    }
    if words.first().is_some_and(|first| first == "-c") {
        std::process::exit(tool::main(&words).into());
    }
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some(actor::ARGUMENT), Some(number)) => actor::run_after_exec(number.parse().unwrap_or(0)),
        _ if std::process::id() == 1 => init::main(),
        _ => {
            eprintln!(
                "cgrove-oracle-init runs inside the virtual machine that `cgrove-conform record` boots"
            );
            std::process::exit(2);
        }
    }
}
