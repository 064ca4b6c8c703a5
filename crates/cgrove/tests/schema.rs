//! docs/*.schema.json: they are what the types give, and real reports and events keep to them.
//!
//!     CGROVE_BLESS=1 cargo test -p cgrove --test schema
//!
//! writes them anew.

use std::path::Path;
use std::process::Command;

use cgrove_host::schema;
use serde_json::{Value, json};

const REPORT: &str = include_str!("../../../docs/report.schema.json");
const EVENTS: &str = include_str!("../../../docs/events.schema.json");

/// Whether what is written is what there is to be.
fn is_current(committed: &str, file: &str, mut made: Value) {
    if std::env::var_os("CGROVE_BLESS").is_some() {
        made.sort_all_objects();
        let mut text = serde_json::to_string_pretty(&made).unwrap();
        text.push('\n');
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        std::fs::write(docs.join(file), text).unwrap();
        return;
    }
    let current = serde_json::from_str::<Value>(committed).is_ok_and(|it| it == made);
    assert!(current, "docs/{file} is not what the types give; CGROVE_BLESS=1 writes it");
}

#[test]
fn the_files_are_what_the_types_give() {
    is_current(REPORT, "report.schema.json", schema::report());
    is_current(EVENTS, "events.schema.json", schema::events());
}

/// Fields may be added later, and so the schema allows them. Today there is none that it does not
/// name.
fn closed(schema: &mut Value) {
    match schema {
        // What depends on the event is in the alternatives.
        Value::Object(map) if map.contains_key("properties") && map.contains_key("oneOf") => {
            map.insert("unevaluatedProperties".to_owned(), json!(false));
        }
        Value::Object(map) => {
            map.values_mut().for_each(closed);
            if map.contains_key("properties") {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(closed),
        _ => {}
    }
}

fn validator(schema: &str) -> jsonschema::Validator {
    let mut schema: Value = serde_json::from_str(schema).unwrap();
    jsonschema::draft202012::meta::validate(&schema).expect("a schema");
    closed(&mut schema);
    jsonschema::draft202012::new(&schema).unwrap()
}

fn complaints(report: &Value) -> Vec<String> {
    complaints_by(REPORT, report)
}

fn complaints_by(schema: &str, value: &Value) -> Vec<String> {
    let validator = validator(schema);
    let said = validator.iter_errors(value);
    said.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// The report of a run, which must keep to the schema.
fn report_of(args: &[&str]) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgrove"));
    command.args(&args[..1]).arg("--quiet").arg("--json").arg(file.path()).args(&args[1..]);
    let output = command.output().unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {args:?}: {output:?}"));
    assert_eq!(complaints(&report), [""; 0], "{args:?}\n{report:#}");
    report
}

fn reason(report: &Value) -> &str {
    report["reason"].as_str().unwrap()
}

#[test]
fn a_plain_run() {
    let report = report_of(&["run", "--", "sh", "-c", "sleep 1000 & exit 3"]);
    assert_eq!((reason(&report), &report["exit"]["code"]), ("exited", &json!(3)));
    assert_eq!(report["left_behind"]["processes"].as_array().unwrap().len(), 1);
    assert!(report.get("series").is_none());
}

#[test]
fn ends_of_every_kind() {
    for backend in ["auto", "reaper"] {
        let run = |options: &[&str], command: &[&str]| {
            report_of(&[&["run", "--backend", backend], options, &["--"], command].concat())
        };
        let timed = ["--timeout", "50ms", "--kill-grace", "0"];
        assert_eq!(reason(&run(&timed, &["sleep", "1000"])), "timeout");
        assert_eq!(reason(&run(&[], &["/no/such/program"])), "exec-failed");
        assert_eq!(reason(&run(&[], &["sh", "-c", "kill -9 $$"])), "signaled");
        let full = run(&["--pids-max", "1"], &["sh", "-c", "sleep 9; sleep 9; exit 7"]);
        assert!(full["pids_max"]["hits"].as_u64() > Some(0), "{full:#}");
    }
}

/// The first CPU that this process may use.
fn a_cpu() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().chars().take_while(char::is_ascii_digit).collect()
}

#[test]
fn limits_of_every_kind() {
    let cpu = a_cpu();
    let options = ["--pids-max", "9", "--memory-max", "1G", "--memory-high", "900M"];
    let more = ["--cpu-max", "50%", "--cpu-weight", "50", "--cpus", &cpu, "--timeout", "99"];
    let script = "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done";
    let command = ["--", "sh", "-c", script];
    let report = report_of(&[&["run"], &options[..], &more, &command].concat());
    for limit in ["pids_max", "memory_max", "memory_high", "cpu_max", "cpus", "cpu_weight"] {
        assert!(!report["limits"][limit].is_null(), "{limit}: {report:#}");
    }
    assert!(report["cpu"]["throttled_periods"].is_u64(), "{report:#}");
}

#[test]
fn a_run_that_is_killed_for_memory() {
    let hungry = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}";
    let report = report_of(&["run", "--memory-max", "30M", "--series", "--", "sh", "-c", hungry]);
    assert!(report["memory"]["oom_kill_count"].as_u64() > Some(0), "{report:#}");
    let kinds = report["series"]["events"].as_array().unwrap();
    assert!(kinds.iter().any(|event| event["kind"] == "oom-kill"), "{report:#}");
}

