//! `skep compare`: the same image at each boundary, started as a user would.

use serde_json::Value;
use skep_tests::{TestEnv, can_run, unikernel_engines};

#[test]
fn each_boundary_is_measured_and_nothing_is_left() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:busybox-static");
    let words = ["compare", "-n", "2", "--json", "deb:busybox-static", "--", "sh", "-c", "exit 0"];
    let rows = env.skep(words).json();
    let of = |engine: &str| -> &Value {
        rows.iter().find(|it| it["engine"] == engine).unwrap_or_else(|| panic!("{engine}: no row"))
    };
    for engine in ["native"].into_iter().chain(unikernel_engines()) {
        let row = of(engine);
        assert_eq!(row["rounds"], 2, "{row}");
        assert!(row["started_ms"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["ran_ms"].as_f64().is_some(), "it ended: {row}");
    }
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "");
}

#[test]
fn a_server_is_measured_until_it_answers() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:redis-server");
    let words = ["compare", "-n", "1", "--settle", "50", "--json", "--port", "6379", "deb:redis-server"];
    for row in env.skep(words).json() {
        assert!(row["answered_ms"].as_f64() >= row["started_ms"].as_f64(), "{row}");
        assert!(row["memory"].is_u64() && row["cpu_ms"].as_f64() > Some(0.0), "{row}");
    }
}

#[test]
fn what_does_not_run_is_told_and_removed() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:busybox-static");
    let said = env.skep(["compare", "-n", "1", "deb:busybox-static", "--", "/nowhere"]).fails(1);
    assert!(said.contains("as container (native): "), "{said}");
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "");
}
