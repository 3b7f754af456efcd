//! The examples of RFC 8428, sections 5.1 and 6, and what the RFC says that they mean.

#![cfg(test)]

use super::cbor::Reader;
use super::number::Number;
use super::record::{Measured, Record};
use super::resolve::{Resolved, Resolver};
use super::tests::cbor_of;
use super::{json, scan};

const NOW: i64 = 1_795_428_000_000_000;

fn resolve<'a>(records: impl IntoIterator<Item = Record<'a>>) -> Vec<Resolved<'a>> {
    let mut resolver = Resolver::new(NOW);
    let records = records.into_iter().enumerate();
    records.filter_map(|(index, record)| resolver.resolve(index, record).unwrap().unwrap()).collect()
}

fn of_json(text: &str) -> Vec<Resolved<'_>> {
    resolve(scan::items(text, 100).unwrap().into_iter().map(|item| json::record(item).unwrap()))
}

fn of_cbor(body: &[u8]) -> Vec<Resolved<'_>> {
    let mut reader = Reader::open(body, 100).unwrap();
    resolve(std::iter::from_fn(|| reader.read().unwrap()))
}

/// The pack, in both encodings, means what the resolved one says.
#[track_caller]
fn means(pack: &str, resolved: &str) {
    let expected = of_json(resolved);
    assert_eq!(of_json(pack), expected);
    assert_eq!(of_cbor(&cbor_of(pack)), expected);
}

#[test]
fn single_data_point() {
    let pack = r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#;
    let expected = Resolved {
        name: "urn:dev:ow:10e2073a01080063".to_owned(),
        unit: "Cel".into(),
        ts_us: NOW,
        value: Some(Measured::Number(Number::Float(23.1))),
        sum: None,
    };
    assert_eq!(of_json(pack), [expected]);
    means(pack, pack);
}

#[test]
fn multiple_data_points() {
    means(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]"#,
        r#"[{"n":"urn:dev:ow:10e2073a01080063:voltage","u":"V","v":120.1},
            {"n":"urn:dev:ow:10e2073a01080063:current","u":"A","v":1.2}]"#,
    );
    means(SECONDS, SECONDS_RESOLVED);
    let times: Vec<_> = of_json(SECONDS).iter().map(|record| record.ts_us - 1_276_020_076_001_000).collect();
    assert_eq!(times, [0, -5_000_000, -4_000_000, -3_000_000, -2_000_000, -1_000_000, 0]);
}

const SECONDS: &str = r#"[
     {"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,
      "bu":"A","bver":5,
      "n":"voltage","u":"V","v":120.1},
     {"n":"current","t":-5,"v":1.2},
     {"n":"current","t":-4,"v":1.3},
     {"n":"current","t":-3,"v":1.4},
     {"n":"current","t":-2,"v":1.5},
     {"n":"current","t":-1,"v":1.6},
     {"n":"current","v":1.7}
   ]"#;

const SECONDS_RESOLVED: &str = r#"[
     {"n":"urn:dev:ow:10e2073a0108006:voltage","u":"V","t":1.276020076001e+09,"v":120.1},
     {"n":"urn:dev:ow:10e2073a0108006:current","u":"A","t":1.276020071001e+09,"v":1.2},
     {"n":"urn:dev:ow:10e2073a0108006:current","u":"A","t":1.276020072001e+09,"v":1.3},
     {"n":"urn:dev:ow:10e2073a0108006:current","u":"A","t":1.276020073001e+09,"v":1.4},
     {"n":"urn:dev:ow:10e2073a0108006:current","u":"A","t":1.276020074001e+09,"v":1.5},
     {"n":"urn:dev:ow:10e2073a0108006:current","u":"A","t":1.276020075001e+09,"v":1.6},
     {"n":"urn:dev:ow:10e2073a0108006:current","u":"A","t":1.276020076001e+09,"v":1.7}
   ]"#;

/// Section 6: the RFC's own bytes.
const SECONDS_CBOR: &str = "
     87 a7 21 78 1b 75 72 6e 3a 64 65 76 3a 6f 77 3a 31 30 65 32 30 37 33 61 30 31 30 38 30 30 36 3a
     22 fb 41 d3 03 a1 5b 00 10 62 23 61 41 20 05 00 67 76 6f 6c 74 61 67 65 01 61 56 02 fb 40 5e 06
     66 66 66 66 66 a3 00 67 63 75 72 72 65 6e 74 06 24 02 fb 3f f3 33 33 33 33 33 33 a3 00 67 63 75
     72 72 65 6e 74 06 23 02 fb 3f f4 cc cc cc cc cc cd a3 00 67 63 75 72 72 65 6e 74 06 22 02 fb 3f
     f6 66 66 66 66 66 66 a3 00 67 63 75 72 72 65 6e 74 06 21 02 f9 3e 00 a3 00 67 63 75 72 72 65 6e
     74 06 20 02 fb 3f f9 99 99 99 99 99 9a a3 00 67 63 75 72 72 65 6e 74 06 00 02 fb 3f fb 33 33 33
     33 33 33";

