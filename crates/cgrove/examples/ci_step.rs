//! A CI step: the log goes through as it comes, and the step fails if it leaves anything running.
//!
//!     cargo run --example ci_step -- make -j4

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use cgrove::{Error, Supervisor};

fn main() -> Result<(), Error> {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let (program, args) = words.split_first().expect("usage: ci_step COMMAND [ARG]...");
    let begun = Instant::now();
    let mut step = Supervisor::new()?
        .command(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .timeout(Duration::from_secs(3600))
        .spawn()?;
    if let Some(log) = step.stdout() {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            println!("{:8.1}  {line}", begun.elapsed().as_secs_f64());
        }
    }
    let report = step.wait()?;
    let cpu = Duration::from_nanos(report.cpu.user_ns + report.cpu.system_ns);
    println!("cpu {:.1} s, at most {:?} tasks", cpu.as_secs_f64(), report.tasks.peak);
    let leaks = report.left_behind.killed;
    if leaks > 0 {
        println!("FAILED: it left {leaks} processes running");
    }
    std::process::exit(if report.exit.status == 0 && leaks > 0 { 1 } else { report.exit.status });
}