#[test]
fn a_run_with_curves_and_groups() {
    let cgrove = env!("CARGO_BIN_EXE_cgrove");
    let inner = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "{cgrove} run --quiet --name inner --json {} --pids-max 5 -- sh -c 'sleep 0.1; exit 4'; \
         {cgrove} freeze $CGROVE/none 2>/dev/null; sleep 0.1",
        inner.path().display()
    );
    let report = report_of(&["run", "--series", "--pids-max", "20", "--", "sh", "-c", &script]);
    assert!(!report["series"]["processes"].as_array().unwrap().is_empty(), "{report:#}");
    let text = std::fs::read_to_string(inner.path()).unwrap();
    let nested: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(complaints(&nested), [""; 0], "{nested:#}");
    let expected = format!("{}/inner", report["name"].as_str().unwrap());
    assert_eq!((nested["name"].as_str(), reason(&nested)), (Some(expected.as_str()), "exited"));
}

#[test]
fn a_run_in_a_group() {
    let cgrove = |args: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_cgrove")).args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {done:?}");
    };
    let name = format!("schema-{}", std::process::id());
    cgrove(&["create", &name, "--pids-max", "20"]);
    let done = std::panic::catch_unwind(|| report_of(&["exec", &name, "--", "true"]));
    cgrove(&["rm", "--kill", &name]);
    assert_eq!(reason(&done.unwrap()), "exited");
}

#[test]
fn lines_of_events() {
    let cgrove = env!("CARGO_BIN_EXE_cgrove");
    let script = format!(
        "{cgrove} run --quiet --name inner -- true; {cgrove} set $CGROVE pids.max 3; \
         (sleep 9 & sleep 9 & sleep 9 & sleep 9); x=$(head -c 200000000 /dev/zero | tr '\\0' x)"
    );
    let options =
        ["run", "--quiet", "--events", "-", "--memory-high", "20M", "--memory-max", "40M"];
    let more = ["--cpu-max", "50%", "--timeout", "99", "--", "sh", "-c", &script];
    let output = Command::new(cgrove).args(options).args(more).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let lines: Vec<Value> = text.lines().map(parse).collect();
    assert!(lines.len() > 8, "{text}");
    for line in &lines {
        assert_eq!(complaints_by(EVENTS, line), [""; 0], "{line}");
    }
    let breaks: [fn(&mut Value); 4] = [
        |it| it["event"] = json!("yawn"),
        |it| it["surprise"] = json!(1),
        |it| it["at_ms"] = json!(null),
        |it| drop(it.as_object_mut().unwrap().remove("pid")),
    ];
    for spoil in breaks {
        let mut bad = lines[0].clone();
        spoil(&mut bad);
        assert!(!complaints_by(EVENTS, &bad).is_empty(), "{bad}");
    }
}

/// docs/REPORT.md and the schema name the same events with the same fields, both ways.
#[test]
fn every_event_is_documented() {
    let text = include_str!("../../../docs/REPORT.md");
    let (_, text) = text.split_once("## The events").unwrap();
    let names = |column: &str| -> Vec<String> {
        let names = column.split(',').map(|name| name.trim().trim_matches('`').to_owned());
        let mut names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
        names.sort();
        names
    };
    let mut documented: Vec<(String, Vec<String>)> = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<&str> = row.split('|').collect();
        documented.extend(names(columns[1]).into_iter().map(|event| (event, names(columns[2]))));
    }
    documented.sort();
    let schema: Value = serde_json::from_str(EVENTS).unwrap();
    let mut there: Vec<(String, Vec<String>)> = Vec::new();
    for one in schema["oneOf"].as_array().unwrap() {
        let fields = one["properties"].as_object().unwrap();
        let event = fields["event"]["const"].as_str().unwrap().to_owned();
        let mut fields: Vec<String> = fields.keys().filter(|it| *it != "event").cloned().collect();
        fields.sort();
        there.push((event, fields));
    }
    there.sort();
    assert_eq!(there, documented);
}

/// A check that lets everything pass is none.
#[test]
fn what_is_no_report_is_told() {
    let good = report_of(&["run", "--series", "--", "true"]);
    let breaks: [fn(&mut Value); 9] = [
        |it| it["version"] = json!(2),
        |it| it["reason"] = json!("bored"),
        |it| it["cpu"]["class"] = json!("perfect"),
        |it| it["exit"]["status"] = json!("0"),
        |it| it["wall_ns"] = json!(-1),
        |it| it["forks"] = json!(null),
        |it| it["tasks"]["surprise"] = json!(1),
        |it| it["series"]["groups"][0]["tasks"] = json!([null]),
        |it| drop(it.as_object_mut().unwrap().remove("pid")),
    ];
    for (at, spoil) in breaks.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(!complaints(&bad).is_empty(), "number {at} passes");
    }
}
