//! Rows out of samples: rates, history, order, what is open, what is selected. No terminal in here.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::sample::{GroupSample, Sample};

/// Points of a sparkline: one a second.
pub const HISTORY: usize = 60;

/// What rows are sorted by, among siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Cpu,
    Memory,
    Tasks,
    Name,
}

impl Sort {
    pub fn name(self) -> &'static str {
        match self {
            Sort::Cpu => "cpu",
            Sort::Memory => "memory",
            Sort::Tasks => "tasks",
            Sort::Name => "name",
        }
    }

    pub fn next(self) -> Sort {
        match self {
            Sort::Cpu => Sort::Memory,
            Sort::Memory => Sort::Tasks,
            Sort::Tasks => Sort::Name,
            Sort::Name => Sort::Cpu,
        }
    }
}

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Group(String),
    Process(i32, u64),
}

/// A line of the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub key: Key,
    pub depth: usize,
    pub name: String,
    /// `None`: nothing below it.
    pub open: Option<bool>,
    pub tasks: Option<u64>,
    pub tasks_max: Option<u64>,
    pub memory: Option<u64>,
    pub memory_max: Option<u64>,
    /// Summed resident sets, which count shared pages twice.
    pub memory_is_rss: bool,
    /// CPUs' worth in use; `None` with a single sample.
    pub cpus: Option<f64>,
    pub cpus_max: Option<f64>,
    pub frozen: bool,
    pub refused: u64,
    pub oom_kills: u64,
    /// Of a process.
    pub state: Option<char>,
}

/// What the keys mean just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    Browse,
    Help,
    /// The filter is typed.
    Filter,
    /// Kill that cgroup?
    Confirm(String),
}

/// Everything that is shown.
#[derive(Debug)]
pub struct Model {
    sample: Option<Sample>,
    /// CPU by row: what it had used at the last sample, and its rates since.
    before: HashMap<Key, u64>,
    rates: HashMap<Key, f64>,
    history: HashMap<String, VecDeque<f64>>,
    last: Option<Instant>,
    rows: Vec<Row>,
    /// Cgroups whose processes are shown.
    open: HashSet<String>,
    /// Cgroups of which nothing is shown but themselves.
    shut: HashSet<String>,
    all_open: bool,
    selected: Option<Key>,
    pub sort: Sort,
    pub filter: String,
    pub mode: Mode,
    pub paused: bool,
    message: Option<String>,
}

impl Model {
    pub fn new() -> Model {
        Model {
            sample: None,
            before: HashMap::new(),
            rates: HashMap::new(),
            history: HashMap::new(),
            last: None,
            rows: Vec::new(),
            open: HashSet::new(),
            shut: HashSet::new(),
            all_open: false,
            selected: None,
            sort: Sort::Cpu,
            filter: String::new(),
            mode: Mode::Browse,
            paused: false,
            message: None,
        }
    }

    /// Processes are shown everywhere.
    pub fn expand_all(&mut self) {
        self.all_open = true;
    }

    /// Takes a sample in.
    pub fn update(&mut self, sample: Sample) {
        if self.paused && self.sample.is_some() {
            return;
        }
        self.measure(&sample);
        if let Some(trouble) = &sample.trouble {
            self.message = Some(trouble.clone());
        }
        self.sample = Some(sample);
        self.arrange();
    }

    /// Something to be told below the rows until the next key.
    pub fn say(&mut self, line: String) {
        self.message = Some(line);
    }

    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    pub fn hush(&mut self) {
        self.message = None;
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Nothing was seen yet.
    pub fn is_new(&self) -> bool {
        self.sample.is_none()
    }

    /// The rates of a cgroup, oldest first.
    pub fn history(&self, path: &str) -> impl DoubleEndedIterator<Item = f64> + '_ {
        self.history.get(path).into_iter().flatten().copied()
    }

    /// The selected row's index.
    pub fn selected(&self) -> usize {
        let at = |key: &Key| self.rows.iter().position(|row| row.key == *key);
        self.selected.as_ref().and_then(at).unwrap_or(0)
    }

    pub fn selected_row(&self) -> Option<&Row> {
        self.rows.get(self.selected())
    }

