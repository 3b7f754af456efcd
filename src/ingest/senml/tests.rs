//! What becomes of a pack: readings, refused records, and packs that are refused as a whole.

#![cfg(test)]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::ids::DeviceId;
use crate::ingest::decode::{DecodeError, Format, ReadingBatch, Sender, decode};
use crate::ingest::settings::Limits;

#[path = "../../../tests/support/cbor.rs"]
mod cbor;

const NOW: i64 = 1_795_428_000_000_000;

pub(super) fn cbor_of(json: &str) -> Vec<u8> {
    cbor::pack(&serde_json::from_str(json).unwrap())
}

fn limits() -> Limits {
    Limits {
        body_max_bytes: 1 << 20,
        items_max: 100,
        retention: Duration::from_hours(1),
        future_max: Duration::from_mins(1),
    }
}

fn run(format: Format, body: impl AsRef<[u8]>) -> Result<ReadingBatch, DecodeError> {
    let sender = Sender { id: DeviceId(Uuid::from_u128(7)), name: "pump-1" };
    decode(format, body.as_ref(), sender, &limits(), NOW)
}

/// A pack in both encodings, which say the same.
#[track_caller]
fn both(pack: &Value) -> ReadingBatch {
    let batch = run(Format::SenmlJson, pack.to_string()).unwrap();
    assert_eq!(run(Format::SenmlCbor, cbor::pack(pack)).unwrap(), batch, "{pack}");
    batch
}

/// Index, time after [`NOW`] and values of the readings.
fn readings(batch: &ReadingBatch) -> Vec<(usize, i64, &str)> {
    batch.items.iter().map(|item| (item.index, item.reading.ts_us - NOW, &*item.reading.values)).collect()
}

fn refused(batch: &ReadingBatch) -> Vec<(u64, &str, &str)> {
    batch.rejected.iter().map(|item| (item.index, item.kind.as_str(), item.detail.as_str())).collect()
}

#[test]
fn records_of_one_time_are_one_reading() {
    let batch = both(&json!([
        {"bn": "pump-1:", "bt": 1_795_428_000, "n": "temp", "u": "Cel", "v": 23.1},
        {"n": "door", "vb": true},
        {"n": "temp", "u": "Cel", "v": 23.2, "t": -60},
        {"n": "mode", "vs": "eco\u{1f600}", "t": -60},
        {"n": "rssi", "u": "dBW", "v": -71},
        {"n": "tag", "vd": "aGkgCg"},
    ]));
    assert_eq!(refused(&batch), []);
    let first =
        r#"{"door":true,"rssi[dBW]":-71,"tag":"data:application/octet-stream;base64,aGkgCg==","temp[Cel]":23.1}"#;
    let second = "{\"mode\":\"eco\u{1f600}\",\"temp[Cel]\":23.2}";
    assert_eq!(readings(&batch), [(0, 0, first), (2, -60_000_000, second)]);
}

#[test]
fn the_unit_tells_metrics_of_one_name_apart() {
    // RFC 8428, 5.1.3.
    let batch = both(&json!([
        {"bn": "urn:dev:ow:10e2073a01080063", "bu": "%RH", "v": 20},
        {"u": "lon", "v": 24.30621},
        {"u": "lat", "v": 60.07965},
        {"u": "", "v": 1},
    ]));
    let values = concat!(
        r#"{"urn:dev:ow:10e2073a01080063":1,"urn:dev:ow:10e2073a01080063[%RH]":20,"#,
        r#""urn:dev:ow:10e2073a01080063[lat]":60.07965,"urn:dev:ow:10e2073a01080063[lon]":24.30621}"#
    );
    assert_eq!(readings(&batch), [(0, 0, values)]);
}

