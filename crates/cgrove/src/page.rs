//! A run's report as one HTML page, to be read anywhere: on a phone, on paper, years later.
//!
//! It asks nothing of anybody: no script, no font, no request (and a policy that forbids them).
//! Command lines are whatever a hostile program chose, so text is escaped by the template engine
//! and stripped of what would steer a terminal or turn the direction of reading.

mod axis;
mod chart;

use std::io::Write;
use std::path::{Path, PathBuf};

use cgrove_host::error::HostError;
use cgrove_host::report::{Backend, Class, Reason, Report, signal_name};
use cgrove_host::series::{GroupSeries, ProcessSeries, Series, SeriesEvent};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::axis::{Axis, byte_unit, bytes, duration, moment, short};
use self::chart::Chart;

/// Processes that are shown without being asked for.
const OPEN: usize = 40;
/// Characters of a command line …
const COMMAND: usize = 300;
/// … and of one that has to be unfolded, for thousands are.
const FOLDED: usize = 120;
/// Points of the CPU curve: a rate of too short a time is noise.
const RATES: f64 = 240.0;
/// Milliseconds that a rate is taken over, at least.
const RATE_MS: f64 = 50.0;

/// Where the page goes.
pub struct Page {
    path: PathBuf,
}

impl Page {
    /// Makes sure that it can be written there, before anything is run for it.
    pub fn prepare(path: &Path) -> Result<Page, HostError> {
        let page = Page { path: path.to_owned() };
        page.temporary().map(|_| page).map_err(|error| refused(path, &error))
    }

    /// Writes it. Whoever looks meanwhile sees the old one or the new one, whole.
    pub fn write(&self, report: &Report) -> Result<(), HostError> {
        let text = render(report);
        self.temporary()
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.persist(&self.path).map_err(|error| error.error)
            })
            .map(drop)
            .map_err(|error| refused(&self.path, &error))
    }

    fn temporary(&self) -> std::io::Result<tempfile::NamedTempFile> {
        use std::os::unix::fs::PermissionsExt;
        if self.path.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Less what the umask takes away, as for any file.
        let mode = std::fs::Permissions::from_mode(0o666);
        tempfile::Builder::new()
            .permissions(mode)
            .prefix(".cgrove-")
            .tempfile_in(parent.unwrap_or(Path::new(".")))
    }
}

fn refused(path: &Path, error: &std::io::Error) -> HostError {
    HostError::new(
        format_args!("cannot write the page to {}", path.display()),
        error,
        "choose a place with --report whose folder is writable and has room",
    )
}

/// The page.
pub fn render(report: &Report) -> String {
    let none = Series::default();
    let series = report.series.as_ref().unwrap_or(&none);
    let command = clean(&words_of(&report.command), COMMAND);
    let end_ms = (report.wall_ns as f64 / 1e6).max(1.0);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                title { (ending(report).0) ": " (command) }
                style { (PreEscaped(include_str!("page/style.css"))) }
            }
            body {
                main {
                    (head(report, &command))
                    (cards(report))
                    @for warning in &report.warnings { p.warn { "Note: " (clean(warning, COMMAND)) } }
                    @for (n, group) in series.groups.iter().enumerate() {
                        (curves(group, &series.events, end_ms, n == 0))
                    }
                    @if series.groups.is_empty() { p.dim { "No curves were kept for this run." } }
                    (events(&series.events, end_ms))
                    (processes(series, end_ms))
                }
                footer {
                    "cgrove " (env!("CARGO_PKG_VERSION")) ". "
                    b { "kernel" } ": counted by the kernel's own cgroup. "
                    b { "exact" } ": every event counted. "
                    b { "sampled" } ": looked at now and then; what happened in between went unseen."
                }
            }
        }
    };
    page.into_string()
}

