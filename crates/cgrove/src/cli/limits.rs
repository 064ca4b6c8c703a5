//! The options for memory and CPU. Each is another way to write an interface file of the run's
//! cgroup, and is checked here only as far as the core cannot say better what is wrong.

use clap::Args;

/// The period when none is given, in microseconds.
const PERIOD: u64 = 100_000;

/// Limits on memory and CPU.
#[derive(Args)]
pub struct LimitArgs {
    /// Kill for memory over SIZE: 200M, 2G (binary)
    #[arg(long, value_name = "SIZE|max", value_parser = size, help_heading = "Limits")]
    memory_max: Option<String>,

    /// Slow down whoever still grows over SIZE
    #[arg(long, value_name = "SIZE|max", value_parser = size, help_heading = "Limits")]
    memory_high: Option<String>,

    /// 150% of one CPU, or QUOTA/PERIOD in microseconds
    #[arg(long, value_name = "SHARE|max", value_parser = cpu_max, help_heading = "Limits")]
    cpu_max: Option<String>,

    /// The share of CPU time among siblings [100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000),
        help_heading = "Limits")]
    cpu_weight: Option<u64>,

    /// The CPUs to run on, e.g. 0-2,5
    #[arg(long, value_name = "LIST", value_parser = cpus, help_heading = "Limits")]
    cpus: Option<String>,
}

impl LimitArgs {
    /// The files to write.
    pub fn settings(&self) -> Vec<(String, String)> {
        let files = [
            ("memory.max", self.memory_max.clone()),
            ("memory.high", self.memory_high.clone()),
            ("cpu.max", self.cpu_max.clone()),
            ("cpu.weight", self.cpu_weight.map(|weight| weight.to_string())),
            ("cpuset.cpus", self.cpus.clone()),
        ];
        files.into_iter().filter_map(|(file, value)| Some((file.to_owned(), value?))).collect()
    }
}

/// `max`, or bytes with a binary unit, as a number of bytes.
fn size(text: &str) -> Result<String, String> {
    const HELP: &str = "write bytes, or a number with K, M, G or T (binary), e.g. 200M, or max";
    if text == "max" {
        return Ok(text.to_owned());
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(number.len()..).unwrap_or_default().to_ascii_uppercase();
    let shift = match unit.as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(HELP.to_owned()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || (shift == 0 && number.contains('.')) {
        return Err(HELP.to_owned());
    }
    let bytes = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1 << shift));
    // Less than one unit, so that the precision of a float is far more than enough.
    let part =
        format!("0.{part}").parse::<f64>().map_or(0, |part| (part * (1u64 << shift) as f64) as u64);
    let bytes = bytes.and_then(|bytes| bytes.checked_add(part)).ok_or("that is too much")?;
    Ok(bytes.to_string())
}

/// `max`, a percentage of one CPU, or a quota and its period in microseconds, as `cpu.max` has it.
fn cpu_max(text: &str) -> Result<String, String> {
    const HELP: &str = "write a percentage of one CPU (150%), QUOTA/PERIOD in microseconds, or max";
    if text == "max" {
        return Ok(text.to_owned());
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse::<f64>().ok().filter(|percent| percent.is_finite());
        let quota = percent.map(|percent| percent / 100.0 * PERIOD as f64).ok_or(HELP)?;
        if quota < 1000.0 {
            return Err("at least 1% of a CPU".to_owned());
        }
        if quota > 1e12 {
            return Err("that is too much".to_owned());
        }
        return Ok(format!("{} {PERIOD}", quota.round() as u64));
    }
    let (quota, period) = text.split_once('/').ok_or(HELP)?;
    let quota = quota.parse::<u64>().map_err(|_| HELP)?;
    let period = period.parse::<u64>().map_err(|_| HELP)?;
    if !(1000..=1_000_000).contains(&period) {
        return Err("a period is 1000 to 1000000 microseconds".to_owned());
    }
    if quota < 1000 {
        return Err("a quota is at least 1000 microseconds".to_owned());
    }
    Ok(format!("{quota} {period}"))
}

/// A list of CPUs, which the core reads.
fn cpus(text: &str) -> Result<String, String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let range = |range: &str| match range.split_once('-') {
        Some((from, to)) => number(from) && number(to),
        None => number(range),
    };
    if text.split(',').all(range) {
        return Ok(text.to_owned());
    }
    Err("write a list like 0-2,5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        let good = [
            ("0", "0"),
            ("4096", "4096"),
            ("1k", "1024"),
            ("200M", "209715200"),
            ("1.5G", "1610612736"),
            ("2GiB", "2147483648"),
            ("1T", "1099511627776"),
            ("max", "max"),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text).as_deref(), Ok(bytes), "{text}");
        }
        for bad in ["", "M", "-1", "1.5", "1..5M", "5 M", "1X", "1e3", ".5G", "99999999T", "MAX"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bandwidth_is_a_share_or_a_quota() {
        assert_eq!(cpu_max("150%").as_deref(), Ok("150000 100000"));
        assert_eq!(cpu_max("2.5%").as_deref(), Ok("2500 100000"));
        assert_eq!(cpu_max("20000/50000").as_deref(), Ok("20000 50000"));
        assert_eq!(cpu_max("max").as_deref(), Ok("max"));
        for bad in ["", "%", "0%", "nan%", "inf%", "-5%", "1e300%", "50", "1/2", "5000/", "5000/9"]
        {
            assert!(cpu_max(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_cpus() {
        assert!(cpus("0-2,5").is_ok() && cpus("1").is_ok());
        for bad in ["", ",", "a", "1-", "-1", "0-2,", "0:1", "1 2"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }
}
