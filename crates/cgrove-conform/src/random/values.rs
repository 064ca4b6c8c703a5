//! What is written: limits at their edges, junk, and what is not to be written or read.

use fastrand::Rng;

/// Limits that are safe whoever is in the cgroup.
const SAFE: &[(&str, &[&str])] = &[
    (
        "pids.max",
        &["0", "1", "2", "3", "max", "10", "-1", "4194304", "4194305", " 5\n", "0x3", "1 2", "x"],
    ),
    ("cpu.weight", &["1", "100", "10000", "0", "10001", "-1", "x", "0100", "99999999999999999999"]),
    ("cpu.weight.nice", &["-20", "0", "19", "20", "-21", "x", "5\n", "1.0"]),
    ("cpu.max.burst", &["0", "1000", "-1", "x", "18446744073709551616"]),
    ("memory.min", &["0", "4096", "1M", "max", "x", "-1", "10000", "1K", "\n"]),
    ("memory.low", &["0", "4096", "2g", "max", "x", "1KB", "0x100000"]),
    (
        "memory.max",
        &[
            "max",
            "1G",
            "2147483647",
            "0x40000000",
            "x",
            "-1",
            "1GG",
            " 512M \n",
            "99999999999999999999999",
        ],
    ),
    ("memory.high", &["max", "1G", "1073741825", "x", "-5", "1 G", "17T"]),
    ("memory.oom.group", &["0", "1", "2", "-1", "x", "99999999999"]),
    ("memory.swap.max", &["0", "4096", "max", "1M", "x", "5000"]),
    ("memory.swap.high", &["0", "4096", "max", "x"]),
    ("memory.reclaim", &["x", "0", "1M swappiness=300", "1M nonsense", "-1"]),
    ("io.weight", &["100", "default 50", "0", "10001", "8:0 100", "x", "default", "1:1"]),
    ("io.max", &["8:0 rbps=1", "8:0", "x", "8:0 rbps=max wiops=1", ":", "8:x rbps=1"]),
    ("hugetlb.2MB.max", &["0", "2M", "3M", "max", "-1", "x", "1", "1G", "4194305"]),
    ("hugetlb.2MB.rsvd.max", &["0", "2M", "max", "x", "9M"]),
    ("misc.max", &["res_a 1", "x", "res_a max", "res_a"]),
    (
        "rdma.max",
        &["mlx hca_handle=2", "x", "mlx hca_handle=x", "mlx nonsense=1", "mlx hca_object=max"],
    ),
    ("cpuset.cpus", &["0", "0-1", "\n", "2", "0-", "x", "0,1", "0-1:1/2", "1-0", "9999", "00"]),
    ("cpuset.mems", &["0", "\n", "1", "0-1", "x", "64", "1024"]),
    ("cpuset.cpus.exclusive", &["\n", "2", "x"]),
];

/// Limits that would slow or kill whoever is in the cgroup, or move it to the other CPU.
const UNSAFE: &[(&str, &[&str])] = &[
    (
        "cpu.max",
        &[
            "max",
            "1000",
            "999",
            "50000 100000",
            "max 1000",
            "max 999",
            "100 x",
            "5x 7",
            "-1",
            "x",
            "1000 1000000",
            "1000 1000001",
            "max 20000 3",
            "17592186044415",
            "17592186044416",
            "18446744073709551615",
            "  2000  ",
            "maxx",
        ],
    ),
    ("cpu.idle", &["0", "1", "2", "-1", "x"]),
    ("cpu.weight", &["50", "7", "200"]),
    ("cpu.max.burst", &["500", "2000", "50000", "17592186044415"]),
    ("cpuset.cpus", &["1", "1,0", "0-1,1", "1-1"]),
    ("cpuset.cpus.exclusive", &["0", "1", "0-1"]),
];

/// A limit and a value for it.
pub fn limit(rng: &mut Rng, has_tasks: bool) -> (&'static str, String) {
    let count = SAFE.len() + if has_tasks { 0 } else { UNSAFE.len() };
    // A third of all is about tasks, where there are any.
    let index = if has_tasks && rng.u32(..3) == 0 { 0 } else { rng.usize(..count) };
    let (file, texts) = SAFE.get(index).copied().unwrap_or_else(|| UNSAFE[index - SAFE.len()]);
    (file, texts[rng.usize(..texts.len())].to_owned())
}

/// A small number, or nearly one.
pub fn small(rng: &mut Rng) -> String {
    const TEXTS: [&str; 12] =
        ["0", "1", "2", "3", "max", "-1", "x", "0x2", " 1\n", "", "2147483648", "1 1"];
    TEXTS[rng.usize(..TEXTS.len())].to_owned()
}

/// Anything.
pub fn junk(rng: &mut Rng) -> Vec<u8> {
    const PIECES: [&str; 26] = [
        "0",
        "1",
        "9",
        "-",
        "+",
        "x",
        "0x",
        "max",
        " ",
        "\n",
        "\t",
        "\0",
        ".",
        ",",
        ":",
        "=",
        "K",
        "default",
        "pids",
        "/",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775808",
        "00",
        "\u{e9}",
        "8:0",
    ];
    if rng.u32(..24) == 0 {
        return vec![b'1'; [4095, 4096, 4097, 8192][rng.usize(..4)]];
    }
    let mut out = Vec::new();
    for _ in 0..rng.usize(..5) {
        out.extend_from_slice(PIECES[rng.usize(..PIECES.len())].as_bytes());
    }
    out
}

/// Whether junk written to a file can only be refused, or does nothing that Linux leaves to chance.
pub fn is_harmless(file: &str, text: &[u8], has_tasks: bool) -> bool {
    let digits = || text.iter().any(u8::is_ascii_digit);
    match file {
        // A number is a process.
        "cgroup.procs" | "cgroup.threads" => !digits(),
        // Blanks alone are a limit of nothing; so are small numbers.
        "memory.max" | "memory.high" => {
            text.iter()
                .any(|byte| !byte.is_ascii_digit() && !byte.is_ascii_whitespace() && *byte != 0)
                && !digits()
        }
        // What can be reclaimed is chance.
        "memory.reclaim" => !digits(),
        "cgroup.kill" => false,
        "cpu.max" | "cpu.idle" | "cpuset.cpus" | "cpuset.cpus.exclusive" => !has_tasks,
        _ => true,
    }
}

/// Whether what a file shows can be compared: it is no figure that differs from run to run.
pub fn can_be_compared(file: &str) -> bool {
    !matches!(
        file,
        "memory.current"
            | "memory.peak"
            | "memory.stat"
            | "memory.numa_stat"
            | "cpu.stat"
            | "cpu.stat.local"
            | "cgroup.stat.local"
            | "io.stat"
    )
}