/// How it ended: in words, and whether that is good.
fn ending(report: &Report) -> (String, &'static str) {
    let by_signal = report.exit.signal.map(|signal| format!("killed by {}", signal_name(signal)));
    let exited = report.exit.code.map(|code| format!("exited {code}"));
    match report.reason {
        Reason::Exited if report.exit.code == Some(0) => ("exited 0".to_owned(), "ok"),
        Reason::Timeout => ("timed out".to_owned(), "bad"),
        Reason::MemoryMax => ("killed for memory".to_owned(), "bad"),
        Reason::PidsMax => {
            let how = exited.or(by_signal).unwrap_or_default();
            (format!("{how}, after its task limit was hit"), "bad")
        }
        Reason::ExecFailed => ("did not start".to_owned(), "bad"),
        Reason::ParentEnded => ("ended with its parent".to_owned(), "bad"),
        Reason::SupervisorKilled => ("supervisor killed".to_owned(), "bad"),
        Reason::Exited | Reason::Signaled => {
            (exited.or(by_signal).unwrap_or_else(|| "ended".to_owned()), "bad")
        }
    }
}

fn head(report: &Report, command: &str) -> Markup {
    let (words, tone) = ending(report);
    let sign = if tone == "ok" { "✓" } else { "✗" };
    html! {
        header {
            span.badge.(tone) { (sign) " " (words) }
            @if let killed @ 1.. = report.memory.oom_kill_count.unwrap_or(0)
                && report.reason != Reason::MemoryMax {
                " " span.badge.warn { (killed) " killed for memory" }
            }
            h1 { (command) }
            p.dim {
                (clean(&report.name, 255)) ", held by "
                b { (report.backend.map_or("nobody knows what", Backend::name)) }
                " (" (clean(&report.backend_reason, COMMAND)) ")"
            }
            @for kill in &report.memory.oom_kills {
                p {
                    "Killed for memory at " (moment(kill.at_ms as f64, report.wall_ns as f64 / 1e6)) ": "
                    code { (clean(&words_of(&kill.cmdline), COMMAND)) } " (process " (kill.pid) ", "
                    (bytes(kill.bytes)) "), as " (clean(&kill.group, 255)) " used " (bytes(kill.usage_bytes))
                    " of " (bytes(kill.limit_bytes)) "."
                }
            }
        }
    }
}

fn cards(report: &Report) -> Markup {
    let count = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    let of =
        |limit: Option<String>| limit.map_or_else(String::new, |limit| format!("limit {limit}"));
    let cpu = report.cpu.user_ns.saturating_add(report.cpu.system_ns);
    let peak = match (report.tasks.peak, report.tasks.at_most) {
        (Some(peak), Some(most)) if peak != most => format!("{peak} to {most}"),
        (peak, _) => count(peak),
    };
    let card = |what: &str, figure: String, class: Option<Class>, more: String| {
        html! {
            div.card {
                small { (what) @if let Some(class) = class { " " span.class { (class.name()) } } }
                b { (figure) }
                @if !more.is_empty() { small { (more) } }
            }
        }
    };
    let timeout = report.limits.timeout_ms.map(|ms| duration(ms.saturating_mul(1_000_000)));
    let parts =
        format!("{} user, {} system", duration(report.cpu.user_ns), duration(report.cpu.system_ns));
    let memory = report.memory.peak_bytes.map_or_else(|| "?".to_owned(), bytes);
    let refused = report.forks.refused.unwrap_or(0);
    let killed = report.left_behind.killed;
    html! {
        div.cards {
            (card("Wall time", duration(report.wall_ns), None, of(timeout)))
            (card("CPU time", duration(cpu), Some(report.cpu.class), parts))
            (card("Peak memory", memory, Some(report.memory.class), of(report.limits.memory_max.map(bytes))))
            (card("Most tasks", peak, Some(report.tasks.class), of(report.limits.pids_max.map(|n| n.to_string()))))
            (card("Forks", count(report.forks.count), Some(report.forks.class),
                if refused > 0 { format!("{refused} more refused") } else { String::new() }))
            @if let (Some(throttled), Some(ns)) = (report.cpu.throttled_periods, report.cpu.throttled_ns) {
                (card("Held back by cpu.max", duration(ns), report.cpu.limit_class,
                    format!("in {throttled} of {} periods", report.cpu.periods.unwrap_or(0))))
            }
            @if killed > 0 {
                (card("Left behind", killed.to_string(), Some(report.left_behind.class), "killed at the end".to_owned()))
            }
        }
    }
}

