//! A tool runner for an agent: one command, bounded in every way, and an answer that a model can
//! read, whatever the command does.
//!
//!     cargo run --example agent_tool -- python3 -c 'print(6 * 7)'

use std::time::Duration;

use cgrove::report::Reason;
use cgrove::{Error, Supervisor};

/// What a model is shown of each stream.
const SHOWN: usize = 4096;

fn main() -> Result<(), Error> {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: agent_tool COMMAND [ARG]...");
        std::process::exit(2);
    };
    let tool = Supervisor::new()?
        .command(program)
        .args(words)
        .pids_max(64)
        .memory_max(1 << 30)
        .cpu_max(2.0)
        .timeout(Duration::from_secs(20))
        .kill_grace(Duration::from_secs(1));
    match tool.output() {
        Ok(output) => {
            let report = &output.report;
            let end = match report.reason {
                Reason::Exited => format!("exited with status {}", report.exit.status),
                Reason::Timeout => "took longer than 20 seconds and was ended".to_owned(),
                Reason::PidsMax => "wanted more than 64 processes and threads at a time".to_owned(),
                Reason::MemoryMax => "needed more than 1 GiB of memory and was killed".to_owned(),
                Reason::ExecFailed => "could not be started: is it installed?".to_owned(),
                _ => report.summary().to_string(),
            };
            println!("The command {end}.");
            if report.left_behind.killed > 0 {
                println!(
                    "{} processes that it left running were ended.",
                    report.left_behind.killed
                );
            }
            for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
                let more = bytes.len().saturating_sub(SHOWN);
                println!(
                    "--- {name}{}\n{shown}",
                    if more > 0 { format!(", {more} bytes more") } else { String::new() }
                );
            }
            Ok(())
        }
        // One line that says what to do.
        Err(error) => Err(error),
    }
}
