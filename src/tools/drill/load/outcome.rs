//! What an answer, or its absence, says.

use crate::client::error::{ClientError, Refusal};
use crate::client::exchange::Answer;
use crate::tools::drill::evidence::{Call, Outcome};
use crate::wire::device::{HeartbeatAnswer, ReadingsAnswer};

/// Of an attempt; `None`: it was given up while it was under way.
pub(super) fn of(what: &Call, result: Option<&Result<Answer, ClientError>>) -> Outcome {
    match result {
        None => Outcome::Unknown { error: "the client stopped".to_owned() },
        Some(Err(error)) => failed(error),
        Some(Ok(answer)) if (200..300).contains(&answer.status) => acknowledged(what, answer),
        Some(Ok(answer)) => refused(&Refusal::read(&answer.endpoint, answer.status, None, &answer.body)),
    }
}

/// Of an enrollment; `None`: it succeeded.
pub(super) fn of_enrollment(error: Option<&ClientError>) -> Outcome {
    error.map_or_else(|| plain(CREATED), failed)
}

const CREATED: u16 = 201;

/// A success with nothing to count.
fn plain(status: u16) -> Outcome {
    let (stored, duplicates, rejected) = (0, 0, 0);
    Outcome::Acknowledged { status, stored, duplicates, rejected, degraded: false, next_in_ms: None }
}

fn refused(refusal: &Refusal) -> Outcome {
    let (status, problem) = (refusal.status, refusal.slug.map(|slug| slug.as_str().to_owned()));
    Outcome::Refused { status, problem, detail: refusal.detail.clone().filter(|_| status >= 500) }
}

fn failed(error: &ClientError) -> Outcome {
    let told = error.to_string();
    match error {
        ClientError::Refused(refusal) => refused(refusal),
        // There was no connection, so no byte of the request has left.
        ClientError::Connect { .. } | ClientError::Untrusted { .. } | ClientError::Input(_) => {
            Outcome::NotSent { error: told }
        }
        _ => Outcome::Unknown { error: told },
    }
}

/// Which commits an answer is given for that no standby has.
const DURABILITY: &str = "x-everbeat-durability";

fn acknowledged(what: &Call, answer: &Answer) -> Outcome {
    let mut readings = ReadingsAnswer::default();
    let mut next_in_ms = None;
    // An answer that cannot be read, or does not add up, says nothing.
    let nonsense = || Outcome::Unknown { error: format!("{} with a body that makes no sense", answer.status) };
    match what {
        Call::Readings { items, .. } => {
            let Ok(counts) = answer.json::<ReadingsAnswer>() else { return nonsense() };
            let accounted = counts.stored.saturating_add(counts.duplicates).saturating_add(counts.rejected_total);
            if accounted != items.len() as u64 {
                return nonsense();
            }
            readings = counts;
        }
        Call::Heartbeat => {
            let Ok(beat) = answer.json::<HeartbeatAnswer>() else { return nonsense() };
            let Ok(next_in) = std::time::Duration::try_from_secs_f64(beat.next_in_s) else { return nonsense() };
            next_in_ms = u64::try_from(next_in.as_millis()).ok();
        }
        _ => {}
    }
    Outcome::Acknowledged {
        status: answer.status,
        stored: readings.stored,
        duplicates: readings.duplicates,
        rejected: readings.rejected_total,
        degraded: answer.header(DURABILITY) == Some("degraded"),
        next_in_ms,
    }
}

/// The call with the version that a change or a read was answered with (`ETag`).
pub(super) fn versioned(mut what: Call, etag: Option<&str>) -> Call {
    if let Call::Change { version, .. } | Call::Read { version, .. } = &mut what {
        *version = etag.and_then(|etag| etag.trim_matches('"').parse().ok());
    }
    what
}

/// May another endpoint do better?
pub(super) fn elsewhere(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Acknowledged { .. } => false,
        Outcome::Refused { status, .. } => *status >= 500,
        Outcome::Unknown { .. } | Outcome::NotSent { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tools::drill::evidence::Item;

    #[test]
    fn what_certainly_was_not_sent_is_told_from_what_is_unknown() {
        let text = String::new;
        let not_sent = [
            ClientError::Connect { endpoint: text(), cause: text() },
            ClientError::Untrusted { endpoint: text(), cause: text() },
        ];
        let unknown = [
            ClientError::Broken { endpoint: text(), cause: text() },
            ClientError::Timeout { endpoint: text(), limit: Duration::ZERO },
            ClientError::Answer { endpoint: text(), detail: text() },
        ];
        for error in not_sent {
            assert!(matches!(of(&Call::Me, Some(&Err(error))), Outcome::NotSent { .. }));
        }
        for error in unknown {
            assert!(matches!(of(&Call::Me, Some(&Err(error))), Outcome::Unknown { .. }));
        }
        assert!(matches!(of(&Call::Me, None), Outcome::Unknown { .. }), "killed in the middle");
    }

    #[test]
    fn the_answer_says_that_no_standby_has_it() {
        let with = |value: Option<&'static str>, call: &Call, body| {
            let name = axum::http::HeaderName::from_static("x-everbeat-durability");
            let headers = value.into_iter().map(|value| (name.clone(), axum::http::HeaderValue::from_static(value)));
            of(call, Some(&Ok(Answer::example(headers.collect(), body))))
        };
        let readings = Call::Readings { items: vec![Item { n: 1, ts_unix_us: 0 }], retry_of: None };
        let stored = r#"{"stored":1,"duplicates":0,"rejected_total":0,"rejected":[]}"#;
        for (call, body) in [(readings, stored), (Call::Goodbye, "{}")] {
            for (value, said) in [(Some("degraded"), true), (Some("full"), false), (None, false)] {
                let outcome = with(value, &call, body);
                assert!(matches!(outcome, Outcome::Acknowledged { degraded, .. } if degraded == said), "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_version_comes_from_the_etag() {
        let read = || Call::Read { resource: "r".to_owned(), version: None };
        let with = |version| Call::Read { resource: "r".to_owned(), version };
        assert_eq!(versioned(read(), Some("\"7\"")), with(Some(7)));
        assert_eq!(versioned(read(), Some("W/x")), with(None));
        assert_eq!(versioned(read(), None), with(None));
        assert_eq!(versioned(Call::Me, Some("\"7\"")), Call::Me);
    }
}
