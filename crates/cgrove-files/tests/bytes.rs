//! The fuzzers' entries on seeded bytes: a bounded run of what cargo-fuzz does
//! without end (`fuzz/`). `CGROVE_SEED` and `CGROVE_CASES` choose others and
//! more.

mod support;

use support::entry;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.next() % (most + 1);
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Bytes that look like something that a parser takes.
    fn text(&mut self) -> Vec<u8> {
        const LETTERS: &[u8] = b"0123456789xXabfKMGmax+-:/,N= \t\n\xa0\0";
        let len = self.next() % 24;
        (0..len).map(|_| LETTERS[(self.next() % LETTERS.len() as u64) as usize]).collect()
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn run(cases: u64, mut one: impl FnMut(&mut Random)) {
    let seed = number("CGROVE_SEED", 1);
    for case in 0..number("CGROVE_CASES", cases) {
        let told = Told(seed.wrapping_add(case));
        one(&mut Random(seed.wrapping_add(case).wrapping_mul(0x2545_f491_4f6c_dd1d)));
        std::mem::forget(told);
    }
}

/// Says which seed failed, when dropped by a panic.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("again with CGROVE_SEED={} CGROVE_CASES=1", self.0);
    }
}

#[test]
fn parsers_take_any_bytes() {
    run(20_000, |random| {
        entry::parsers(&random.bytes(40));
        entry::parsers(&random.text());
    });
}

#[test]
fn the_tree_takes_any_calls() {
    run(200, |random| entry::surface(&random.bytes(600)));
}
