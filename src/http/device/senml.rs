//! SenML packs, for the description of the API: ingest reads them. The limits stand here as they are there.

use serde_json::{Value, json};

/// `application/senml+json`.
pub fn json() -> Value {
    let text = |what: &str| json!({"type": "string", "maxLength": 256, "description": what});
    let number = |what: &str| json!({"type": "number", "description": what});
    let pairs = [("v", "vs"), ("v", "vb"), ("v", "vd"), ("vs", "vb"), ("vs", "vd"), ("vb", "vd")];
    let pairs: Vec<Value> = pairs.iter().map(|(one, other)| json!({"required": [one, other]})).collect();
    json!({
        "type": "array",
        "maxItems": 1000,
        "description": "A SenML pack (RFC 8428, 5). The records of one time become one reading of at most 64 metrics, \
            each named by bn and n together, without what names the calling device, and by the unit in brackets \
            (`temp[Cel]`): at most 64 characters. Without a time it is the time of receipt, and a retry may store it \
            twice.",
        "items": {
            "type": "object",
            "properties": {
                "bver": {"type": "integer", "minimum": 1, "maximum": 10},
                "bn": text("Stands before the names of this record and of those that follow."),
                "bt": number("Is added to their times."),
                "bu": text("Is the unit of those without one."),
                "bv": number("Is added to their v."),
                "bs": number("Is added to their s."),
                "n": text("With bn: letters, digits and -:./_, beginning with a letter or digit."),
                "u": text("The unit. Empty: none."),
                "v": number("The value."),
                "vs": {"type": "string", "maxLength": 1024, "description": "Or a text."},
                "vb": {"type": "boolean", "description": "Or a boolean."},
                "vd": {
                    "type": "string",
                    "maxLength": 984,
                    "pattern": "^[A-Za-z0-9_-]*$",
                    "description": "Or bytes, base64url without padding. Read as a data URL (RFC 2397).",
                },
                "s": number("The sum over time; a metric of its own, whose unit is that of v multiplied by s."),
                "t": number("Seconds: since 1970 from 2^28 on, below it from the time of receipt. To the microsecond."),
                "ut": number("Is checked and not kept."),
            },
            "patternProperties": {"_$": false},
            "not": {"anyOf": pairs},
        },
    })
}

/// `application/senml+cbor`.
pub fn cbor() -> Value {
    json!({"description": "The same in CBOR, with the integer labels of RFC 8428, 6."})
}