fn curves(group: &GroupSeries, all: &[SeriesEvent], end_ms: f64, first: bool) -> Markup {
    let marks = marks(group, all, end_ms, first);
    let time = |n: usize| group.t_ms.get(n).map_or(0.0, |ms| *ms as f64);
    let length = group.t_ms.len();
    let memory: Vec<(f64, Option<f64>)> =
        (0..length).map(|n| (time(n), group.memory_bytes[n].map(|it| it as f64))).collect();
    let tasks: Vec<(f64, Option<f64>)> =
        (0..length).map(|n| (time(n), Some(group.tasks[n] as f64))).collect();
    let cpu = rates(group, end_ms);
    let highest = |points: &[(f64, Option<f64>)]| {
        points.iter().filter_map(|(_, value)| *value).fold(0.0, f64::max)
    };
    // A limit far above everything would press the curve flat: it is told beside the title then.
    let near = |limit: f64, points: &[(f64, Option<f64>)]| limit <= 4.0 * highest(points);
    let beside = |what: &str, limit: Option<(f64, String)>, points: &[(f64, Option<f64>)]| {
        let (value, text) = limit?;
        Some((value, format!("{what} {text}"), near(value, points)))
    };
    let limits = group.limits;
    let lines = |list: [Option<(f64, String, bool)>; 2]| {
        let (mut drawn, mut told) = (Vec::new(), String::new());
        for (n, (value, text, near)) in list.into_iter().flatten().enumerate() {
            if near {
                drawn.push((value, text, n == 0));
            } else {
                told.push_str(&format!(", {text}"));
            }
        }
        (drawn, told)
    };
    let (memory_lines, memory_told) = lines([
        beside("memory.max", limits.memory_max.map(|it| (it as f64, bytes(it))), &memory),
        beside("memory.high", limits.memory_high.map(|it| (it as f64, bytes(it))), &memory),
    ]);
    let (cpu_lines, cpu_told) = lines([
        beside("cpu.max", limits.cpu_max_percent.map(|it| (it, format!("{}%", short(it)))), &cpu),
        None,
    ]);
    let (tasks_lines, tasks_told) = lines([
        beside("pids.max", limits.pids_max.map(|it| (it as f64, it.to_string())), &tasks),
        None,
    ]);
    let top = |points: &[(f64, Option<f64>)], lines: &[(f64, String, bool)]| {
        lines.iter().map(|(value, ..)| value * 1.05).fold(highest(points), f64::max)
    };
    let memory_top = top(&memory, &memory_lines);
    let (unit, unit_name) = byte_unit(memory_top);
    let in_unit = |value: f64| format!("{} {unit_name}", short(value / unit));
    let in_percent = |value: f64| format!("{}%", short(value));
    let note = |text: String, told: String| format!("peak {text}{told}");
    html! {
        h2 { (clean(&group.path, 255)) }
        (Chart {
            kind: "memory", title: "Memory", points: &memory, end_ms, marks: &marks, limits: &memory_lines,
            note: note(bytes(highest(&memory) as u64), memory_told),
            axis: Axis::of(memory_top, unit), label: &in_unit,
        }.draw())
        (Chart {
            kind: "cpu", title: "CPU", points: &cpu, end_ms, marks: &marks, limits: &cpu_lines,
            note: note(in_percent(highest(&cpu).round()), cpu_told),
            axis: Axis::of(top(&cpu, &cpu_lines).max(100.0), 1.0), label: &in_percent,
        }.draw())
        (Chart {
            kind: "tasks", title: "Tasks", points: &tasks, end_ms, marks: &marks, limits: &tasks_lines,
            note: note(short(highest(&tasks)), tasks_told),
            axis: Axis::whole(top(&tasks, &tasks_lines)), label: &short,
        }.draw())
    }
}