    /// Moves the selection by so many rows.
    pub fn step(&mut self, by: isize) {
        let last = self.rows.len().saturating_sub(1);
        let to = self.selected().saturating_add_signed(by).min(last);
        self.selected = self.rows.get(to).map(|row| row.key.clone());
    }

    /// Shows more (`true`) or less of the selected cgroup: first its children, then its processes.
    pub fn unfold(&mut self, more: bool) {
        let Some(Row { key, .. }) = self.selected_row() else { return };
        let path = match key {
            Key::Group(path) => path.clone(),
            // Less of a process is its cgroup.
            Key::Process(..) if !more => {
                let at = self.selected();
                let parent = self.rows[..at].iter().rev().find(|r| matches!(r.key, Key::Group(_)));
                self.selected = parent.map(|row| row.key.clone());
                return;
            }
            Key::Process(..) => return,
        };
        if more {
            if !self.shut.remove(&path) {
                self.open.insert(path);
            }
        } else if !self.open.remove(&path) {
            self.shut.insert(path);
        }
        self.arrange();
    }

    /// Whether the selected cgroup shows its processes.
    pub fn shows_processes(&self) -> bool {
        match self.selected_row().map(|row| &row.key) {
            Some(Key::Group(path)) => !self.shut.contains(path) && self.open.contains(path),
            _ => false,
        }
    }

    pub fn set_sort(&mut self, sort: Sort) {
        self.sort = sort;
        self.arrange();
    }

