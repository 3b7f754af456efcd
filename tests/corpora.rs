//! The seeds of `fuzz/corpus`, through the functions that are fuzzed: as they are, cut short, and changed at random.
//! `EVERBEAT_MUTATIONS` says how many changed ones of each seed there are (200).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use everbeat::domain::random::Random;
use everbeat::fuzzing::TARGETS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(root().join("corpus").join(target)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One to four changes, as fuzzers make them.
fn mutated(seeds: &[Vec<u8>], seed: &[u8], random: &Random) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..=random.below(4) {
        let (at, byte) = (random.below(data.len() + 1), random.bits().to_le_bytes()[0]);
        let end = at + random.below((data.len() - at).min(16) + 1);
        match random.below(7) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = byte,
            2 if at < data.len() => data[at] = [0, 0x7f, 0x80, 0xff, b'"', b'[', b'{', b'0'][random.below(8)],
            3 => drop(data.drain(at..end)),
            4 => {
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                data.splice(end.., other[from..].iter().copied());
            }
            _ => data.insert(at, byte),
        }
    }
    data
}

#[test]
fn no_changed_seed_breaks_a_promise() {
    let told = std::env::var_os("EVERBEAT_MUTATIONS");
    let count = told.map_or(200, |count| count.to_str().unwrap().parse::<usize>().unwrap());
    let random = Random::seeded(8428);
    for (target, run) in TARGETS {
        let seeds = seeds(target);
        let (mut runs, mut taken) = (0, 0);
        for data in seeds.iter().flat_map(|seed| std::iter::repeat_n(seed, count)) {
            let data = mutated(&seeds, data, &random);
            // What a failed assertion leaves behind is the input.
            let held = std::panic::catch_unwind(|| run(&data));
            assert!(held.is_ok(), "{target}: {}", data.escape_ascii());
            (runs, taken) = (runs + 1, taken + usize::from(held.unwrap_or_default()));
        }
        println!("{target}: {runs} inputs, {taken} of them taken");
    }
}

#[test]
fn every_seed_passes_and_one_of_each_target_is_taken() {
    for (target, run) in TARGETS {
        let mut taken = 0;
        for data in seeds(target) {
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