/// Percent of one CPU, out of what was used until then.
fn rates(group: &GroupSeries, end_ms: f64) -> Vec<(f64, Option<f64>)> {
    let least = RATE_MS.max(end_ms / RATES);
    let mut rates: Vec<(f64, Option<f64>)> = Vec::new();
    let mut points = group.t_ms.iter().zip(&group.cpu_ns).map(|(ms, ns)| (*ms as f64, *ns as f64));
    let Some((mut since, mut used)) = points.next() else { return rates };
    let mut last = None;
    for (ms, ns) in points {
        last = Some((ms, ns));
        if ms - since >= least {
            let rate = ((ns - used) / 1e6 / (ms - since) * 100.0).max(0.0);
            if rates.is_empty() {
                rates.push((since, Some(rate)));
            }
            rates.push((ms, Some(rate)));
            (since, used) = (ms, ns);
            last = None;
        }
    }
    if let Some((ms, ns)) = last.filter(|(ms, _)| *ms > since) {
        let rate = ((ns - used) / 1e6 / (ms - since) * 100.0).max(0.0);
        // What is left is too short to say much, unless it is all there is.
        if rates.is_empty() {
            rates.extend([(since, Some(rate)), (ms, Some(rate))]);
        }
    }
    rates
}

/// Where events of this group are marked, those close together as one.
fn marks(group: &GroupSeries, all: &[SeriesEvent], end_ms: f64, first: bool) -> Vec<(f64, String)> {
    let close = end_ms * 0.02;
    let mut marks: Vec<(f64, usize, usize)> = Vec::new();
    let own = |event: &SeriesEvent| event.group == group.path || (first && event.group.is_empty());
    for (n, event) in all.iter().enumerate().filter(|(_, event)| own(event)) {
        let at = event.at_ms as f64;
        match marks.last_mut() {
            Some((since, _, to)) if at - *since < close => *to = n + 1,
            _ => marks.push((at, n + 1, n + 1)),
        }
    }
    let named = |(at, from, to)| {
        (at, if from == to { format!("{from}") } else { format!("{from}\u{2013}{to}") })
    };
    marks.into_iter().map(named).collect()
}

fn events(events: &[SeriesEvent], end_ms: f64) -> Markup {
    let row = |n: usize, event: &SeriesEvent| {
        html! {
            tr {
                td.n { (n + 1) }
                td { (moment(event.at_ms as f64, end_ms)) }
                td { b { (clean(&event.kind, 40)) } }
                td { (clean(&event.group, 255)) }
                td.what { (clean(&event.detail, COMMAND)) }
            }
        }
    };
    let table = |rows: Markup| {
        html! {
            table.events {
                thead { tr { th.n { "#" } th { "when" } th { "what" } th { "cgroup" } th { "" } } }
                tbody { (rows) }
            }
        }
    };
    html! {
        @if !events.is_empty() {
            h2 { "Events" }
            (table(html! { @for (n, event) in events.iter().enumerate().take(OPEN) { (row(n, event)) } }))
            @if events.len() > OPEN {
                details {
                    summary { (events.len() - OPEN) " more" }
                    (table(html! { @for (n, event) in events.iter().enumerate().skip(OPEN) { (row(n, event)) } }))
                }
            }
        }
    }
}

