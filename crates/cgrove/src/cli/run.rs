//! The options of `cgrove run`.
//!
//! The help of so many options fits a screen only if it is written for one: [`SCREEN`] is, and a
//! test sees that it names them all. The texts beside the options are for the manual page and the
//! shells.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use cgrove_host::options::{BackendChoice, Requirement, RunOptions};
use cgrove_host::parent::DieWith;
use cgrove_host::report::Backend;
use clap::{Args, ValueEnum};

use super::limits::LimitArgs;
use super::values::{self, PidsMax};
use crate::watch::{self, Address};

/// `cgrove run`, resolved.
pub struct Run {
    /// For the supervisor.
    pub options: RunOptions,
    /// Where the report goes.
    pub json: Option<PathBuf>,
    /// Curves, events and processes are wanted in it.
    pub series: bool,
    /// Where the report goes as a page.
    pub report: Option<PathBuf>,
    /// No summary line.
    pub quiet: bool,
    /// Say more.
    pub verbose: bool,
    /// What to run when memory goes over `memory.high`.
    pub on_high: Option<OsString>,
    /// Where events go.
    pub events: Option<PathBuf>,
    /// Keep a line of progress on the terminal.
    pub progress: bool,
    /// Where metrics are offered.
    pub metrics: Option<Address>,
}

/// What `cgrove run --help` prints: at most 24 lines of at most 80 columns.
pub(super) const SCREEN: &str = "\
Usage: cgrove run [OPTIONS] [--] COMMAND [ARG]...

Run a command under limits, account for all it starts, and leave nothing behind.

Limits   --pids-max N          at most N tasks (processes and threads) at a time
         --memory-max SIZE     kill for memory over SIZE: 200M, 2G
         --memory-high SIZE    slow down over SIZE, and run --on-high COMMAND
         --cpu-max 150%        of one CPU; --cpu-weight N; --cpus LIST: 0-2,5
         --timeout TIME        end it after 90, 1.5s, 10m; --kill-grace T [2s]
         --set FILE=VALUE      write a file of its cgroup first: pids.max=64
Outcome  --json FILE           write the report as JSON; --series: with curves
         --report FILE.html    a page of it; --quiet, --verbose: say less, more
         --events FILE         meanwhile, what happens: one JSON object a line
         --progress            meanwhile, a line on the terminal
         --metrics[=ADDR]      meanwhile, OpenMetrics: PORT, PATH or unix [unix]
Holding  --name NAME           the cgroup's name [run-PID], see `cgrove tree`
         --keep-descendants    last until the last descendant ends, kill none
         --die-with-parent     end when the starter does, or the process =PID
         --backend WHICH       auto, kernel, gate, ptrace, reaper; see doctor
         --require LIST        or do not start: pids=exact,cpu,kill=exact,gate

The exit status is the command's; 128+N: signal N killed it; 124: timed out;
125: cgrove failed; 126: not executable; 127: not found.
More: `cgrove help` TOPIC: run, limits, backends, report, watching, files, …
";

#[derive(Args)]
pub(super) struct RunArgs {
    /// At most N tasks (processes and threads) at a time; a fork beyond fails with EAGAIN
    #[arg(long, value_name = "N|max", value_parser = values::pids_max, help_heading = "Limits")]
    pids_max: Option<PidsMax>,

    #[command(flatten)]
    limits: LimitArgs,

    /// End the whole tree after this long (90, 1.5s, 10m): SIGTERM first, SIGKILL later
    #[arg(long, value_name = "DURATION", value_parser = values::timeout, help_heading = "Limits")]
    timeout: Option<Duration>,