#[test]
fn the_dump_of_section_6() {
    let bytes: Vec<u8> = SECONDS_CBOR.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    assert_eq!(bytes.len(), 0xc3);
    assert_eq!(of_cbor(&bytes), of_json(SECONDS_RESOLVED));
}

#[test]
fn multiple_measurements() {
    means(
        r#"[
     {"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},
     {"u":"lon","v":24.30621},
     {"u":"lat","v":60.07965},
     {"t":60,"v":20.3},
     {"u":"lon","t":60,"v":24.30622},
     {"u":"lat","t":60,"v":60.07965},
     {"t":120,"v":20.7},
     {"u":"lon","t":120,"v":24.30623},
     {"u":"lat","t":120,"v":60.07966},
     {"u":"%EL","t":150,"v":98},
     {"t":180,"v":21.2},
     {"u":"lon","t":180,"v":24.30628},
     {"u":"lat","t":180,"v":60.07967}
   ]"#,
        r#"[
     {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067464e+09,"v":20},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067464e+09,"v":24.30621},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067464e+09,"v":60.07965},
     {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067524e+09,"v":20.3},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067524e+09,"v":24.30622},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067524e+09,"v":60.07965},
     {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067584e+09,"v":20.7},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067584e+09,"v":24.30623},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067584e+09,"v":60.07966},
     {"n":"urn:dev:ow:10e2073a01080063","u":"%EL","t":1.320067614e+09,"v":98},
     {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067644e+09,"v":21.2},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067644e+09,"v":24.30628},
     {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067644e+09,"v":60.07967}
   ]"#,
    );
}

#[test]
fn multiple_data_types() {
    let pack = r#"[
    {"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},
    {"n":"label","vs":"Machine Room"},
    {"n":"open","vb":false},
    {"n":"nfv-reader","vd":"aGkgCg"}
  ]"#;
    means(
        pack,
        r#"[
    {"n":"urn:dev:ow:10e2073a01080063:temp","u":"Cel","v":23.1},
    {"n":"urn:dev:ow:10e2073a01080063:label","vs":"Machine Room"},
    {"n":"urn:dev:ow:10e2073a01080063:open","vb":false},
    {"n":"urn:dev:ow:10e2073a01080063:nfv-reader","vd":"aGkgCg"}
  ]"#,
    );
    let values: Vec<_> = of_json(pack).into_iter().filter_map(|record| record.value).collect();
    let expected = [
        Measured::Number(Number::Float(23.1)),
        Measured::Text("Machine Room".into()),
        Measured::Bool(false),
        Measured::Data((&b"hi \n"[..]).into()),
    ];
    assert_eq!(values, expected);
}

#[test]
fn collection_of_resources() {
    means(
        r#"[
     {"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},
     {"n":"humidity","u":"%RH","v":30},
     {"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},
     {"n":"humidity","u":"%RH","v":67}
   ]"#,
        r#"[
     {"n":"2001:db8::2/temperature","t":1320078429,"u":"Cel","v":25.2},
     {"n":"2001:db8::2/humidity","t":1320078429,"u":"%RH","v":30},
     {"n":"2001:db8::1/temperature","t":1320078429,"u":"Cel","v":12.3},
     {"n":"2001:db8::1/humidity","t":1320078429,"u":"%RH","v":67}
   ]"#,
    );
}

#[test]
fn setting_an_actuator() {
    means(
        r#"[
     {"bn":"urn:dev:ow:10e2073a01080063:"},
     {"n":"temp","u":"Cel","v":23.1},
     {"n":"heat","u":"/","v":1},
     {"n":"fan","u":"/","v":0}
   ]"#,
        r#"[
     {"n":"urn:dev:ow:10e2073a01080063:temp","u":"Cel","v":23.1},
     {"n":"urn:dev:ow:10e2073a01080063:heat","u":"/","v":1},
     {"n":"urn:dev:ow:10e2073a01080063:fan","u":"/","v":0}
   ]"#,
    );
    means(
        r#"[
     {"bt":1.320078429e+09,"bu":"/","n":"2001:db8::3","v":0.5},
     {"n":"2001:db8::4","v":0.5},
     {"n":"2001:db8::3","t":0.1,"v":0},
     {"n":"2001:db8::4","t":0.1,"v":0}
   ]"#,
        r#"[
     {"n":"2001:db8::3","u":"/","t":1320078429,"v":0.5},
     {"n":"2001:db8::4","u":"/","t":1320078429,"v":0.5},
     {"n":"2001:db8::3","u":"/","t":1320078429.1,"v":0},
     {"n":"2001:db8::4","u":"/","t":1320078429.1,"v":0}
   ]"#,
    );
}
