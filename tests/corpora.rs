//! The seeds of `fuzz/corpus`, through the functions that are fuzzed: whatever fuzzing found once is tried at each test.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use everbeat::fuzzing::TARGETS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_seed_passes_and_one_of_each_target_is_taken() {
    for (target, run) in TARGETS {
        let seeds: Vec<PathBuf> =
            std::fs::read_dir(root().join("corpus").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        let mut taken = 0;
        for seed in &seeds {
            println!("{}", seed.display());
            let data = std::fs::read(seed).unwrap();
            taken += usize::from(run(&data));
            // What is cut short is the commonest fault of all.
            for end in (0..data.len()).step_by(data.len() / 64 + 1) {
                run(&data[..end]);
            }
        }
        assert!(taken > 0, "{target}: not one seed is accepted, so nothing behind the first check is reached");
    }
}

#[test]
fn targets_corpora_and_programs_are_the_same_list() {
    let listed: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&root().join("corpus")), listed);
    assert_eq!(names(&root().join("fuzz_targets")), listed);
}