#[test]
fn sums_are_metrics_of_their_own() {
    let batch = both(&json!([
        {"bn": "pump-1/", "n": "power", "u": "W", "v": 100, "s": 36_000},
        {"n": "count", "s": 2.5},
        {"n": "both", "u": "W", "bs": 1000, "s": 1, "bv": 0.5, "v": 1},
        {"n": "base", "vs": "x"},
    ]));
    assert_eq!(refused(&batch), []);
    let values = concat!(
        r#"{"base":"x","base[*s]":1000,"both[W*s]":1001,"both[W]":1.5,"#,
        r#""count[*s]":2.5,"power[W*s]":36000,"power[W]":100}"#
    );
    assert_eq!(readings(&batch), [(0, 0, values)]);
}

#[test]
fn base_fields_hold_until_they_are_given_again() {
    let batch = both(&json!([
        {"bn": "a:", "bu": "V", "bv": 10, "bt": -10},
        {"n": "x", "v": 1},
        {"n": "y", "v": 2, "bn": "b:", "bu": "A"},
        {"n": "z", "v": 3, "bv": 0, "bt": 0},
        {"n": "z", "v": 3, "t": -1.5},
    ]));
    assert_eq!(refused(&batch), []);
    let expected = [
        (1, -10_000_000, r#"{"a:x[V]":11,"b:y[A]":12}"#),
        (3, 0, r#"{"b:z[A]":3}"#),
        (4, -1_500_000, r#"{"b:z[A]":3}"#),
    ];
    assert_eq!(readings(&batch), expected);
}

#[test]
fn times_are_exact_to_the_microsecond() {
    let at = |bt: &str, t: &str| {
        let pack = format!(r#"[{{"bt":{bt},"n":"a","t":{t},"v":1}}]"#);
        let batch = run(Format::SenmlJson, &pack).unwrap();
        assert_eq!(run(Format::SenmlCbor, cbor_of(&pack)).unwrap(), batch);
        batch.items.first().map(|item| item.reading.ts_us - NOW)
    };
    assert_eq!(at("1795427999", "0.000001"), Some(-999_999));
    assert_eq!(at("1795427999.123457", "0"), Some(-876_543));
    assert_eq!(at("1795427999.123457", "0.654321"), Some(-222_222));
    assert_eq!(at("1.795427999123457e9", "-0.000001"), Some(-876_544));
    assert_eq!(at("1795427999", "7.1e-1"), Some(-290_000));
    assert_eq!(at("0", "-3.000001"), Some(-3_000_001));
    assert_eq!(at("0", "59.999999"), Some(59_999_999));
    assert_eq!(at("0", "60"), None, "the window is that of all readings");
    assert_eq!(at("0", "-3600"), None);
    // 2^28 is the first absolute time, and long past.
    for far in ["268435455", "268435456", "1e300", "-1e300", "18446744073709551615"] {
        assert_eq!(at(far, "0"), None, "{far}");
    }
    let detail = |t: &str| run(Format::SenmlJson, format!(r#"[{{"n":"a","t":{t},"v":1}}]"#)).unwrap().rejected;
    assert!(detail("268435456")[0].detail.starts_with("/t: the time must lie between"));
    assert_eq!(detail("1e300")[0].detail, "/t: there is no such time");
}

#[test]
fn the_faults_of_a_record_are_its_own() {
    let faults = [
        (json!({"n": "a"}), "has no value"),
        (json!({"n": "a", "u": "V", "t": 0}), "has no value"),
        (json!({"n": "a", "v": 1, "vs": "x"}), "/vs: is a second value"),
        (json!({"n": "a", "v": "1"}), "/v: must be a number"),
        (json!({"n": "a", "v": null}), "/v: must not be null"),
        (json!({"n": "a", "v": [1]}), "/v: must not be an array"),
        (json!({"n": "a", "vb": 1}), "/vb: must be true or false"),
        (json!({"n": "a", "vs": 1}), "/vs: must be a text"),
        (json!({"n": "a", "vs": "\0"}), "/vs: must not hold NUL"),
        (json!({"n": "a", "vs": "x".repeat(1_025)}), "/vs: more than 1024 characters"),
        (json!({"n": "a", "vd": "x".repeat(1_000)}), "/vd: more than 738 bytes"),
        (json!({"n": "a", "vd": 1}), "/vd: must be a byte string"),
        (json!({"n": "a", "v": 1, "ut": "x"}), "/ut: must be a number"),
        (json!({"n": "a", "v": 1, "t": "now"}), "/t: must be a number"),
        (json!({"n": "a", "v": 1, "t": 3600}), "/t: the time must lie between"),
        (json!({"n": 1, "v": 1}), "/n: must be a text"),
        (json!({"n": "", "v": 1}), "/n: a name (bn and n together) must begin"),
        (json!({"v": 1}), "/n: a name (bn and n together) must begin"),
        (json!({"n": "_a", "v": 1}), "/n: a name (bn and n together) must begin"),
        (json!({"n": "a b", "v": 1}), "/n: a name (bn and n together) has letters"),
        (json!({"n": "a[b]", "v": 1}), "/n: a name (bn and n together) has letters"),
        (json!({"n": "ä", "v": 1}), "/n: a name (bn and n together) must begin"),
        (json!({"n": "a", "u": "\u{7}", "v": 1}), "/n: the metric (the name, and the unit in brackets) must not hold"),
        (json!({"n": "a".repeat(65), "v": 1}), "/n: the metric (the name, and the unit in brackets) must have 1 to 64"),
        (json!({"n": "a".repeat(257), "v": 1}), "/n: more than 256 bytes"),
        (json!(3), "a record is "),
        (json!([]), "a record is "),
        (json!(null), "a record is "),
    ];
    let good = |n: usize| json!({"n": format!("good{n}"), "v": n});
    let pack: Vec<Value> = faults.iter().enumerate().flat_map(|(n, (bad, _))| [good(n), bad.clone()]).collect();
    let pack = Value::from(pack);
    for (format, body) in [(Format::SenmlJson, pack.to_string().into_bytes()), (Format::SenmlCbor, cbor::pack(&pack))] {
        let batch = run(format, body).unwrap();
        assert_eq!(batch.items.len(), 1);
        assert_eq!(batch.items[0].reading.values.matches("good").count(), faults.len(), "neighbours are stored");
        assert_eq!(batch.rejected.len(), faults.len());
        for (n, ((bad, expected), found)) in faults.iter().zip(refused(&batch)).enumerate() {
            assert_eq!((found.0, found.1), (2 * n as u64 + 1, "invalid"), "{bad}");
            assert!(found.2.starts_with(expected), "{bad}: {}", found.2);
        }
    }
}

#[test]
fn who_builds_on_a_broken_base_field_is_refused_with_it() {
    let batch = run(
        Format::SenmlJson,
        r#"[
        {"bn":"a:","n":"x","v":1},
        {"bn":7,"n":"x","v":1,"bu":"V"},
        {"n":"y","v":1},
        {"bn":"b:","n":"y","v":1},
        {"n":"z","v":1,"bt":"noon"},
        {"n":"q","v":1},
        {"n":"q","v":1,"bt":0,"bv":null},
        {"n":"q","vs":"no number, no base value"},
        {"n":"r","v":1},
        {"n":"r","v":1,"bv":1,"bv":2},
        {"n":"r","v":1,"bv":0}
    ]"#,
    )
    .unwrap();
    let values = r#"{"a:x":1,"b:q[V]":"no number, no base value","b:r[V]":1,"b:y[V]":1}"#;
    assert_eq!(readings(&batch), [(0, 0, values)]);
    let expected = [
        (1, "invalid", "/bn: must be a text"),
        (2, "invalid", "/bn: that of the record with index 1 is not valid"),
        (4, "invalid", "/bt: must be a number"),
        (5, "invalid", "/bt: that of the record with index 4 is not valid"),
        (6, "invalid", "/bv: must not be null; leave the field out"),
        (8, "invalid", "/bv: that of the record with index 6 is not valid"),
        (9, "invalid", "/bv: occurs twice"),
    ];
    assert_eq!(refused(&batch), expected);
}

#[test]
fn one_name_and_time_twice_is_a_conflict() {
    let batch = both(&json!([
        {"n": "a", "u": "V", "v": 1},
        {"n": "a", "u": "V", "v": 2},
        {"n": "pump-1:a", "u": "V", "v": 1},
        {"n": "a", "u": "V", "v": 1, "t": -1},
        {"n": "b", "u": "W", "v": 5, "s": 1},
        {"n": "b", "u": "W*s", "v": 5},
    ]));
    assert_eq!(readings(&batch), [(0, 0, r#"{"a[V]":1,"b[W*s]":1,"b[W]":5}"#), (3, -1_000_000, r#"{"a[V]":1}"#)]);
    let indexes: Vec<_> = batch.rejected.iter().map(|item| (item.index, item.kind.as_str())).collect();
    assert_eq!(indexes, [(1, "conflict"), (2, "conflict"), (5, "conflict")]);
    assert_eq!(batch.rejected[0].detail, r#"/n: the pack has "a[V]" of this time already"#);
}

#[test]
fn a_reading_has_64_metrics_and_a_pack_its_limit() {
    let record = |n: usize| json!({"n": format!("m{n}"), "v": n});
    let batch = both(&(0..70).map(record).collect());
    assert_eq!((batch.items.len(), batch.rejected.len()), (1, 6));
    assert_eq!(batch.rejected[0].index, 64);
    let many: Value = (0..101).map(record).collect();
    let too_many = Err(DecodeError::TooManyItems { items_max: 100 });
    assert_eq!(run(Format::SenmlJson, many.to_string()), too_many);
    assert_eq!(run(Format::SenmlCbor, cbor::pack(&many)), too_many);
    // So many are said to come, and so many come without having been announced.
    assert_eq!(run(Format::SenmlCbor, b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff"), too_many);
    let open = [b"\x9f".to_vec(), vec![0xa0; 101], b"\xff".to_vec()].concat();
    assert_eq!(run(Format::SenmlCbor, open), too_many);
    assert_eq!(both(&json!([])).len(), 0);
}

#[test]
fn versions_and_fields_that_must_be_understood() {
    let refused = |pack: &Value| {
        let error = run(Format::SenmlJson, pack.to_string()).unwrap_err();
        assert_eq!(run(Format::SenmlCbor, cbor::pack(pack)).unwrap_err(), error, "{pack}");
        error
    };
    let good = json!({"n": "a", "v": 1});
    for bver in [json!(11), json!(0), json!(-1), json!(9.5), json!("10"), json!(null), json!(u64::MAX)] {
        assert_eq!(refused(&json!([good, {"bver": bver}])), DecodeError::SenmlVersion, "{bver}");
    }
    assert_eq!(refused(&json!([good, {"bver": 9}])), DecodeError::SenmlVersions);
    assert_eq!(refused(&json!([{"bver": 9}, {"bver": 10}])), DecodeError::SenmlVersions);
    assert_eq!(both(&json!([good, {"bver": 10}])).len(), 1);
    assert_eq!(both(&json!([{"bver": 9.0, "n": "a", "v": 1}, {"n": "b", "v": 1}, {"bver": 9}])).len(), 1);
    let error = refused(&json!([good, {"n": "b", "v": 1, "x_": []}]));
    assert!(error.to_string().contains(r#"the field "x_" must be understood"#), "{error}");
    // Others are ignored, whatever they hold.
    assert_eq!(both(&json!([{"n": "a", "v": 1, "x": {"y_": [null, {}]}, "": 1, "bx": "y"}])).len(), 1);
}

#[test]
fn json_that_is_no_pack() {
    let table = [
        (r#"{"n":"a","v":1}"#, DecodeError::NotAPack),
        ("3", DecodeError::NotAPack),
        ("", DecodeError::Syntax { at: 0 }),
        (r#"[{"n":"a","v":1}"#, DecodeError::Syntax { at: 16 }),
        (r#"[{"n":"a","v":NaN}]"#, DecodeError::Syntax { at: 14 }),
        ("[{}]]", DecodeError::Syntax { at: 4 }),
    ];
    for (body, expected) in table {
        assert_eq!(run(Format::SenmlJson, body), Err(expected), "{body}");
    }
    assert_eq!(run(Format::SenmlJson, "[".repeat(1_000_000)), Err(DecodeError::TooDeep { at: 32 }));
    assert_eq!(run(Format::SenmlJson, b"\xff"), Err(DecodeError::NotUtf8));
    // Escapes in labels and texts are JSON's; half a pair is the record's fault.
    let batch = run(
        Format::SenmlJson,
        r#"[{"\u006e":"\u0061","\u0076s":"\"\ud83d\ude00"},{"n":"b","vs":"\ud83d"},{"\ud83d":1},{"n":"c","v":1e400}]"#,
    );
    let batch = batch.unwrap();
    assert_eq!(readings(&batch), [(0, 0, "{\"a\":\"\\\"\u{1f600}\"}")]);
    let expected = [
        (1, "invalid", "/vs: not Unicode text"),
        (2, "invalid", "a label is not Unicode text"),
        (3, "invalid", "/v: is not a finite number"),
    ];
    assert_eq!(refused(&batch), expected);
    let data = run(Format::SenmlJson, r#"[{"n":"a","vd":"aGkgCg=="},{"n":"b","vd":"a+"},{"n":"c","vd":""}]"#).unwrap();
    assert_eq!(readings(&data), [(2, 0, r#"{"c":"data:application/octet-stream;base64,"}"#)]);
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The value of the one record, a map of the label n, "a", and what `field` adds.
fn cbor_record(field: &str) -> Result<String, String> {
    let batch = run(Format::SenmlCbor, hex(&format!("81 a2 00 6161 {field}"))).map_err(|error| error.to_string())?;
    match batch.rejected.first() {
        Some(rejected) => Err(rejected.detail.clone()),
        None => Ok(batch.items[0].reading.values.to_string()),
    }
}

#[test]
fn spellings_of_cbor() {
    let good = [
        ("02 01", "1"),
        ("1802 1801", "1"),
        ("02 1b0000000000000001", "1"),
        ("02 20", "-1"),
        ("02 1bffffffffffffffff", "18446744073709551615"),
        ("02 3b7fffffffffffffff", "-9223372036854775808"),
        ("02 3bffffffffffffffff", "-1.8446744073709552e19"),
        ("02 f93c00", "1"),
        ("02 f93e00", "1.5"),
        ("02 f90001", "5.960464477539063e-8"),
        ("02 f98000", "0"),
        ("02 fa3fc00000", "1.5"),
        ("02 fb3ff199999999999a", "1.1"),
        ("02 c4 82 21 19 6ab3", "273.15"),
        ("02 c4 82 02 03", "300"),
        ("02 c4 9f 21 19 6ab3 ff", "273.15"),
        ("02 c4 82 20 c2 43 010000", "6553.6"),
        ("02 c4 82 20 c3 43 010000", "-6553.7"),
        ("04 f5", "true"),
        ("03 6178", "\"x\""),
        ("03 7f 6178 60 6179 ff", "\"xy\""),
        ("03 60", "\"\""),
        ("08 43 010203", "\"data:application/octet-stream;base64,AQID\""),
        ("08 5f 41 01 42 0203 ff", "\"data:application/octet-stream;base64,AQID\""),
        // Text labels.
        ("6176 01", "1"),
        ("7f 61 76 61 73 ff 6178", "\"x\""),
    ];
    for (field, expected) in good {
        assert_eq!(cbor_record(field), Ok(format!("{{\"a\":{expected}}}")), "{field}");
    }
    let faults = [
        ("02 f97c00", "/v: is not a finite number"),
        ("02 f97e00", "/v: is not a finite number"),
        ("02 fbfff0000000000000", "/v: is not a finite number"),
        ("02 c4 82 1903e8 01", "/v: is not a finite number"),
        ("02 c2 41 01", "/v: has a tag"),
        ("02 c1 01", "/v: has a tag"),
        ("02 c4 01", "/v: has a tag"),
        ("02 c4 83 01 01 01", "/v: has a tag"),
        ("02 c4 81 01", "/v: has a tag"),
        ("02 c4 9f 01 01 01 ff", "/v: has a tag"),
        ("02 c4 82 01 f93c00", "/v: has a tag"),
        ("02 c4 82 00 c2 51 0100000000000000000000000000000000", "/v: has a tag"),
        ("02 f6", "/v: must not be null"),
        ("02 f7", "/v: must not be null"),
        ("02 e0", "/v: is of no type"),
        ("02 a0", "/v: must not be an array or a map"),
        ("08 6161", "/vd: must be a byte string"),
        ("03 4161", "/vs: must be a text"),
        ("40 01", "a label is an integer or a text"),
        ("f93c00 01", "a label is an integer or a text"),
        ("00 6161", "/n: occurs twice"),
        ("18ff 01", "has no value"),
    ];
    for (field, expected) in faults {
        let found = cbor_record(field).unwrap_err();
        assert!(found.starts_with(expected), "{field}: {found}");
    }
    let indefinite = run(Format::SenmlCbor, hex("9f bf 00 6161 02 01 ff ff")).unwrap();
    assert_eq!(readings(&indefinite), [(0, 0, r#"{"a":1}"#)]);
}

#[test]
fn cbor_that_is_no_pack() {
    let table = [
        ("", DecodeError::Cbor { at: 0 }),
        ("a0", DecodeError::NotAPack),
        ("d9d9f7 80", DecodeError::NotAPack),
        ("81", DecodeError::Cbor { at: 1 }),
        ("80 00", DecodeError::Cbor { at: 1 }),
        ("81 a2 00 6161 02", DecodeError::Cbor { at: 6 }),
        ("81 a1 00 62 61", DecodeError::Cbor { at: 4 }),
        ("81 a1 00 61 ff", DecodeError::Cbor { at: 5 }),
        ("81 ff", DecodeError::Cbor { at: 1 }),
        ("81 a1 00 ff", DecodeError::Cbor { at: 3 }),
        ("9f bf 00 ff ff", DecodeError::Cbor { at: 3 }),
        ("9f a0", DecodeError::Cbor { at: 2 }),
        ("81 1c", DecodeError::Cbor { at: 1 }),
        ("81 a1 00 7f 4161 ff", DecodeError::Cbor { at: 5 }),
        ("81 a1 1863 7b ffffffffffffffff", DecodeError::Cbor { at: 13 }),
        ("81 a1 1863 9b ffffffffffffffff", DecodeError::Cbor { at: 13 }),
    ];
    for (body, expected) in table {
        assert_eq!(run(Format::SenmlCbor, hex(body)), Err(expected), "{body}");
    }
    // Thirty more may be open within a record, whatever they are.
    for (open, inside) in [("81", "00"), ("c1", "00"), ("a100", "00"), ("9f", "")] {
        let nested = |depth: usize| {
            let close = if open == "9f" { "ff".repeat(depth) } else { String::new() };
            hex(&format!("81 a1 1863 {}{inside}{close}", open.repeat(depth)))
        };
        assert!(run(Format::SenmlCbor, nested(30)).is_ok(), "{open}");
        let error = run(Format::SenmlCbor, nested(31)).unwrap_err();
        assert!(matches!(error, DecodeError::CborTooDeep { .. }), "{open}: {error}");
        let error = run(Format::SenmlCbor, nested(300_000)).unwrap_err();
        assert!(matches!(error, DecodeError::CborTooDeep { .. }), "{open}: {error}");
    }
    let deep = run(Format::SenmlCbor, hex("81").repeat(500_000)).unwrap_err();
    assert!(matches!(deep, DecodeError::CborTooDeep { .. }), "{deep}");
}

#[test]
fn a_long_base_name_is_not_copied_into_every_record() {
    let mut pack = vec![json!({"bn": "a".repeat(900_000)})];
    pack.extend((0..99).map(|n| json!({"n": n.to_string(), "v": n})));
    let batch = run(Format::SenmlJson, Value::from(pack).to_string()).unwrap();
    assert_eq!((batch.items.len(), batch.rejected.len()), (0, 100));
}

fn field() -> impl Strategy<Value = (&'static str, Value)> {
    let label = prop::sample::select(vec![
        "bn", "bt", "bu", "bv", "bs", "n", "n", "n", "u", "v", "v", "v", "vs", "vb", "vd", "s", "t", "t", "ut", "x",
        "bver",
    ]);
    let value = prop_oneof![
        8 => any::<i32>().prop_map(|n| json!(n)),
        3 => any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| json!(n)),
        6 => (-100..100_i32, 0..1_000_000_u32).prop_map(|(s, us)| json!(f64::from(s) + f64::from(us) / 1e6)),
        3 => (0..60_u32, 0..1_000_000_u32).prop_map(|(s, us)| json!(1_795_427_950.0 + f64::from(s) + f64::from(us) / 1e6)),
        8 => "[a-z0-9:/_%]{0,4}".prop_map(|text| json!(text)),
        1 => "\\PC{0,6}".prop_map(|text| json!(text)),
        2 => any::<bool>().prop_map(|yes| json!(yes)),
        1 => Just(json!(null)),
        1 => Just(json!([1, {"x": 2}])),
        3 => Just(json!(10)),
    ];
    (label, value)
}

fn pack() -> impl Strategy<Value = Value> {
    let record = proptest::collection::vec(field(), 0..6)
        .prop_map(|fields| fields.into_iter().map(|(label, value)| (label.to_owned(), value)).collect::<Value>());
    proptest::collection::vec(record, 0..8).prop_map(Value::from)
}

/// Index and kind.
type Refused = Vec<(u64, String)>;

/// What is told of refused records, without the sentences: an object is a map in CBOR.
fn outcome(result: Result<ReadingBatch, DecodeError>) -> Result<(Vec<crate::ingest::BatchItem>, Refused), DecodeError> {
    let batch = result?;
    Ok((batch.items, batch.rejected.into_iter().map(|item| (item.index, item.kind)).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn both_encodings_of_a_pack_make_the_same_readings(pack in pack()) {
        let json = outcome(run(Format::SenmlJson, pack.to_string()));
        let cbor = outcome(run(Format::SenmlCbor, cbor::pack(&pack)));
        prop_assert_eq!(json, cbor, "{}", pack);
    }

    #[test]
    fn no_record_is_dropped_in_silence(pack in pack()) {
        if let Ok(batch) = run(Format::SenmlJson, pack.to_string()) {
            let records = pack.as_array().unwrap();
            let measuring = records.iter().filter(|record| {
                record.as_object().unwrap().keys().any(|label| !matches!(label.as_str(), "x" | "bn" | "bt" | "bu" | "bv" | "bs" | "bver"))
            });
            let metrics = |values: &str| serde_json::from_str::<serde_json::Map<String, Value>>(values).unwrap().len();
            let stored: usize = batch.items.iter().map(|item| metrics(&item.reading.values)).sum();
            prop_assert!(stored + batch.rejected.len() >= measuring.count(), "{}", pack);
        }
    }

    #[test]
    fn any_bytes_get_an_answer(body in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = run(Format::SenmlJson, &body);
        let _ = run(Format::SenmlCbor, &body);
    }

    #[test]
    fn nearly_a_pack_gets_an_answer(pack in pack(), flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        for mut body in [pack.to_string().into_bytes(), cbor::pack(&pack)] {
            for (at, byte) in &flips {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            let _ = run(Format::SenmlJson, &body);
            let _ = run(Format::SenmlCbor, &body);
        }
    }
}
