//! Debuggers, tracers and sanitizers work inside, and so does a real build.

use std::fs;

use crate::UNTRACED;
use crate::kit::{Place, fresh_path, run};

crate::tests![
    gdb_runs_a_program_inside["gdb", UNTRACED],
    strace_follows_forks_inside["strace", UNTRACED],
    leak_sanitizer_finds_leaks_inside[crate::LEAK_SANITIZER, UNTRACED],
    make_builds_in_parallel["make"],
];

fn gdb_runs_a_program_inside(place: Place) {
    let command = ["gdb", "-nx", "-batch", "-ex", "run", "--args", "ACTS", "exit", "MARK", "7"];
    let ended = run(place).options(&["--pids-max", "30"]).command(&command).end();
    assert!(ended.out.contains("exited with code 07"), "{ended:?}");
}

fn strace_follows_forks_inside(place: Place) {
    let command = ["strace", "-f", "-qq", "-e", "trace=exit_group", "ACTS", "spawn", "MARK", "3"];
    let ended = run(place).options(&["--pids-max", "30"]).command(&command).end();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.err.matches("exit_group(0)").count(), 4, "{ended:?}");
}

fn leak_sanitizer_finds_leaks_inside(place: Place) {
    let source = "#include <stdlib.h>\nint main(void) {\n\
        char *volatile lost = malloc(40); lost = 0; return lost != 0; }";
    let folder = fresh_path("leak");
    fs::create_dir(&folder).unwrap();
    let flags = ["-g", "-O0", "-fsanitize=leak"];
    let program = cgrove_testkit::acts::compile_source(&folder, "leak", source, &flags).unwrap();
    let program = program.display().to_string();
    let ended = run(place).options(&["--pids-max", "30"]).command(&[&program, "MARK"]).end();
    assert!(ended.err.contains("detected memory leaks"), "{ended:?}");
    assert_eq!(ended.status, 23, "{ended:?}");
}

fn make_builds_in_parallel(place: Place) {
    let folder = fresh_path("project");
    fs::create_dir(&folder).unwrap();
    let mut makefile = String::from("CC = cc\nall: program\nprogram: main.o");
    let mut main = String::new();
    for i in 0..12 {
        fs::write(folder.join(format!("f{i}.c")), format!("int f{i}(void) {{ return {i}; }}\n"))
            .unwrap();
        makefile += &format!(" f{i}.o");
        main += &format!("int f{i}(void);\n");
    }
    makefile += "\n\t$(CC) -o $@ $^\n";
    main += "int main(void) { return f0() + f11(); }\n";
    fs::write(folder.join("main.c"), main).unwrap();
    fs::write(folder.join("Makefile"), makefile).unwrap();
    std::os::unix::fs::chown(&folder, None, None).unwrap();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let path = folder.to_str().unwrap();
    let ended = run(place)
        .options(&["--pids-max", "64"])
        .script(&format!("make -s -j2 -C {path} && {path}/program; : MARK $?; exit $?"))
        .end();
    let report = ended.report();
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert!(folder.join("program").exists(), "{ended:?}");
    assert!(report.forks.count.unwrap() >= 13 * 3, "make, cc and its passes: {report:?}");
    assert_eq!((report.forks.refused, report.left_behind.killed), (Some(0), 0));
}
