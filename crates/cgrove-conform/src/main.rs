//! The command that records what a kernel answers, and plays single files for whoever asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cgrove_conform::backend;
use cgrove_conform::case::{self, Target};
use cgrove_conform::model::target::CoreTarget;
use cgrove_conform::random;
use cgrove_conform::record::{self, CaseFile};
use cgrove_conform::replay::{self, folder};
use cgrove_conform::reported;
use cgrove_conform::transcript::{Played, Transcript};
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
    /// Plays the record of a mount again, and says what is answered otherwise
    Replay {
        /// What `cgrove mount --record` has written
        file: PathBuf,
        /// What plays it
        #[arg(long, value_enum, default_value_t = On::Core)]
        target: On,
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Replays all transcripts against the core and prints one line
    Summary,
    /// Compares random sequences on a kernel and on the core
    Random {
        /// Which sequences
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many
        #[arg(long, default_value_t = 1000)]
        sequences: u64,
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Runs `cgrove run` on a kernel's own cgroups, with controllers, and says what held
    KernelBackend {
        /// The static binary that `./dist` builds
        #[arg(long, default_value = "target/dist/cgrove")]
        cgrove: PathBuf,
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
    /// cgrove's own core, with simulated processes
    Core,
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
        Do::Replay { file, target, kernel } => replay_record(&file, target, &kernel),
        Do::Summary => summary(),
        Do::Random { seed, sequences, kernel } => random(seed, sequences, &kernel),
        Do::KernelBackend { cgrove, kernel } => kernel
            .image()
            .and_then(|image| backend::run(&image, &cgrove).map_err(|e| e.to_string())),
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

fn run(file: &Path, target: On, kernel: &Kernel) -> Result<bool, String> {
    let files = [record::read_file(file)?];
    let (transcripts, good) = match target {
        On::Kernel => {
            let (transcripts, recorded) = play(&kernel.image()?, &files)?;
            (transcripts, recorded.trouble.is_empty())
        }
        On::Core => (vec![on_core(&files[0])?], true),
    };
    for transcript in &transcripts {
        print!("{}", transcript.print());
    }
    Ok(good)
}

fn on_core(file: &CaseFile) -> Result<Transcript, String> {
    let mut target = CoreTarget::default();
    let mut cases = Vec::new();
    for case in &file.cases {
        let mut outcomes = Vec::new();
        case::play(&mut target, case, |_, _, outcome| outcomes.push(outcome))?;
        cases.push(Played::new(case, outcomes));
    }
    Ok(Transcript { kernel: target.name(), cases })
}

fn replay_record(file: &Path, target: On, kernel: &Kernel) -> Result<bool, String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = fs::read_to_string(file).map_err(|error| at(&error))?;
    let transcript = Transcript::parse(&text).map_err(|error| at(&error))?;
    let (name, now) = match target {
        On::Core => (CoreTarget::default().name(), reported::on_core(&transcript)?),
        On::Kernel => {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let files = [CaseFile { name, cases: reported::cases(&transcript) }];
            let (played, _) = play(&kernel.image()?, &files)?;
            let release = played.first().map(|it| it.kernel.clone()).unwrap_or_default();
            let outcomes = |played: Played| played.steps.into_iter().map(|(_, it)| it).collect();
            let cases = played.into_iter().flat_map(|it| it.cases);
            (release, cases.map(outcomes).collect())
        }
    };
    let compared = reported::compare(&transcript, &now);
    for difference in &compared.differences {
        println!("{difference}");
    }
    println!(
        "steps {}, differences {}, played on {name}",
        compared.steps,
        compared.differences.len()
    );
    Ok(compared.differences.is_empty())
}

fn summary() -> Result<bool, String> {
    let (mut cases, mut steps, mut disagreements) = (0, 0, 0);
    let mut kernels = Vec::new();
    for version in replay::versions()? {
        let done = replay::replay(&version)?;
        for difference in &done.unexplained {
            eprintln!("{difference}");
        }
        for stale in &done.stale {
            eprintln!("{stale}");
        }
        eprintln!("{done}");
        cases = cases.max(done.cases);
        steps = steps.max(done.steps);
        disagreements += done.unexplained.len() + done.stale.len();
        kernels.push(done.kernel);
    }
    let kernels = kernels.join(", ");
    println!("cases {cases}, steps {steps}, kernels {kernels}, disagreements {disagreements}");
    Ok(disagreements == 0)
}

fn random(seed: u64, sequences: u64, kernel: &Kernel) -> Result<bool, String> {
    let start = Instant::now();
    let mut lab = Lab::open(&kernel.image()?).map_err(|e| e.to_string())?;
    let known = replay::known_of(lab.release())?;
    let totals = random::run(&mut lab, &known, seed, sequences, |text| println!("{text}"))?;
    eprintln!(
        "boots {}, answered differently once and not again {}, {:.1} s",
        lab.boots,
        totals.unsteady,
        start.elapsed().as_secs_f64()
    );
    println!(
        "sequences {}, steps {}, disagreements {}, kernel {}, seed {seed}",
        totals.sequences,
        totals.steps,
        totals.disagreements,
        lab.release()
    );
    Ok(totals.disagreements == 0)
}