fn processes(series: &Series, end_ms: f64) -> Markup {
    // The heaviest are shown, in the order in which they began.
    let mut order: Vec<&ProcessSeries> = series.processes.iter().collect();
    let most =
        |of: fn(&ProcessSeries) -> u64| order.iter().map(|it| of(it)).max().unwrap_or(0).max(1);
    let (cpu, peak) = (most(|it| it.cpu_ns), most(|it| it.peak_bytes));
    let weight = |it: &ProcessSeries| {
        (it.cpu_ns as f64 / cpu as f64).max(it.peak_bytes as f64 / peak as f64)
    };
    order.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    let rest = order.split_off(order.len().min(OPEN));
    let several = series.groups.len() > 1;
    let by_start = |mut list: Vec<&ProcessSeries>, most: usize| {
        list.sort_by_key(|it| (it.started_ms, it.pid));
        html! {
            table.processes {
                thead {
                    tr { th.n { "pid" } th { "command" } th { "lifetime" } th.n { "CPU" } th.n { "peak" } }
                }
                tbody { @for it in list { (process(it, end_ms, several, most)) } }
            }
        }
    };
    html! {
        @if !series.processes.is_empty() {
            h2 { "Processes" }
            @if series.truncated { p.warn { "There were more events or processes than are kept." } }
            @if !rest.is_empty() {
                p.dim { "The " (OPEN) " with the most CPU time or memory, of " (series.processes.len()) "." }
            }
            (by_start(order, COMMAND))
            @if !rest.is_empty() {
                details { summary { (rest.len()) " more" } (by_start(rest, FOLDED)) }
            }
        }
    }
}

fn process(it: &ProcessSeries, end_ms: f64, several: bool, most: usize) -> Markup {
    let (from, to) = (it.started_ms as f64, it.ended_ms.map_or(end_ms, |ms| ms as f64));
    let percent = |ms: f64| (ms / end_ms * 100.0).clamp(0.0, 100.0);
    let (left, width) = (percent(from), percent(to) - percent(from));
    let bar = format!("left:{}%;width:{}%", short(left), short(width.max(0.0)));
    let told = format!("{} to {}", moment(from, end_ms), moment(to, end_ms));
    html! {
        tr {
            td.n { (it.pid) }
            td.what {
                code { (clean(&words_of(&it.cmdline), most)) }
                @if several { " " span.class { (clean(&it.group, 255)) } }
            }
            td.when { div.life title=(told) { u style=(bar) {} } }
            td.n { (duration(it.cpu_ns)) }
            td.n { (bytes(it.peak_bytes)) }
        }
    }
}

