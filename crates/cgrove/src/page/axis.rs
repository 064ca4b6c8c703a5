//! Ticks at round numbers, and figures in units that people read.

/// From 0 to a round number above the highest value, in round steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Where the axis ends.
    pub top: f64,
    /// Where lines are drawn, 0 included.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// For values up to `highest`, in steps that are round as multiples of `unit`.
    pub fn of(highest: f64, unit: f64) -> Axis {
        let highest = if highest > 0.0 { highest } else { unit };
        let rough = highest / unit / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
        let step = steps.iter().map(|step| step * power).find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power) * unit;
        let count = (highest / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|n| f64::from(n) * step).collect();
        Axis { top: count * step, ticks }
    }

    /// Tasks and the like: whole numbers only.
    pub fn whole(highest: f64) -> Axis {
        let mut axis = Axis::of(highest.max(2.0), 1.0);
        axis.ticks.retain(|tick| tick.fract() == 0.0);
        axis
    }

    /// Milliseconds up to exactly `end`.
    pub fn time(end: f64) -> Axis {
        const STEPS: [f64; 26] = [
            1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3, 15e3, 30e3,
            60e3, 120e3, 300e3, 600e3, 900e3, 1800e3, 3600e3, 7200e3, 21600e3, 43200e3, 86400e3,
        ];
        let end = end.max(1.0);
        let day = 86_400e3;
        let step = STEPS.into_iter().find(|step| end / step <= 6.0);
        let step = step.unwrap_or_else(|| (end / 6.0 / day).ceil() * day);
        let ticks = (0..=(end / step) as u32).map(|n| f64::from(n) * step).collect();
        Axis { top: end, ticks }
    }
}

/// The unit that so many bytes are told in.
pub fn byte_unit(bytes: f64) -> (f64, &'static str) {
    const UNITS: [(f64, &str); 5] = [
        (1_099_511_627_776.0, "TiB"),
        (1_073_741_824.0, "GiB"),
        (1_048_576.0, "MiB"),
        (1024.0, "KiB"),
        (1.0, "B"),
    ];
    UNITS.into_iter().find(|(size, _)| bytes >= *size).unwrap_or((1.0, "B"))
}

/// 812 KiB, 1.5 MiB, 23.4 GiB.
pub fn bytes(bytes: u64) -> String {
    let (size, unit) = byte_unit(bytes as f64);
    format!("{} {unit}", short(bytes as f64 / size))
}

/// Of nanoseconds: 340 ms, 12.5 s, 3 min 20 s.
pub fn duration(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    match ns / 1_000_000_000 {
        0 if ms < 1.0 => format!("{} µs", short(ms * 1e3)),
        0 => format!("{} ms", short(ms)),
        1..60 => format!("{} s", short(ms / 1e3)),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A moment on the time axis.
pub fn moment(ms: f64, end: f64) -> String {
    if end < 2000.0 {
        return format!("{} ms", short(ms));
    }
    let seconds = (ms / 1e3) as u64;
    if end < 120e3 {
        return format!("{} s", short(ms / 1e3));
    }
    if seconds < 3600 {
        return format!("{}:{:02}", seconds / 60, seconds % 60);
    }
    format!("{}:{:02}:{:02}", seconds / 3600, seconds % 3600 / 60, seconds % 60)
}

/// At most three digits that matter.
pub fn short(value: f64) -> String {
    let text = match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let axis = Axis::of(209_715_200.0, 1_048_576.0);
        let ticks: Vec<f64> = axis.ticks.iter().map(|tick| tick / 1_048_576.0).collect();
        assert_eq!(ticks, [0.0, 50.0, 100.0, 150.0, 200.0]);
        assert_eq!(Axis::of(1.3, 1.0).ticks, [0.0, 0.5, 1.0, 1.5]);
        assert_eq!(Axis::of(0.0, 1.0).top, 1.0);
        assert_eq!(Axis::whole(1.0).ticks, [0.0, 1.0, 2.0]);
        assert_eq!(Axis::time(4200.0).ticks, [0.0, 1e3, 2e3, 3e3, 4e3]);
        assert!(Axis::time(1e12).ticks.len() <= 7);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 1536, 200 << 20].map(bytes), ["0 B", "1.5 KiB", "200 MiB"]);
        let all = [950_000, 340_000_000, 12_500_000_000, 200_000_000_000, 7_260_000_000_000];
        assert_eq!(all.map(duration), ["950 µs", "340 ms", "12.5 s", "3 min 20 s", "2 h 1 min"]);
        assert_eq!([moment(500.0, 1000.0), moment(1e3, 5e3)], ["500 ms", "1 s"]);
        assert_eq!(moment(90e3, 300e3), "1:30");
    }
}
