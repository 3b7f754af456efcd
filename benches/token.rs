//! What an access token costs: to sign, to verify, and to refuse when it is junk or another key's.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use everbeat::domain::ids::{DeviceId, Fingerprint};
use everbeat::identity::ca::new_key_pem;
use everbeat::identity::jwt::{TokenKeys, Verifier};
use time::macros::datetime;
use uuid::Uuid;

type Failure = Box<dyn std::error::Error>;

fn keys() -> Result<TokenKeys, Failure> {
    Ok(TokenKeys::load(&new_key_pem()?, &new_key_pem()?)?)
}

fn measure(criterion: &mut Criterion) -> Result<(), Failure> {
    let (ours, foreign) = (keys()?, keys()?);
    let verifier = Verifier::new();
    verifier.replace(&ours.public())?;
    let (device, certificate) = (DeviceId(Uuid::from_u128(1)), Fingerprint([2; 32]));
    let now = datetime!(2026-11-23 10:00 UTC);
    let good = ours.device_token(device, certificate, now)?.text;
    let unknown = foreign.device_token(device, certificate, now)?.text;
    let mut group = criterion.benchmark_group("token");
    group.bench_function("sign", |b| b.iter(|| ours.device_token(device, certificate, black_box(now)).is_ok()));
    group.bench_function("verify", |b| b.iter(|| verifier.verify_device(black_box(&good), now).is_ok()));
    group.bench_function("unknown_key", |b| b.iter(|| verifier.verify_device(black_box(&unknown), now).is_ok()));
    group.bench_function("junk", |b| b.iter(|| verifier.verify_device(black_box("a.b.c"), now).is_ok()));
    group.finish();
    Ok(())
}

fn token(criterion: &mut Criterion) {
    if let Err(failure) = measure(criterion) {
        eprintln!("the benchmark could not be set up: {failure}");
    }
}

criterion_group!(benches, token);
criterion_main!(benches);
