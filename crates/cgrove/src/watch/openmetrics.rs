//! Runs as OpenMetrics 1.0 text, which Prometheus and its kin read.
//!
//! All figures come from the interface files of the runs' cgroups, so a family has samples where the
//! run has the file. Nothing is counted here: a counter is the cgroup's own, and a limit that is
//! not set has no sample. The text is written by hand, because a library for it would want to own
//! the counters.

use std::fmt::Write;

use cgrove_host::snapshot::{Group, Snapshot};

/// The content type that goes with it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a family is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
}

/// Where the values of a family come from.
#[derive(Clone, Copy)]
enum Source {
    /// A file's only value.
    Single(&'static str),
    /// The value behind a key of a file.
    Keyed(&'static str, &'static str),
    /// The same, in microseconds; the family is in seconds.
    Micro(&'static str, &'static str),
    /// How many CPUs `cpu.max` is worth.
    CpuMax,
    /// The cgroup's own processes.
    Processes,
}

struct Family {
    name: &'static str,
    unit: &'static str,
    kind: Kind,
    source: Source,
    help: &'static str,
}

const fn gauge(name: &'static str, source: Source, help: &'static str) -> Family {
    Family { name, unit: "", kind: Kind::Gauge, source, help }
}

const fn counter(name: &'static str, source: Source, help: &'static str) -> Family {
    Family { name, unit: "", kind: Kind::Counter, source, help }
}

const fn bytes(name: &'static str, file: &'static str, help: &'static str) -> Family {
    Family { name, unit: "bytes", kind: Kind::Gauge, source: Source::Single(file), help }
}

const fn seconds(name: &'static str, key: &'static str, help: &'static str) -> Family {
    let source = Source::Micro("cpu.stat", key);
    Family { name, unit: "seconds", kind: Kind::Counter, source, help }
}

/// Per cgroup, each with the cgroups below it, except the processes.
const FAMILIES: [Family; 23] = [
    gauge("cgrove_processes", Source::Processes, "Processes in the cgroup itself."),
    gauge("cgrove_tasks", Source::Single("pids.current"), "Tasks: processes and threads."),
    gauge("cgrove_tasks_peak", Source::Single("pids.peak"), "Most tasks so far."),
    gauge("cgrove_tasks_limit", Source::Single("pids.max"), "The task limit, where there is one."),
    counter(
        "cgrove_fork_refusals",
        Source::Keyed("pids.events", "max"),
        "Forks refused by the task limit of the cgroup or one below.",
    ),
    bytes("cgrove_memory_bytes", "memory.current", "Memory in use."),
    bytes("cgrove_memory_peak_bytes", "memory.peak", "Most memory in use so far."),
    bytes("cgrove_memory_limit_bytes", "memory.max", "The memory limit, where there is one."),
    bytes("cgrove_memory_high_bytes", "memory.high", "The soft memory limit, where there is one."),
    bytes("cgrove_swap_bytes", "memory.swap.current", "Swap in use."),
    counter(
        "cgrove_memory_limit_hits",
        Source::Keyed("memory.events", "max"),
        "How often memory reached its limit.",
    ),
    counter(
        "cgrove_memory_high_hits",
        Source::Keyed("memory.events", "high"),
        "How often memory passed its soft limit.",
    ),
    counter(
        "cgrove_oom_kills",
        Source::Keyed("memory.events", "oom_kill"),
        "Processes killed for memory.",
    ),
    seconds("cgrove_cpu_seconds", "usage_usec", "CPU time."),
    seconds("cgrove_cpu_user_seconds", "user_usec", "CPU time in user mode."),
    seconds("cgrove_cpu_system_seconds", "system_usec", "CPU time in the kernel."),
    seconds("cgrove_cpu_throttled_seconds", "throttled_usec", "Time halted by the CPU limit."),
    counter(
        "cgrove_cpu_periods",
        Source::Keyed("cpu.stat", "nr_periods"),
        "Periods of the CPU limit.",
    ),
    counter(
        "cgrove_cpu_throttled_periods",
        Source::Keyed("cpu.stat", "nr_throttled"),
        "Periods in which the CPU limit halted the cgroup.",
    ),
    gauge("cgrove_cpu_limit_cpus", Source::CpuMax, "The CPU limit in CPUs, where there is one."),
    gauge("cgrove_cpu_weight", Source::Single("cpu.weight"), "The CPU weight."),
    gauge(
        "cgrove_populated",
        Source::Keyed("cgroup.events", "populated"),
        "1 if the cgroup or one below has processes.",
    ),
    gauge("cgrove_frozen", Source::Keyed("cgroup.events", "frozen"), "1 if the cgroup is frozen."),
];

impl Source {
    fn value(self, group: &Group) -> Option<String> {
        match self {
            Source::Single(file) => group.number(file).map(|value| value.to_string()),
            Source::Keyed(file, key) => group.field(file, key).map(|value| value.to_string()),
            Source::Micro(file, key) => group
                .field(file, key)
                .map(|micro| format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)),
            Source::CpuMax => group.cpus().map(|cpus| cpus.to_string()),
            Source::Processes => Some(group.pids.len().to_string()),
        }
    }
}