/// A command line as a shell would take it, roughly: words with spaces in quotes.
fn words_of(words: &[String]) -> String {
    let quoted = |word: &String| {
        if word.is_empty() || word.contains(char::is_whitespace) {
            format!("'{word}'")
        } else {
            word.clone()
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// At most so many characters, none of which does anything but look like itself: no controls, and
/// no marks that turn the direction of reading.
fn clean(text: &str, most: usize) -> String {
    let mut clean: String = text
        .chars()
        .take(most)
        .map(|c| match c {
            '\n' | '\t' => ' ',
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                '\u{fffd}'
            }
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    if text.chars().nth(most).is_some() {
        clean.push('\u{2026}');
    }
    clean
}

#[cfg(test)]
mod tests {
    use cgrove_host::series::SeriesLimits;

    use super::*;

    /// A report as a run would give it, with hostile names.
    fn sample(processes: u64) -> Report {
        let evil = "<script>alert(1)</script>\u{1b}[2J\u{202e}\"'&";
        let process = |n: u64| ProcessSeries {
            pid: 100 + n as i32,
            ppid: 1,
            group: "/demo".to_owned(),
            cmdline: vec![format!("{evil}{n}"), "x".repeat(5000)],
            started_ms: n,
            ended_ms: (!n.is_multiple_of(3)).then_some(n + 400),
            cpu_ns: n * 1_000_000,
            peak_bytes: n << 20,
        };
        let events = ["throttle", "memory.max", "oom-kill"].map(|kind| SeriesEvent {
            at_ms: 900,
            group: "/demo".to_owned(),
            kind: kind.to_owned(),
            detail: evil.to_owned(),
        });
        let group = GroupSeries {
            path: "/demo".to_owned(),
            limits: SeriesLimits { memory_max: Some(200 << 20), ..SeriesLimits::default() },
            t_ms: (0..100).map(|n| n * 10).collect(),
            memory_bytes: (0..100).map(|n| (n != 50).then_some(n << 21)).collect(),
            cpu_ns: (0..100).map(|n| n * 15_000_000).collect(),
            tasks: (0..100).map(|n| 1 + n % 7).collect(),
        };
        let json = serde_json::json!({
            "version": 1, "name": "demo", "command": ["sh", "-c", evil], "pid": 7,
            "backend": "gate", "backend_reason": "it works",
            "exit": {"code": null, "signal": 9, "status": 137}, "reason": "memory-max",
            "exec_error": null,
            "limits": {"pids_max": 64, "memory_max": 209715200, "timeout_ms": 1000, "kill_grace_ms": 0},
            "pids_max": {"hits": 0, "where": null}, "wall_ns": 1_000_000_000_u64,
            "cpu": {"user_ns": 1_400_000_000_u64, "system_ns": 100_000_000, "class": "exact", "note": null},
            "tasks": {"peak": 7, "at_most": 9, "class": "exact"},
            "forks": {"count": 8, "refused": 0, "class": "exact"},
            "left_behind": {"killed": 0, "processes": [], "passes": 0, "truncated": false, "class": "exact"},
            "classes": {"pids": "exact", "kill": "exact"}, "warnings": [evil],
        });
        let mut report: Report = serde_json::from_value(json).unwrap();
        report.series = Some(Series {
            groups: vec![group],
            events: events.to_vec(),
            processes: (0..processes).map(process).collect(),
            truncated: false,
        });
        report
    }

    #[test]
    fn hostile_text_stays_text() {
        let page = render(&sample(5));
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert!(!page.contains(['\u{1b}', '\u{202e}']));
        // Nothing is fetched: no address but those of the drawing's own parts.
        for word in ["http:", "https:", "src=", "@import", "url(", "javascript"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn everything_is_told() {
        let page = render(&sample(5));
        for word in [
            "killed for memory",
            "Peak memory",
            "memory.max 200 MiB",
            "7 to 9",
            "oom-kill",
            "100 MiB",
            "150%",
            "limit 64",
            ">exact<",
        ] {
            assert!(page.contains(word), "{word}: {page}");
        }
        // Three events at one moment are one mark, on each of three drawings.
        assert_eq!(page.matches("class=\"flag\"").count(), 3);
        assert_eq!(page.matches("1\u{2013}3").count(), 3);
    }

    #[test]
    fn four_thousand_processes_are_folded_and_fit() {
        let page = render(&sample(4096));
        assert!(page.len() < 2_000_000, "{}", page.len());
        let (open, folded) = page.split_once("<details>").unwrap();
        assert_eq!(open.matches("class=\"life\"").count(), OPEN);
        assert_eq!(folded.matches("class=\"life\"").count(), 4096 - OPEN);
        // The heaviest are those that began last here.
        assert!(open.contains(">4195<"));
    }

    #[test]
    fn a_report_without_series_is_a_page_too() {
        let mut report = sample(0);
        report.series = None;
        let page = render(&report);
        assert!(page.contains("No curves were kept") && page.contains("killed for memory"));
    }

    #[test]
    fn a_page_that_cannot_be_written_is_refused_before() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Page::prepare(&dir.path().join("no/page.html")).is_err());
        assert!(Page::prepare(dir.path()).is_err());
        let path = dir.path().join("page.html");
        let page = Page::prepare(&path).unwrap();
        assert!(!path.exists());
        page.write(&sample(1)).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("</html>"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
