//! The Python package against this program, by the package's own tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::kit::{Place, fresh_path, kit, run};

crate::tests![the_python_package_passes_its_tests["python3"]];

fn the_python_package_passes_its_tests(place: Place) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = fresh_path("python");
    fs::create_dir(&folder).unwrap();
    // A copy, because the repository may be closed to nobody.
    let mut copy = Command::new("cp");
    copy.arg("-R").arg(root.join("python")).arg(root.join("LICENSE-MIT"));
    copy.arg(root.join("LICENSE-APACHE")).arg(&folder);
    assert!(copy.status().unwrap().success());
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(&folder).status().unwrap();
    assert!(open.success());

    let mut python = place.command("python3");
    python.args(["-X", "dev", "-m", "unittest"]).current_dir(folder.join("python"));
    python.env("CGROVE_BIN", &kit().cgrove).env("PYTHONDONTWRITEBYTECODE", "1");
    let ended = run(place).start_as(&mut python).end();
    assert_eq!(ended.status, 0, "{}\n{}", ended.out, ended.err);
    // Development mode tells what was left open.
    assert!(!ended.err.contains("unclosed file"), "{}", ended.err);
    // "Ran 0 tests" is a success to some versions.
    let ran = ended.err.lines().find_map(|line| line.strip_prefix("Ran ")).unwrap_or("nothing");
    let count = ran.split(' ').next().and_then(|count| count.parse().ok());
    assert!(count.is_some_and(|count: u32| count >= 40), "{}", ended.err);
}
