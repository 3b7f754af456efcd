//! What can go wrong in a call, told apart by what helps: another endpoint, time, or nothing.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::state::StateError;
use crate::wire::problem::Slug;

/// The failure of a call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service answered, and the answer is no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("cannot connect to {endpoint}: {cause}")]
    Connect { endpoint: String, cause: String },
    /// The server's certificate is not of a CA that we trust, or not for this name.
    #[error("{endpoint} is not trusted: {cause}")]
    Untrusted { endpoint: String, cause: String },
    /// Outcome unknown.
    #[error("no answer from {endpoint} within {limit:?}")]
    Timeout { endpoint: String, limit: Duration },
    /// Outcome unknown.
    #[error("the connection to {endpoint} broke: {cause}")]
    Broken { endpoint: String, cause: String },
    /// There was an answer, but not one that the contract allows. Outcome unknown.
    #[error("unexpected answer from {endpoint}: {detail}")]
    Answer { endpoint: String, detail: String },
    /// The CA does not have the key that the enrollment token names: the token was not sent.
    #[error("the CA of {endpoint} does not have the key that the enrollment token names; the token was not sent")]
    WrongPin { endpoint: String },
    /// What the caller gave cannot be used: a URL, a CA file, a token.
    #[error("{0}")]
    Input(String),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cryptography: {0}")]
    Crypto(String),
}

impl ClientError {
    /// The problem's kind, where the service named one that we know.
    pub fn slug(&self) -> Option<Slug> {
        match self {
            Self::Refused(refusal) => refusal.slug,
            _ => None,
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// May the same call succeed later, with nothing changed on our side?
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal.status, 429 | 502 | 503 | 504),
            Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Untrusted { .. }
            | Self::Answer { .. }
            | Self::WrongPin { .. }
            | Self::Input(_)
            | Self::State(_)
            | Self::Crypto(_) => false,
        }
    }

    /// Has the device lost its identity for good, so that only a new enrollment helps?
    pub fn is_identity_lost(&self) -> bool {
        matches!(
            self.slug(),
            Some(Slug::CertificateRevoked | Slug::CertificateUnknown | Slug::CertificateUntrusted | Slug::KeyTaken)
        )
    }
}

/// An error answer, read leniently: whatever of the problem document was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub endpoint: String,
    pub status: u16,
    pub slug: Option<Slug>,
    pub title: Option<String>,
    pub detail: Option<String>,
    pub request_id: Option<String>,
    /// `pointer: detail` of each field that is wrong.
    pub fields: Vec<String>,
    /// How long the service asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads an error answer. A body that is no problem document leaves the status and what the header said.
    pub fn read(endpoint: &str, status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(printable);
        let field = |item: &Value| {
            let part = |name| item.get(name).and_then(Value::as_str).map(printable);
            Some(format!("{}: {}", part("pointer")?, part("detail").unwrap_or_default()))
        };
        Self {
            endpoint: endpoint.to_owned(),
            status,
            slug: body.get("type").and_then(Value::as_str).and_then(Slug::from_urn),
            title: text("title"),
            detail: text("detail"),
            request_id: text("request_id"),
            fields: body.get("errors").and_then(Value::as_array).into_iter().flatten().filter_map(field).collect(),
            retry_after: body.get("retry_after_ms").and_then(Value::as_u64).map(Duration::from_millis).or(retry_after),
        }
    }
}

/// Text of a server for a terminal: no control characters, and not endless.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {}", self.endpoint, self.status)?;
        for part in [&self.title, &self.detail].into_iter().flatten() {
            write!(f, ": {part}")?;
        }
        if !self.fields.is_empty() {
            write!(f, " ({})", self.fields.join("; "))?;
        }
        match &self.request_id {
            Some(id) => write!(f, " [request {id}]"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_read_leniently() {
        let body =
            br#"{"type":"urn:everbeat:problem:overloaded","title":7,"detail":"wait\u001b[2J","retry_after_ms":1500,
            "errors":[{"pointer":"/a","detail":"bad"},{"x":1}],"new":[]}"#;
        let refusal = Refusal::read("https://a", 503, Some(Duration::from_secs(2)), body);
        assert_eq!(refusal.slug, Some(Slug::Overloaded));
        assert_eq!(refusal.retry_after, Some(Duration::from_millis(1500)));
        assert_eq!((refusal.title, refusal.detail.as_deref()), (None, Some("wait[2J")));
        assert_eq!(refusal.fields, ["/a: bad"]);

        let bare = Refusal::read("https://a", 431, Some(Duration::from_secs(2)), b"<html>");
        assert_eq!((bare.slug, bare.retry_after), (None, Some(Duration::from_secs(2))));
        assert_eq!(bare.to_string(), "https://a answered 431");
    }
}