    pub fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.arrange();
    }

    /// All tasks, all CPUs in use, all memory: of the runs' own cgroups.
    pub fn totals(&self) -> (usize, u64, f64, u64) {
        let runs = self.rows.iter().filter(|row| row.depth == 0);
        let mut total = (0, 0, 0.0, 0);
        for row in runs {
            total.0 += 1;
            total.1 += row.tasks.unwrap_or(0);
            total.2 += row.cpus.unwrap_or(0.0);
            total.3 += row.memory.unwrap_or(0);
        }
        total
    }

    /// Rates since the last sample.
    fn measure(&mut self, sample: &Sample) {
        let passed = self.last.map(|last| sample.at.saturating_duration_since(last));
        let seconds = passed.map_or(0.0, |passed| passed.as_secs_f64());
        let mut now = HashMap::new();
        let mut rates = HashMap::new();
        for group in sample.runs.iter().flatten() {
            for process in &group.processes {
                now.insert(Key::Process(process.pid, process.start), process.cpu_us);
            }
            if let Some(used) = group.cpu_us {
                now.insert(Key::Group(group.path.clone()), used);
            }
        }
        if seconds > 0.0 {
            for (key, used) in &now {
                // Who is new has used what it has since.
                let before = match key {
                    Key::Process(..) => self.before.get(key).copied().unwrap_or(0),
                    Key::Group(_) => match self.before.get(key) {
                        Some(before) => *before,
                        None => continue,
                    },
                };
                let micros = used.saturating_sub(before);
                rates.insert(key.clone(), micros as f64 / 1e6 / seconds);
            }
            // Where no file tells, the processes that are there do.
            for run in &sample.runs {
                for group in run.iter().filter(|group| group.cpu_us.is_none()) {
                    let below = run.iter().filter(|other| is_within(&other.path, &group.path));
                    let sum: f64 = below
                        .flat_map(|other| &other.processes)
                        .filter_map(|it| rates.get(&Key::Process(it.pid, it.start)))
                        .sum();
                    rates.insert(Key::Group(group.path.clone()), sum);
                }
            }
            for group in sample.runs.iter().flatten() {
                let Some(rate) = rates.get(&Key::Group(group.path.clone())) else { continue };
                let points = self.history.entry(group.path.clone()).or_default();
                if points.len() == HISTORY {
                    points.pop_front();
                }
                points.push_back(*rate);
            }
        }
        let there: HashSet<&str> =
            sample.runs.iter().flatten().map(|group| group.path.as_str()).collect();
        self.history.retain(|path, _| there.contains(path.as_str()));
        self.before = now;
        self.rates = rates;
        self.last = Some(sample.at);
    }

    /// The rows anew.
    fn arrange(&mut self) {
        let mut rows = Vec::new();
        let at = self.selected();
        if let Some(sample) = &self.sample {
            let mut runs: Vec<(Row, &Vec<GroupSample>)> = sample
                .runs
                .iter()
                .filter_map(|run| Some((self.group_row(run.first()?, run, 0), run)))
                .collect();
            runs.sort_by(|(a, _), (b, _)| self.order(a, b));
            for (row, run) in runs {
                self.add(row, run, &mut rows);
            }
        }
        if !self.filter.is_empty() {
            rows = filtered(rows, &self.filter);
        }
        self.rows = rows;
        // What was selected may be gone: its place is not. Whoever has selected nothing looks at
        // the first row, whichever that is.
        let gone = |key: &Key| !self.rows.iter().any(|row| row.key == *key);
        if self.selected.as_ref().is_some_and(gone) {
            let last = self.rows.len().saturating_sub(1);
            self.selected = self.rows.get(at.min(last)).map(|row| row.key.clone());
        }
    }

    fn add(&self, row: Row, run: &[GroupSample], rows: &mut Vec<Row>) {
        let Key::Group(path) = row.key.clone() else { return };
        let depth = row.depth + 1;
        rows.push(row);
        if self.shut.contains(&path) {
            return;
        }
        let mut below: Vec<Row> = run
            .iter()
            .filter(|group| group.path.rsplit_once('/').is_some_and(|(above, _)| above == path))
            .map(|group| self.group_row(group, run, depth))
            .collect();
        below.sort_by(|a, b| self.order(a, b));
        for row in below {
            self.add(row, run, rows);
        }
        if !self.all_open && !self.open.contains(&path) {
            return;
        }
        let own = run.iter().filter(|group| group.path == path).flat_map(|group| &group.processes);
        let mut processes: Vec<Row> = own
            .map(|process| {
                let key = Key::Process(process.pid, process.start);
                Row {
                    cpus: self.rates.get(&key).copied(),
                    key,
                    depth,
                    name: format!("{} {}", process.pid, printable(&process.command)),
                    open: None,
                    tasks: Some(process.threads),
                    tasks_max: None,
                    memory: Some(process.rss),
                    memory_max: None,
                    memory_is_rss: true,
                    cpus_max: None,
                    frozen: false,
                    refused: 0,
                    oom_kills: 0,
                    state: Some(process.state),
                }
            })
            .collect();
        processes.sort_by(|a, b| self.order(a, b));
        rows.append(&mut processes);
    }

    fn group_row(&self, group: &GroupSample, run: &[GroupSample], depth: usize) -> Row {
        let within = || run.iter().filter(|other| is_within(&other.path, &group.path));
        let key = Key::Group(group.path.clone());
        let rss: u64 = within().flat_map(|it| &it.processes).map(|process| process.rss).sum();
        let any = within().any(|it| !it.processes.is_empty()) || within().count() > 1;
        let opened = self.all_open || self.open.contains(&group.path);
        let children = within().count() > 1;
        Row {
            cpus: self.rates.get(&key).copied(),
            key,
            depth,
            name: printable(group.path.rsplit('/').next().unwrap_or_default()),
            open: any.then_some(!self.shut.contains(&group.path) && (opened || children)),
            tasks: group.tasks,
            tasks_max: group.tasks_max,
            memory: group.memory.or(Some(rss)),
            memory_max: group.memory_max,
            memory_is_rss: group.memory.is_none(),
            cpus_max: group.cpus_max,
            frozen: group.frozen,
            refused: group.refused,
            oom_kills: group.oom_kills,
            state: None,
        }
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let by = match self.sort {
            Sort::Cpu => b.cpus.unwrap_or(0.0).total_cmp(&a.cpus.unwrap_or(0.0)),
            Sort::Memory => b.memory.cmp(&a.memory),
            Sort::Tasks => b.tasks.cmp(&a.tasks),
            Sort::Name => Ordering::Equal,
        };
        by.then_with(|| a.name.cmp(&b.name))
    }
}

