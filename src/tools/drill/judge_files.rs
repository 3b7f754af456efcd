//! `everbeat drill check FILE…`: judges runs again from the evidence that they left.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::evidence::Evidence;
use super::report::{self, Run};

/// Judge the evidence of earlier runs again.
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    /// Evidence as a run wrote it (JSON, one run a file)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Prints each run's verdicts. Fails if any of them is broken, or a file cannot be read; all are judged first.
///
/// # Errors
/// When the verdicts cannot be printed.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    judge(&args.files, &mut std::io::stdout().lock())
}

fn judge(files: &[PathBuf], out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut all_passed = true;
    for file in files {
        match read(file) {
            Ok(evidence) => {
                let run = Run::of(&evidence);
                all_passed &= run.passed();
                let verdict = if run.passed() { "pass" } else { "FAIL" };
                writeln!(out, "{} (seed {}): {verdict}", evidence.scenario.escape_debug(), evidence.seed)?;
                writeln!(out, "{}", report::told(&run))?;
            }
            Err(error) => {
                all_passed = false;
                writeln!(out, "{error:#}\n")?;
            }
        }
    }
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(file: &Path) -> anyhow::Result<Evidence> {
    let json = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    serde_json::from_slice(&json).with_context(|| format!("{} is not the evidence of a run", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::drill::check::tests::history::valid;

    fn judged(files: &[PathBuf]) -> (String, bool) {
        let mut out = Vec::new();
        let code = judge(files, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), code == ExitCode::SUCCESS)
    }

    #[test]
    fn a_run_is_judged_again_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, evidence: &Evidence| {
            let path = dir.path().join(name);
            std::fs::write(&path, serde_json::to_vec(evidence).unwrap()).unwrap();
            path
        };
        let good = valid(1, 2);
        let mut bad = good.clone();
        bad.database.readings.remove(0);
        let (good, bad) = (write("good.json", &good), write("bad.json", &bad));
        let (text, passed) = judged(std::slice::from_ref(&good));
        assert!(passed && text.contains("leader-kill (seed 1): pass"), "{text}");
        let (text, passed) = judged(&[bad, good]);
        assert!(!passed && text.contains("I1   BROKEN") && text.contains("is lost"), "{text}");
        assert!(text.contains("(seed 1): pass"), "the other is judged all the same: {text}");
    }

    #[test]
    fn what_is_no_evidence_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        std::fs::write(&path, "{}").unwrap();
        for file in [path, dir.path().join("none.json")] {
            let (text, passed) = judged(&[file]);
            assert!(!passed && text.contains("x.json is not the evidence") | text.contains("none.json cannot be read"));
        }
    }

    #[test]
    fn evidence_of_before_a_field_was_added_is_read() {
        let mut json = serde_json::to_value(valid(1, 2)).unwrap();
        for added in [
            "blind",
            "clock_steps",
            "alone",
            "terminated",
            "maximums",
            "synchronous_standbys",
            "bounds",
            "unfinished",
            "stalls",
        ] {
            json.as_object_mut().unwrap().remove(added).unwrap();
        }
        assert_eq!(serde_json::from_value::<Evidence>(json).unwrap(), valid(1, 2));
    }
}
