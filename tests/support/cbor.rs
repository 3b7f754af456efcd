//! Writes a SenML pack that is given as JSON in CBOR (RFC 8428, 6): integer labels, and bytes for `vd`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

const LABELS: [(&str, i64); 15] = [
    ("bver", -1),
    ("bn", -2),
    ("bt", -3),
    ("bu", -4),
    ("bv", -5),
    ("bs", -6),
    ("n", 0),
    ("u", 1),
    ("v", 2),
    ("vs", 3),
    ("vb", 4),
    ("s", 5),
    ("t", 6),
    ("ut", 7),
    ("vd", 8),
];

pub fn pack(json: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    value(json, false, &mut out);
    out
}

fn value(json: &Value, data: bool, out: &mut Vec<u8>) {
    match json {
        Value::Null => out.push(0xf6),
        Value::Bool(yes) => out.push(0xf4 + u8::from(*yes)),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => head(0, number, out),
            (None, Some(number), _) => integer(number, out),
            (None, None, number) => {
                out.push(0xfb);
                out.extend(number.into_iter().flat_map(f64::to_be_bytes));
            }
        },
        Value::String(text) => match URL_SAFE_NO_PAD.decode(text).ok().filter(|_| data) {
            Some(bytes) => string(2, &bytes, out),
            None => string(3, text.as_bytes(), out),
        },
        Value::Array(items) => {
            head(4, items.len() as u64, out);
            for item in items {
                value(item, false, out);
            }
        }
        Value::Object(members) => {
            head(5, members.len() as u64, out);
            for (name, member) in members {
                match LABELS.iter().find(|(label, _)| label == name) {
                    Some((_, number)) => integer(*number, out),
                    None => string(3, name.as_bytes(), out),
                }
                value(member, name == "vd", out);
            }
        }
    }
}

fn integer(number: i64, out: &mut Vec<u8>) {
    if number < 0 { head(1, number.unsigned_abs() - 1, out) } else { head(0, number.unsigned_abs(), out) }
}

fn string(major: u8, bytes: &[u8], out: &mut Vec<u8>) {
    head(major, bytes.len() as u64, out);
    out.extend(bytes);
}

/// Always with eight bytes where one does not do: a length is a length (RFC 8949, 3).
fn head(major: u8, argument: u64, out: &mut Vec<u8>) {
    match u8::try_from(argument) {
        Ok(small @ 0..24) => out.push(major << 5 | small),
        Ok(byte) => out.extend([major << 5 | 0x18, byte]),
        Err(_) => {
            out.push(major << 5 | 0x1b);
            out.extend(argument.to_be_bytes());
        }
    }
}
