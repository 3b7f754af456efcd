//! An operator's calls: JSON in, JSON out, with a bearer token; lists page by page.

use std::marker::PhantomData;
use std::sync::Arc;

use hyper::Method;
use hyper::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoints::Endpoints;
use super::error::ClientError;
use super::exchange::{Call, Http};
use super::settings::Context;
use super::trust::Trust;
use crate::wire::Page;

/// Clones share connections.
#[derive(Clone)]
pub struct AdminClient {
    http: Http,
    token: SecretString,
}

impl AdminClient {
    /// `ca_pem`: the bundle to trust.
    pub fn new(urls: &[String], ca_pem: &str, token: SecretString, context: Context) -> Result<Self, ClientError> {
        let endpoints = Arc::new(Endpoints::new(urls, &context.random)?);
        let http = Http::new(context, Trust::from_pem(ca_pem)?.anonymous()?, endpoints);
        Ok(Self { http, token })
    }

    /// `path` with its query; see [`with_query`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let call = Call::get(path).bearer(self.token.expose_secret())?;
        self.http.send(&call).await?.json()
    }

    /// A POST that is sent again when its outcome is not known, under one idempotency key.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let mut call = Call::post_json(path, body)?.bearer(self.token.expose_secret())?;
        let key = HeaderValue::try_from(uuid::Uuid::new_v4().to_string());
        call.idempotency_key = Some(key.map_err(|error| ClientError::Input(error.to_string()))?);
        debug_assert_eq!(call.method, Method::POST);
        let answer = self.http.send(&call).await?;
        if answer.body.is_empty() {
            return serde_json::from_str("null").map_err(|_| answer.unexpected("an empty body"));
        }
        answer.json()
    }

    /// The list at `path`, in pages of the size that the query's `limit` asks for.
    pub fn pages<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Pages<T> {
        let query = query.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Pages { client: self.clone(), path: path.to_owned(), query, next: Next::First, items: PhantomData }
    }
}

/// A list that is fetched page by page.
pub struct Pages<T> {
    client: AdminClient,
    path: String,
    query: Vec<(String, String)>,
    next: Next,
    items: PhantomData<fn() -> T>,
}

enum Next {
    First,
    Cursor(String),
    End,
}

impl<T: DeserializeOwned> Pages<T> {
    /// The next page; `None` after the last. After an error the same page is asked for again.
    pub async fn next(&mut self) -> Result<Option<Vec<T>>, ClientError> {
        let mut query = self.query.clone();
        match &self.next {
            Next::First => {}
            Next::Cursor(cursor) => query.push(("cursor".to_owned(), cursor.clone())),
            Next::End => return Ok(None),
        }
        let page: Page<T> = self.client.get(&with_query(&self.path, &query)).await?;
        self.next = match (page.next, &self.next) {
            // The same cursor twice would be a list without an end.
            (Some(cursor), Next::Cursor(before)) if cursor == *before => Next::End,
            (Some(cursor), _) => Next::Cursor(cursor),
            (None, _) => Next::End,
        };
        Ok(Some(page.items))
    }

    /// At most `max` items, of as many pages as that takes.
    pub async fn take(mut self, max: usize) -> Result<Vec<T>, ClientError> {
        let mut all = Vec::new();
        while all.len() < max {
            let Some(page) = self.next().await? else { break };
            all.extend(page);
        }
        all.truncate(max);
        Ok(all)
    }
}

/// `path?name=value&…`, percent-encoded; parameters without a value have to be left out by the caller.
pub fn with_query<N: AsRef<str>, V: AsRef<str>>(path: &str, query: &[(N, V)]) -> String {
    let pair = |(name, value): &(N, V)| format!("{}={}", percent(name.as_ref()), percent(value.as_ref()));
    let pairs: Vec<_> = query.iter().map(pair).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Percent-encodes all but the unreserved characters (RFC 3986, 2.3).
pub fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&crate::domain::digest::hex(&[byte]).to_ascii_uppercase());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let query = [("from", "2026-11-23T10:00:00+02:00"), ("metric", "a b&ü")];
        let path = with_query("/v1/x", &query);
        assert_eq!(path, "/v1/x?from=2026-11-23T10%3A00%3A00%2B02%3A00&metric=a%20b%26%C3%BC");
        assert_eq!(with_query::<&str, &str>("/v1/x", &[]), "/v1/x");
    }
}
