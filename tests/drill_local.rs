//! The drill against itself: a run on processes of this machine passes and is not vacuous, and a promise that is
//! broken on purpose is seen.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use everbeat::tools::drill::evidence::{Call, Evidence};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("everbeat-drill-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn drill(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_everbeat")).arg("drill").args(args).stdin(Stdio::null()).output().unwrap()
}

fn evidence(file: &Path) -> Evidence {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Every acknowledged reading, as (device, number).
fn acknowledged(evidence: &Evidence) -> Vec<(uuid::Uuid, u64)> {
    let attempts = evidence.attempts.iter().filter(|attempt| attempt.outcome.is_acknowledged());
    let numbers = attempts.filter_map(|attempt| match (&attempt.call, attempt.device) {
        (Call::Readings { items, .. }, Some(device)) => Some(items.iter().map(move |item| (device, item.n))),
        _ => None,
    });
    numbers.flatten().collect()
}

#[test]
fn a_local_drill_passes_and_a_reading_that_is_taken_away_is_missed() {
    let scratch = Scratch::new("pass");
    let out = scratch.0.to_str().unwrap();
    let names = "leader-kill,primary-kill";
    let ran = drill(&["--local", "--only", names, "--seed", "1", "--devices", "8", "--out", out]);
    assert!(ran.status.success(), "{}", told(&ran));
    for name in names.split(',') {
        let evidence = evidence(&scratch.0.join(format!("{name}-1.json")));
        assert_eq!((evidence.scenario.as_str(), evidence.seed), (name, 1));
        let acknowledged = acknowledged(&evidence).len();
        assert!(acknowledged > 500, "{name}: {acknowledged} readings were acknowledged");
        assert!(evidence.database.readings.len() > 500 && !evidence.database.effects.is_empty());
        assert!(evidence.beliefs.len() > 1, "{name}: {:?}", evidence.beliefs);
    }
    assert!(evidence(&scratch.0.join("primary-kill-1.json")).database.timeline > 1, "somebody was promoted");
    for name in ["report.json", "report.html"] {
        assert!(std::fs::metadata(scratch.0.join(name)).unwrap().len() > 1_000, "{name}");
    }

    // The same evidence is judged again: it passes as it is, and not without one row that was acknowledged.
    let file = scratch.0.join("leader-kill-1.json");
    let judged = drill(&["check", file.to_str().unwrap()]);
    assert!(judged.status.success(), "{}", told(&judged));
    let mut robbed = evidence(&file);
    let (device, n) = acknowledged(&robbed)[100];
    robbed.database.readings.retain(|row| (row.device, row.n) != (device, n));
    std::fs::write(&file, serde_json::to_string(&robbed).unwrap()).unwrap();
    let judged = drill(&["check", file.to_str().unwrap()]);
    assert!(!judged.status.success() && told(&judged).contains("I1"), "{}", told(&judged));
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_started() {
    let scratch = Scratch::new("refused");
    let out = scratch.0.to_str().unwrap();
    let unknown = drill(&["--local", "--only", "leader-hug", "--out", out]);
    assert!(!unknown.status.success() && told(&unknown).contains("leader-hug"), "{}", told(&unknown));
    let listed = drill(&["--list"]);
    assert!(listed.status.success() && told(&listed).contains("rolling-restart"), "{}", told(&listed));
}
