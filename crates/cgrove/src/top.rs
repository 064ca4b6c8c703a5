//! `cgrove top`: the live runs of this user, their cgroups and processes, as they change.
//!
//! Asking a run takes as long as the run likes (a stopped supervisor answers nobody), and a freeze
//! takes as long as its tasks do. So a thread of its own asks and acts, and this one draws what came
//! last and takes keys. `model.rs` makes rows out of samples and keys and knows no terminal;
//! `draw.rs` puts rows into cells.

mod draw;
mod keys;
mod model;
mod sample;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::draw::{Look, frame};
use self::keys::Command;
use self::model::Model;
use self::sample::{Sample, Watcher};
use crate::{live, say};

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// Between the two samples that `--once` makes rates from.
const GLIMPSE: Duration = Duration::from_millis(300);
/// How long a signal may go unseen.
const ATTENTION: Duration = Duration::from_millis(100);

/// `cgrove top`, resolved.
pub struct Top {
    /// Only this run.
    pub name: Option<String>,
    /// One picture as text, and out.
    pub once: bool,
}

/// Shows it until somebody has seen enough; returns the exit status.
pub fn top(what: &Top) -> i32 {
    if let Some(name) = &what.name
        && let Err(error) = live::snapshot(name)
    {
        return say::failed(&error);
    }
    let mut watcher = match Watcher::new(what.name.clone()) {
        Ok(watcher) => watcher,
        Err(error) => return say::failed(&error),
    };
    if what.once {
        let mut model = Model::new();
        model.expand_all();
        model.update(watcher.look());
        thread::sleep(GLIMPSE);
        model.update(watcher.look());
        return say::out(&draw::text(&model, Look::of_place(), 100));
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return say::failed(
            &"cannot show a live picture: standard input and output must be a terminal (ENOTTY); \
              `cgrove top --once` prints one",
        );
    }
    match watch(watcher) {
        Ok(()) => 0,
        Err(error) => say::failed(&format_args!(
            "cannot use the terminal: {error}; `cgrove top --once` needs none"
        )),
    }
}

/// What the other thread reports.
enum News {
    Sample(Sample),
    /// What became of a command, in a line.
    Done(String),
}

fn watch(watcher: Watcher) -> io::Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&over))?;
    }
    let (commands, orders) = channel();
    let (tell, news) = channel();
    thread::Builder::new()
        .name("cg-watcher".to_owned())
        .spawn(move || serve(watcher, &orders, &tell))?;
    // Gives the terminal back in a panic too.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &over, &commands, &news);
    ratatui::try_restore().and(shown)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    over: &AtomicBool,
    commands: &Sender<Command>,
    news: &Receiver<News>,
) -> io::Result<()> {
    let mut model = Model::new();
    let look = Look::of_place();
    let mut dirty = true;
    while !over.load(Ordering::Relaxed) {
        for news in news.try_iter() {
            dirty = true;
            match news {
                News::Sample(sample) => model.update(sample),
                News::Done(line) => model.say(line),
            }
        }
        if dirty {
            terminal.draw(|cells| frame(&model, look, cells.area(), cells.buffer_mut()))?;
            dirty = false;
        }
        if !event::poll(ATTENTION)? {
            continue;
        }
        dirty = true;
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                match keys::pressed(&mut model, key) {
                    None => {}
                    Some(Command::Quit) => return Ok(()),
                    Some(Command::Stop) => {
                        ratatui::try_restore()?;
                        // As the terminal itself would do it.
                        let _ = nix::sys::signal::kill(
                            nix::unistd::Pid::from_raw(0),
                            nix::sys::signal::Signal::SIGTSTP,
                        );
                        *terminal = ratatui::try_init()?;
                    }
                    // The other thread is there as long as this one.
                    Some(command) => drop(commands.send(command)),
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The other thread: samples at times, and does what it is told in between.
fn serve(mut watcher: Watcher, orders: &Receiver<Command>, tell: &Sender<News>) {
    let mut due = Instant::now();
    loop {
        match orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(command) => {
                let done = command.carry_out().unwrap_or_else(|error| error.to_string());
                if tell.send(News::Done(done)).is_err() {
                    return;
                }
                due = Instant::now();
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
        }
        if due <= Instant::now() {
            if tell.send(News::Sample(watcher.look())).is_err() {
                return;
            }
            due = Instant::now() + PERIOD;
        }
    }
}
