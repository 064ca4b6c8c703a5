//! What the cgroup's files say at the end, in the fields of the report.
//!
//! The kernel counts and does not tell whom: it says how many it killed for memory and not which, so
//! a command that died of SIGKILL is taken for one of them only if cgrove did not kill it itself.

use super::InKernel;
use crate::options::Feature;
use crate::report::{Backend, Class, CpuMax, Measure, Reason, Report};
use crate::series::SeriesLimits;

impl InKernel {
    /// Puts what the kernel held and counted over what cgrove did.
    pub(crate) fn tell(&self, report: &mut Report) {
        report.backend = Some(Backend::Kernel);
        report.backend_reason = self.reason();
        if self.gives(Feature::Cpu) {
            self.tell_cpu_time(report);
        }
        if self.gives(Feature::CpuMax) {
            self.tell_bandwidth(report);
        }
        if self.gives(Feature::Memory) {
            self.tell_memory(report);
        }
        if self.gives(Feature::Pids) {
            self.tell_pids(report);
        }
        if self.holds("cpuset.cpus") {
            let text = self.group.read("cpuset.cpus").unwrap_or_default();
            report.limits.cpus = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        }
        self.tell_curves(report);
        if self.gives(Feature::Kill) {
            report.classes.kill = Class::Kernel;
        }
        if let Some(froze) = self.froze {
            report.classes.freeze = Some(report.classes.freeze.map_or(froze, |it| it.min(froze)));
        }
        if let Some(errno) = self.stuck {
            report.classes.kill = Class::Unknown;
            report.warnings.push(format!(
                "somebody is left in {}: {} ({errno:?})",
                self.group.dir().display(),
                errno.desc()
            ));
        }
        if let Some(why) = self.refused.as_ref().filter(|_| self.limits_left) {
            report.warnings.push(format!("cgrove itself holds what the kernel does not: {why}"));
        }
    }

    /// The curves come from looking; the limits drawn beside them are these.
    fn tell_curves(&self, report: &mut Report) {
        let own = format!("/{}", report.name);
        let groups = report.series.iter_mut().flat_map(|series| &mut series.groups);
        let Some(group) = groups.into_iter().find(|group| group.path == own) else { return };
        let limits = &report.limits;
        group.limits = SeriesLimits {
            memory_max: limits.memory_max,
            memory_high: limits.memory_high,
            cpu_max_percent: limits
                .cpu_max
                .map(|it| it.quota_us as f64 * 100.0 / it.period_us as f64),
            pids_max: limits.pids_max,
        };
    }

    fn tell_cpu_time(&self, report: &mut Report) {
        let ns = |key| self.group.number("cpu.stat", Some(key)).map(|us| us.saturating_mul(1000));
        if let (Some(user), Some(system)) = (ns("user_usec"), ns("system_usec")) {
            let cpu = &mut report.cpu;
            (cpu.user_ns, cpu.system_ns) = (user, system);
            (cpu.class, cpu.note) = (Class::Kernel, None);
        }
    }

    fn tell_bandwidth(&self, report: &mut Report) {
        let text = self.group.read("cpu.max").unwrap_or_default();
        report.limits.cpu_max = text.trim().split_once(' ').and_then(|(quota, period)| {
            Some(CpuMax { quota_us: quota.parse().ok()?, period_us: period.parse().ok()? })
        });
        let weight = self.group.number("cpu.weight", None);
        report.limits.cpu_weight = weight.filter(|weight| *weight != 100);
        let stat = |key| self.group.number("cpu.stat", Some(key));
        let limited = report.limits.cpu_max.is_some() || stat("nr_periods") > Some(0);
        let cpu = &mut report.cpu;
        cpu.periods = stat("nr_periods").filter(|_| limited);
        cpu.throttled_periods = stat("nr_throttled").filter(|_| limited);
        cpu.throttled_ns =
            stat("throttled_usec").filter(|_| limited).map(|us| us.saturating_mul(1000));
        cpu.limit_class = limited.then_some(Class::Kernel);
    }

    fn tell_memory(&self, report: &mut Report) {
        // A word, and so no number, is no limit.
        report.limits.memory_max = self.group.number("memory.max", None);
        report.limits.memory_high = self.group.number("memory.high", None);
        let memory = &mut report.memory;
        // Linux 5.19; before, what was seen by looking is all there is.
        if let Some(peak) = self.group.number("memory.peak", None) {
            memory.peak_bytes = Some(peak);
            memory.measure = Some(Measure::Kernel);
        }
        memory.class = Class::Kernel;
        let events = |key| self.group.number("memory.events", Some(key));
        (memory.max_hits, memory.high_hits) = (events("max"), events("high"));
        memory.oom_kill_count = events("oom_kill");
        let killed = memory.oom_kill_count.unwrap_or(0);
        if killed == 0 {
            return;
        }
        let by_kill = report.exit.signal == Some(libc::SIGKILL);
        if by_kill && report.reason == Reason::Signaled && !self.killed_command {
            report.reason = Reason::MemoryMax;
        }
        let processes = if killed == 1 { "1 process" } else { &format!("{killed} processes") };
        report.warnings.push(format!(
            "the kernel killed {processes} for memory; it does not tell which (its log may)"
        ));
    }

    fn tell_pids(&self, report: &mut Report) {
        report.limits.pids_max = self.group.number("pids.max", None);
        report.classes.pids = Class::Kernel;
        // Linux 6.11.
        if let Some(peak) = self.group.number("pids.peak", None) {
            report.tasks.peak = Some(peak);
            report.tasks.at_most = Some(peak);
            report.tasks.class = Class::Kernel;
        }
        let Some(hits) = self.group.number("pids.events", Some("max")) else { return };
        report.pids_max.hits = Some(hits);
        report.pids_max.place = (hits > 0).then(|| format!("/{}", report.name));
        // Beside the gate: what that refused while everything was being killed.
        report.forks.refused = Some(hits.saturating_add(report.forks.refused.unwrap_or(0)));
        if hits > 0
            && report.exit.status != 0
            && matches!(report.reason, Reason::Exited | Reason::Signaled)
        {
            report.reason = Reason::PidsMax;
        }
    }
}