    /// Time between SIGTERM and SIGKILL on a timeout; 0 kills at once
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = values::duration,
        help_heading = "Limits")]
    kill_grace: Duration,

    /// Write an interface file of the run's cgroup before the command starts, e.g. pids.max=64
    #[arg(long, value_name = "FILE=VALUE", value_parser = values::setting,
        help_heading = "Limits")]
    set: Vec<(String, String)>,

    /// Keep curves, events and processes over time for the JSON report
    #[arg(long, help_heading = "Outcome")]
    series: bool,

    /// Run this shell command whenever memory goes over memory.high; CGROVE_EVENT, CGROVE_GROUP,
    /// CGROVE_USAGE and CGROVE_LIMIT tell it more
    #[arg(long, value_name = "COMMAND", value_hint = clap::ValueHint::CommandString,
        help_heading = "Limits")]
    on_high: Option<OsString>,

    /// Write the report as JSON; - is standard output
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath,
        help_heading = "Outcome")]
    json: Option<PathBuf>,

    /// Write the report as one HTML page: curves over time, events, every process
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath,
        help_heading = "Outcome")]
    report: Option<PathBuf>,

    /// No summary line
    #[arg(long, conflicts_with = "verbose", help_heading = "Outcome")]
    quiet: bool,

    /// Name the survivors and say why this backend was taken
    #[arg(long, help_heading = "Outcome")]
    verbose: bool,

    /// While the run lasts, write what happens to this file, one JSON object a line; - is standard
    /// output. Who reads slowly misses some, and is told how many
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath,
        help_heading = "Outcome")]
    events: Option<PathBuf>,

    /// While a run lasts longer than two seconds, say at the foot of the terminal how far it has come
    #[arg(long, help_heading = "Outcome")]
    progress: bool,

    /// While the run lasts, offer its figures as OpenMetrics over HTTP: at a socket (PATH, or `unix`
    /// for one named after the run) or a port of this machine (PORT, 127.0.0.1:PORT; 0 is any)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "unix",
        value_name = "ADDR", value_parser = watch::parse_address, help_heading = "Outcome")]
    metrics: Option<Address>,

    /// The cgroup's name [default: run-PID]
    #[arg(long, value_parser = values::name, help_heading = "Holding the tree")]
    name: Option<String>,

    /// The run lasts until the last descendant ends; otherwise what COMMAND leaves behind is killed
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", value_name = "true|false",
        help_heading = "Holding the tree")]
    keep_descendants: bool,

    /// End with the process that started cgrove, or with PID, an ancestor or a process of the same
    /// user: kill everything when it has ended, even by SIGKILL; the status is 137 then
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "starter",
        hide_default_value = true, value_name = "PID", value_parser = values::die_with,
        help_heading = "Holding the tree")]
    die_with_parent: Option<DieWith>,

    /// How to hold the tree
    #[arg(long, value_enum, default_value_t = BackendArg::Auto, help_heading = "Holding the tree")]
    backend: BackendArg,

    /// Refuse to start unless this holds: a comma list of pids, cpu, kill, memory, cpu-max
    /// (each also as =kernel, =exact or =sampled), gate and kernel
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = values::requirement,
        help_heading = "Holding the tree")]
    require: Vec<Requirement>,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND",
        value_hint = clap::ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum BackendArg {
    /// The strongest that works here
    Auto,
    /// In a cgroup of the kernel's, where ours is delegated to us
    Kernel,
    /// Every fork asks first (seccomp user notification)
    Gate,
    /// Every fork asks first, by ptrace: no debugger works inside
    Ptrace,
    /// No questions: the tree is looked at now and then
    Reaper,
}

impl BackendArg {
    pub(super) fn choice(self) -> BackendChoice {
        match self {
            BackendArg::Auto => BackendChoice::Auto,
            BackendArg::Kernel => BackendChoice::Only(Backend::Kernel),
            BackendArg::Gate => BackendChoice::Only(Backend::Gate),
            BackendArg::Ptrace => BackendChoice::Only(Backend::Ptrace),
            BackendArg::Reaper => BackendChoice::Only(Backend::Reaper),
        }
    }
}

impl RunArgs {
    pub(super) fn resolve(self) -> Run {
        Run {
            options: RunOptions {
                command: self.command,
                // Who watches asks for it by its name.
                named: self.name.is_some() || self.progress || self.metrics.is_some(),
                name: self.name.unwrap_or_else(|| format!("run-{}", std::process::id())),
                pids_max: self.pids_max.and_then(|PidsMax(max)| max),
                set: self.limits.settings().into_iter().chain(self.set).collect(),
                series: self.series || self.report.is_some(),
                timeout: self.timeout,
                kill_grace: self.kill_grace,
                backend: self.backend.choice(),
                require: self.require,
                keep_descendants: self.keep_descendants,
                die_with: self.die_with_parent,
                keeper: false,
            },
            json: self.json,
            series: self.series,
            report: self.report,
            quiet: self.quiet,
            verbose: self.verbose,
            on_high: self.on_high,
            events: self.events,
            progress: self.progress,
            metrics: self.metrics,
        }
    }
}