/// Whether a cgroup is another or below it.
fn is_within(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What matches, and what leads to it.
fn filtered(rows: Vec<Row>, filter: &str) -> Vec<Row> {
    let mut keep = vec![false; rows.len()];
    for at in (0..rows.len()).rev() {
        if !keep[at] && !rows[at].name.contains(filter) {
            continue;
        }
        keep[at] = true;
        let above = rows[..at].iter().rposition(|row| row.depth < rows[at].depth);
        if let Some(above) = above {
            keep[above] = true;
        }
    }
    rows.into_iter().zip(keep).filter_map(|(row, keep)| keep.then_some(row)).collect()
}

/// Names and command lines are whatever somebody chose: nothing of them may move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::sample::ProcessSample;
    use super::*;

    pub fn process(pid: i32, cpu_us: u64, rss: u64) -> ProcessSample {
        let command = format!("job-{pid} --all");
        ProcessSample { pid, start: 1, command, state: 'R', threads: 1, cpu_us, rss }
    }

    pub fn sample(at: Instant, cpu_us: u64) -> Sample {
        let group = |path: &str, tasks, processes| GroupSample {
            path: path.to_owned(),
            tasks: Some(tasks),
            tasks_max: Some(10),
            processes,
            ..GroupSample::default()
        };
        let run = vec![
            group("build", 3, vec![process(10, 0, 1 << 20)]),
            group("build/a", 1, vec![process(11, cpu_us, 5 << 20)]),
            group("build/b", 1, vec![process(12, cpu_us / 2, 9 << 20)]),
        ];
        let other = vec![group("idle", 1, vec![process(20, 0, 1 << 20)])];
        Sample { at, runs: vec![other, run], trouble: None }
    }

    fn names(model: &Model) -> Vec<String> {
        model.rows().iter().map(|row| row.name.clone()).collect()
    }

    fn two(model: &mut Model) {
        let begun = Instant::now();
        model.update(sample(begun, 0));
        model.update(sample(begun + Duration::from_secs(2), 2_000_000));
    }

    #[test]
    fn rates_add_up_and_decide_the_order() {
        let mut model = Model::new();
        two(&mut model);
        assert_eq!(names(&model), ["build", "a", "b", "idle"]);
        let cpus: Vec<_> = model.rows().iter().map(|row| row.cpus.unwrap()).collect();
        assert_eq!(cpus, [1.5, 1.0, 0.5, 0.0]);
        assert_eq!(model.history("build").collect::<Vec<_>>(), [1.5]);
        model.set_sort(Sort::Memory);
        assert_eq!(names(&model), ["build", "b", "a", "idle"]);
        let (runs, tasks, cpus, _) = model.totals();
        assert_eq!((runs, tasks, cpus), (2, 4, 1.5));
    }

    #[test]
    fn a_group_unfolds_in_two_steps_and_back() {
        let mut model = Model::new();
        two(&mut model);
        assert!(!model.shows_processes());
        model.unfold(true);
        assert_eq!(names(&model), ["build", "a", "b", "10 job-10 --all", "idle"]);
        model.unfold(false);
        model.unfold(false);
        assert_eq!(names(&model), ["build", "idle"]);
        model.unfold(true);
        assert_eq!(names(&model), ["build", "a", "b", "idle"]);
    }

    #[test]
    fn the_selection_follows_its_row() {
        let mut model = Model::new();
        two(&mut model);
        model.step(2);
        assert_eq!(model.selected_row().unwrap().name, "b");
        model.set_sort(Sort::Memory);
        assert_eq!(model.selected_row().unwrap().name, "b");
        model.step(-9);
        assert_eq!(model.selected(), 0);
        model.step(99);
        assert_eq!(model.selected_row().unwrap().name, "idle");
        // Its run ends: the selection stays where there is something.
        let mut less = sample(Instant::now(), 0);
        less.runs.remove(0);
        model.update(less);
        assert_eq!(model.selected_row().unwrap().name, "a");
    }

    #[test]
    fn a_filter_keeps_what_leads_to_a_match() {
        let mut model = Model::new();
        two(&mut model);
        model.expand_all();
        model.set_filter("job-11".to_owned());
        assert_eq!(names(&model), ["build", "a", "11 job-11 --all"]);
        model.set_filter("nothing".to_owned());
        assert!(names(&model).is_empty() && model.selected_row().is_none());
    }

    #[test]
    fn hostile_names_are_harmless() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
