//! One request over plain HTTP, to the ops listener of a replica.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Of an answer: `/metrics` of a large deployment fits.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// The status and the body of `GET url`, within `limit`.
///
/// # Errors
/// A sentence, when there is no answer.
pub async fn plain_get(url: &str, limit: Duration) -> Result<(u16, String), String> {
    let uri: hyper::Uri = url.parse().map_err(|_| format!("{url} is not a URL"))?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let call = async {
        let answer = client.get(uri).await.map_err(|error| format!("{url}: {error}"))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("{url}: {error}"))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(format!("{url}: no answer within {limit:?}")))
}
