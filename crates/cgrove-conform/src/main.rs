//! The command that records what a kernel answers, and plays single files for whoever asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cgrove_conform::record::{self, CaseFile};
use cgrove_conform::transcript::Transcript;
use cgrove_conform::vm::kernel;
use cgrove_conform::vm::machine::Lab;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Holds cgrove to what Linux does.
#[derive(Parser)]
#[command(name = "cgrove-conform")]
struct Cli {
    #[command(subcommand)]
    command: Do,
}

#[derive(Subcommand)]
enum Do {
    /// Plays all cases on a kernel and writes the transcripts
    Record {
        #[command(flatten)]
        kernel: Kernel,
        /// Play them and compare with the transcripts there are, but write nothing
        #[arg(long)]
        check: bool,
    },
    /// Plays one file of cases and prints what each step gave
    Run {
        /// The file
        file: PathBuf,
        /// What plays it
        #[arg(long, value_enum, default_value_t = On::Kernel)]
        target: On,
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Fetches a kernel and prints where it is
    Fetch {
        #[command(flatten)]
        kernel: Kernel,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum On {
    /// A Linux kernel in a virtual machine
    Kernel,
}

#[derive(Args)]
struct Kernel {
    /// A kernel image at hand
    #[arg(long, value_name = "VMLINUZ")]
    kernel: Option<PathBuf>,
    /// The Debian suite to take the kernel of
    #[arg(long, default_value = "unstable", conflicts_with = "kernel")]
    suite: String,
    /// Look for a newer one even if the cache has one
    #[arg(long, conflicts_with = "kernel")]
    refresh: bool,
}

impl Kernel {
    fn image(&self) -> Result<PathBuf, String> {
        match &self.kernel {
            Some(path) => Ok(path.clone()),
            None => kernel::fetch(&self.suite, self.refresh).map_err(|e| e.to_string()),
        }
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Do::Record { kernel, check } => record(&kernel, check),
        Do::Run { file, target, kernel } => run(&file, target, &kernel),
        Do::Fetch { kernel } => kernel.image().map(|path| {
            println!("{}", path.display());
            true
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cgrove-conform: {e}");
            ExitCode::from(2)
        }
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn play(image: &Path, files: &[CaseFile]) -> Result<(Vec<Transcript>, record::Recorded), String> {
    let mut lab = Lab::open(image).map_err(|e| e.to_string())?;
    let start = Instant::now();
    let (transcripts, recorded) = record::record(&mut lab, files).map_err(|e| e.to_string())?;
    for trouble in &recorded.trouble {
        eprintln!("trouble: {trouble}");
    }
    eprintln!(
        "cases {}, steps {}, boots {}, kernel {}, {:.1} s",
        recorded.cases,
        recorded.steps,
        lab.boots,
        lab.release(),
        start.elapsed().as_secs_f64()
    );
    Ok((transcripts, recorded))
}

fn record(kernel: &Kernel, check: bool) -> Result<bool, String> {
    let files = record::read_folder(&folder("cases"))?;
    let (transcripts, recorded) = play(&kernel.image()?, &files)?;
    let mut good = recorded.trouble.is_empty();
    for (file, transcript) in files.iter().zip(&transcripts) {
        let to = folder("transcripts").join(record::version(&transcript.kernel));
        let path = to.join(format!("{}.transcript", file.name));
        let text = transcript.print();
        if check {
            let kept = fs::read_to_string(&path).unwrap_or_default();
            if kept != text {
                println!("differs: {}{}", path.display(), first_difference(&kept, &text));
                good = false;
            }
        } else {
            fs::create_dir_all(&to)
                .and_then(|()| fs::write(&path, text))
                .map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(good)
}

/// Where two transcripts part, in words.
fn first_difference(kept: &str, now: &str) -> String {
    let mut case = "";
    let mut step = "";
    for (old, new) in kept.lines().zip(now.lines()) {
        if let Some(name) = new.strip_prefix("case ") {
            case = name;
        } else if new.starts_with("  ") && !new.starts_with("    ") {
            step = new.trim();
        }
        if old != new {
            return format!(" at {case}: {step}: {} is now {}", old.trim(), new.trim());
        }
    }
    String::new()
}

fn run(file: &Path, On::Kernel: On, kernel: &Kernel) -> Result<bool, String> {
    let files = [record::read_file(file)?];
    let (transcripts, recorded) = play(&kernel.image()?, &files)?;
    for transcript in &transcripts {
        print!("{}", transcript.print());
    }
    Ok(recorded.trouble.is_empty())
}
