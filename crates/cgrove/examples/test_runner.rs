//! A test runner: every test in a cgroup of its own within one budget, several at a time, and
//! whatever a test leaves behind is ended and told.
//!
//!     cargo run --example test_runner -- 'true' 'sleep 1000 & echo left one' 'exit 3'

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use cgrove::{Error, Running, Supervisor};

const AT_A_TIME: usize = 4;

fn main() -> Result<(), Error> {
    let mut waiting: VecDeque<String> = std::env::args().skip(1).collect();
    let name = format!("tests-{}", std::process::id());
    let budget = Supervisor::new()?.group(&name).pids_max(256).create()?;
    let mut running: Vec<(String, Running)> = Vec::new();
    let mut failed = 0;
    loop {
        while running.len() < AT_A_TIME {
            let Some(test) = waiting.pop_front() else { break };
            let command = budget
                .command("sh")
                .args(["-c", &test])
                .pids_max(64)
                .timeout(Duration::from_secs(60))
                .quiet()
                .stdin(Stdio::null());
            running.push((test, command.spawn()?));
        }
        if running.is_empty() {
            break;
        }
        // An event loop would wait for their descriptors; the first in line will do here.
        let (test, run) = running.remove(0);
        let report = run.wait()?;
        failed += i32::from(report.exit.status != 0);
        println!("{:>4}  {test}", report.exit.status);
        for process in &report.left_behind.processes {
            println!("      left running: {}", process.cmdline.join(" "));
        }
    }
    budget.remove()?;
    std::process::exit(i32::from(failed > 0));
}
