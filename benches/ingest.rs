//! What a reading costs before it reaches the database: decoding a body, and gathering bodies into one commit.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use everbeat::domain::ids::DeviceId;
use everbeat::ingest::batch::{Progress, gather};
use everbeat::ingest::{Format, Limits, decode};
use uuid::Uuid;

#[path = "../tests/support/cbor.rs"]
mod cbor;

const NOW_US: i64 = 1_795_428_000_000_000;
const ITEMS: u32 = 100;
const REQUESTS: u32 = 40;

fn limits() -> Limits {
    Limits {
        body_max_bytes: 1 << 20,
        items_max: 1000,
        retention: Duration::from_hours(24),
        future_max: Duration::from_hours(24),
    }
}

fn device(number: u32) -> DeviceId {
    DeviceId(Uuid::from_u128(u128::from(number) << 64))
}

/// A body as our client sends it: `ts`, `id`, five metrics.
fn body(request: u32) -> String {
    let item = |n: u32| {
        let (ts, id) = (NOW_US / 1_000 + i64::from(n), Uuid::from_u128(u128::from(request) << 32 | u128::from(n)));
        format!(
            r#"{{"ts":{ts},"id":"{id}","values":{{"temperature":{n}.25,"humidity":41.5,"rssi":-71,"on":true,"mode":"eco"}}}}"#
        )
    };
    format!("[{}]", (0..ITEMS).map(item).collect::<Vec<_>>().join(","))
}

/// The same readings as a SenML pack: a record for each metric.
fn pack() -> serde_json::Value {
    let item = |n: u32| {
        serde_json::json!([
            {"n": "temperature", "u": "Cel", "v": f64::from(n) + 0.25, "t": n},
            {"n": "humidity", "u": "%RH", "v": 41.5, "t": n},
            {"n": "rssi", "u": "dBW", "v": -71, "t": n},
            {"n": "on", "vb": true, "t": n},
            {"n": "mode", "vs": "eco", "t": n},
        ])
    };
    let mut records = vec![serde_json::json!({"bn": "sensor:", "bt": NOW_US / 1_000_000})];
    records.extend((0..ITEMS).flat_map(|n| item(n).as_array().cloned().unwrap_or_default()));
    records.into()
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ingest");
    let (body, limits) = (body(1), limits());
    group.throughput(Throughput::Elements(ITEMS.into()));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| decode(Format::Json, black_box(body.as_bytes()), device(1), &limits, NOW_US));
    });
    let (json, cbor) = (pack().to_string(), cbor::pack(&pack()));
    group.bench_function("decode SenML JSON", |bencher| {
        bencher.iter(|| decode(Format::SenmlJson, black_box(json.as_bytes()), device(1), &limits, NOW_US));
    });
    group.bench_function("decode SenML CBOR", |bencher| {
        bencher.iter(|| decode(Format::SenmlCbor, black_box(&cbor), device(1), &limits, NOW_US));
    });
    let batches: Vec<_> = (0..REQUESTS)
        .filter_map(|n| decode(Format::Json, self::body(n).as_bytes(), device(n * 7 % REQUESTS), &limits, NOW_US).ok())
        .map(everbeat::ingest::ReadingBatch::into_items)
        .collect();
    group.throughput(Throughput::Elements((ITEMS * REQUESTS).into()));
    group.bench_function("gather", |bencher| {
        bencher.iter_batched(|| batches.clone(), |batches| gather(black_box(batches)), BatchSize::LargeInput);
    });
    let (rows, gathered) = gather(batches);
    group.bench_function("settle", |bencher| {
        let mut progress = Progress::new(rows.len());
        progress.committed(0..rows.len(), &vec![everbeat::store::readings::RowOutcome::Stored; rows.len()]);
        bencher.iter(|| gathered.settle(black_box(progress.verdicts())));
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
