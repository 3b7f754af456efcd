//! Sound: a valid run is never blamed. Complete for each kind of breach: wherever it is put, it is found.

use proptest::prelude::*;

use super::history::valid;
use super::plants::{ALL, DEVICES};
use super::{breaches, verdict};

#[test]
fn each_plant_is_told_and_nothing_else_was_wrong() {
    for plant in ALL {
        let mut evidence = valid(11, DEVICES);
        assert_eq!(breaches(&evidence), Vec::<String>::new(), "before {}", plant.name);
        (plant.put)(&mut evidence, 3);
        let verdict = verdict(&evidence, plant.invariant);
        assert!(!verdict.held, "{} was not seen", plant.name);
        let told = verdict.breaches.iter().any(|breach| breach.contains(plant.words));
        assert!(told, "{}: {:?}", plant.name, verdict.breaches);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_run_is_never_blamed(seed: u64, devices in 1_u128..7) {
        prop_assert_eq!(breaches(&valid(seed, devices)), Vec::<String>::new());
    }

    #[test]
    fn a_plant_is_found_wherever_it_is(seed: u64, pick in 0_usize..1_000_000_000, which in 0..ALL.len()) {
        let plant = &ALL[which];
        let mut evidence = valid(seed, DEVICES);
        (plant.put)(&mut evidence, pick);
        let verdict = verdict(&evidence, plant.invariant);
        let told = verdict.breaches.iter().any(|breach| breach.contains(plant.words));
        prop_assert!(!verdict.held && told, "{}: {:?}", plant.name, verdict.breaches);
    }
}