/// These runs, in one text.
pub fn text(runs: &[&Snapshot]) -> String {
    let mut text = String::new();
    head(&mut text, "cgrove_run", "info", "", "A live run.");
    for run in runs {
        let (name, backend) = (escaped(&run.name), run.backend.name());
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(
            text,
            "cgrove_run_info{{run=\"{name}\",backend=\"{backend}\",version=\"{version}\"}} 1"
        );
    }
    let help = "How long the run has lasted.";
    head(&mut text, "cgrove_run_duration_seconds", "gauge", "seconds", help);
    for run in runs {
        let (whole, nanos) = (run.wall_ns / 1_000_000_000, run.wall_ns % 1_000_000_000);
        let name = escaped(&run.name);
        let _ = writeln!(text, "cgrove_run_duration_seconds{{run=\"{name}\"}} {whole}.{nanos:09}");
    }
    let help = "1 if the run has more cgroups or processes than are told about.";
    head(&mut text, "cgrove_run_truncated", "gauge", "", help);
    for run in runs {
        let (name, truncated) = (escaped(&run.name), u8::from(run.truncated));
        let _ = writeln!(text, "cgrove_run_truncated{{run=\"{name}\"}} {truncated}");
    }
    for family in &FAMILIES {
        let (kind, suffix) = match family.kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
        };
        let mut begun = false;
        for run in runs {
            for group in &run.groups {
                let Some(value) = family.source.value(group) else { continue };
                if !begun {
                    head(&mut text, family.name, kind, family.unit, family.help);
                    begun = true;
                }
                let (name, path) = (escaped(&run.name), escaped(&group.path));
                let slash = if path.is_empty() { "" } else { "/" };
                let _ = writeln!(
                    text,
                    "{}{suffix}{{run=\"{name}\",cgroup=\"/{name}{slash}{path}\"}} {value}",
                    family.name
                );
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn head(text: &mut String, name: &str, kind: &str, unit: &str, help: &str) {
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if !unit.is_empty() {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let _ = writeln!(text, "# HELP {name} {help}");
}

/// A label's value.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::watch::figures::tests::snapshot;

    fn full() -> Snapshot {
        let files = [
            ("pids.current", "2"),
            ("pids.peak", "9"),
            ("pids.max", "64"),
            ("pids.events", "max 7"),
            ("memory.current", "4096"),
            ("memory.peak", "8192"),
            ("memory.max", "max"),
            ("memory.high", "1048576"),
            ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4"),
            ("cpu.stat", "usage_usec 1500001\nuser_usec 7\nsystem_usec 0\nnr_periods 4"),
            ("cpu.max", "150000 100000"),
            ("cgroup.events", "populated 1\nfrozen 0"),
        ];
        let mut run = snapshot(1_500_000_000, &files);
        let mut inner = run.groups[0].clone();
        inner.path = "in\\ner\"".to_owned();
        inner.files.insert("cpu.max".to_owned(), "max 100000".to_owned());
        run.groups.push(inner);
        run
    }

    #[test]
    fn figures_come_with_their_units() {
        let text = text(&[&full()]);
        for line in [
            "# TYPE cgrove_cpu_seconds counter\n# UNIT cgrove_cpu_seconds seconds\n",
            "cgrove_cpu_seconds_total{run=\"demo\",cgroup=\"/demo\"} 1.500001\n",
            "cgrove_run_duration_seconds{run=\"demo\"} 1.500000000\n",
            "cgrove_tasks_limit{run=\"demo\",cgroup=\"/demo/in\\\\ner\\\"\"} 64\n",
            "cgrove_cpu_limit_cpus{run=\"demo\",cgroup=\"/demo\"} 1.5\n",
            "cgrove_oom_kills_total{run=\"demo\",cgroup=\"/demo\"} 4\n",
            "cgrove_memory_high_bytes{run=\"demo\",cgroup=\"/demo\"} 1048576\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        // `max` is no number; what has no file has no family.
        assert_eq!(text.matches("cgrove_cpu_limit_cpus{").count(), 1);
        assert!(!text.contains("cgrove_memory_limit_bytes") && !text.contains("swap"), "{text}");
    }

    /// The rules of OpenMetrics 1.0 that concern us, checked by a reader of its own.
    #[test]
    fn the_text_is_well_formed() {
        let mut other = full();
        other.name = "b".to_owned();
        for runs in [vec![], vec![&full()], vec![&full(), &other]] {
            let text = text(&runs);
            let (body, end) = text.split_once("# EOF").expect("an end");
            assert_eq!(end, "\n");
            let mut families = BTreeMap::new();
            let mut now = "";
            let mut seen = BTreeSet::new();
            for line in body.lines() {
                if let Some(meta) = line.strip_prefix("# ") {
                    let words: Vec<&str> = meta.splitn(3, ' ').collect();
                    if words[0] == "TYPE" {
                        assert!(families.insert(words[1], words[2]).is_none(), "twice: {line}");
                        now = words[1];
                    }
                    assert_eq!(words[1], now, "metadata between: {line}");
                    if words[0] == "UNIT" {
                        assert!(now.ends_with(&format!("_{}", words[2])), "{line}");
                    }
                    continue;
                }
                let (series, value) = line.rsplit_once(' ').expect("a value");
                value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
                assert!(seen.insert(series), "twice: {line}");
                let name = series.split('{').next().unwrap();
                let suffix = match families[now] {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                assert_eq!(name, format!("{now}{suffix}"), "{line}");
            }
        }
    }
}
