//! What a line of progress says.
//!
//! The figures are those of the run's own cgroup, from its interface files. What has no file is not
//! measured, and not shown.

use std::time::Duration;

use cgrove_host::snapshot::Snapshot;

/// Remembers what a rate is measured against.
#[derive(Default)]
pub struct Meter {
    last: Option<Figures>,
    /// Wall time and CPU time of the answer before, in nanoseconds.
    before: (u64, u64),
}

struct Figures {
    tasks: Option<u64>,
    tasks_max: Option<u64>,
    memory: Option<u64>,
    memory_max: Option<u64>,
    cpu_percent: Option<u64>,
    refused: u64,
    frozen: bool,
}

impl Meter {
    /// Takes in an answer; without one there are no figures until the next.
    pub fn read(&mut self, snapshot: Option<&Snapshot>) {
        self.last = snapshot.and_then(|snapshot| {
            let group = snapshot.groups.first()?;
            let cpu = group.field("cpu.stat", "usage_usec").map(|usec| usec.saturating_mul(1000));
            let cpu_percent = cpu.and_then(|cpu| {
                let (wall_before, cpu_before) = self.before;
                let wall = snapshot.wall_ns.checked_sub(wall_before).filter(|wall| *wall > 0)?;
                self.before = (snapshot.wall_ns, cpu);
                let percent = 100.0 * cpu.saturating_sub(cpu_before) as f64 / wall as f64;
                Some(percent.round() as u64)
            });
            Some(Figures {
                tasks: group.number("pids.current"),
                tasks_max: group.number("pids.max"),
                memory: group.number("memory.current"),
                memory_max: group.number("memory.max"),
                cpu_percent,
                refused: group.field("pids.events", "max").unwrap_or(0),
                frozen: group.field("cgroup.events", "frozen") == Some(1),
            })
        });
    }

    /// The parts of the line, the most important first.
    pub fn items(&self, elapsed: Duration, timeout: Option<Duration>) -> Vec<String> {
        let mut items = vec![of(time(elapsed), timeout.map(time))];
        let Some(figures) = &self.last else { return items };
        if let Some(tasks) = figures.tasks {
            let noun = if tasks == 1 && figures.tasks_max.is_none() { "task" } else { "tasks" };
            items.push(format!("{} {noun}", of(tasks.to_string(), number(figures.tasks_max))));
        }
        if let Some(memory) = figures.memory {
            items.push(of(bytes(memory), figures.memory_max.map(bytes)));
        }
        if let Some(percent) = figures.cpu_percent {
            items.push(format!("cpu {percent}%"));
        }
        if figures.refused > 0 {
            items.push(format!("{} refused", figures.refused));
        }
        if figures.frozen {
            items.push("frozen".to_owned());
        }
        items
    }
}

fn number(of: Option<u64>) -> Option<String> {
    of.map(|number| number.to_string())
}

fn of(now: String, most: Option<String>) -> String {
    match most {
        Some(most) => format!("{now} of {most}"),
        None => now,
    }
}

/// `9s`, `3m05s`, `1h00m09s`.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) if time.subsec_millis() > 0 && seconds < 1 => {
            format!("{}ms", time.subsec_millis())
        }
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest:02}s"),
        _ => format!("{hours}h{minutes:02}m{rest:02}s"),
    }
}

/// In three digits and a power of 1024: `998 B`, `1.21 GiB`.
fn bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter();
    let mut unit = units.next().unwrap_or(&"KiB");
    while value >= 999.5
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    let text = format!("{value:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use cgrove_host::report::Backend;
    use cgrove_host::snapshot::Group;

    use super::*;

    /// A run whose own cgroup has these files.
    pub fn snapshot(wall_ns: u64, files: &[(&str, &str)]) -> Snapshot {
        let own = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
        let files: BTreeMap<_, _> = files.iter().map(own).collect();
        let group = Group { path: String::new(), files, pids: vec![1, 2] };
        Snapshot {
            name: "demo".to_owned(),
            backend: Backend::Gate,
            wall_ns,
            groups: vec![group],
            truncated: false,
        }
    }

    fn said(meter: &Meter, timeout: Option<u64>) -> String {
        meter.items(Duration::from_secs(65), timeout.map(Duration::from_secs)).join(", ")
    }

    #[test]
    fn what_has_a_file_is_shown_beside_its_limit() {
        let mut meter = Meter::default();
        assert_eq!(said(&meter, None), "1m05s");
        let mut files = vec![("pids.current", "1"), ("pids.max", "max"), ("pids.events", "max 0")];
        meter.read(Some(&snapshot(1_000_000_000, &files)));
        assert_eq!(said(&meter, Some(600)), "1m05s of 10m00s, 1 task");
        files = vec![
            ("pids.current", "1"),
            ("pids.max", "64"),
            ("pids.events", "max 3"),
            ("memory.current", "126877696"),
            ("memory.max", "209715200"),
            ("cpu.stat", "usage_usec 500000\nuser_usec 1\nsystem_usec 2"),
            ("cgroup.events", "populated 1\nfrozen 1"),
        ];
        meter.read(Some(&snapshot(1_000_000_000, &files)));
        assert_eq!(
            said(&meter, None),
            "1m05s, 1 of 64 tasks, 121 MiB of 200 MiB, cpu 50%, 3 refused, frozen"
        );
        // From then on it is the rate since the last look.
        files[5].1 = "usage_usec 2500000";
        meter.read(Some(&snapshot(2_000_000_000, &files)));
        assert!(said(&meter, None).contains("cpu 200%"), "{}", said(&meter, None));
        meter.read(None);
        assert_eq!(said(&meter, None), "1m05s");
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1 KiB"),
            (10_000, "9.77 KiB"),
            (1_023_999, "0.98 MiB"),
            (2 << 30, "2 GiB"),
            (1_300_000_000, "1.21 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in
            [(500, "500ms"), (9_900, "9s"), (185_000, "3m05s"), (3_609_000, "1h00m09s")]
        {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
    }
}
