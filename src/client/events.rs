//! Events as they happen, none missed and none twice: by the position that the service gives with each page, since an
//! event with a lower id may be committed after one with a higher.

use serde::Deserialize;
use serde_json::Value;

use super::admin::{AdminClient, with_query};
use super::error::ClientError;

/// The longest page that the service gives.
const PAGE_MAX: usize = 1_000;
/// More than this is given in several calls.
const AT_ONCE_MAX: usize = 10 * PAGE_MAX;
const PATH: &str = "/v1/events";

#[derive(Deserialize)]
struct EventPage {
    items: Vec<Value>,
    next: Option<String>,
    resume: Option<String>,
}

/// A place in the stream of events that match a query.
pub struct EventFeed {
    client: AdminClient,
    query: Vec<(&'static str, String)>,
    cursor: Option<String>,
}

impl EventFeed {
    /// `query`: the filters; not `order`, `limit` or `cursor`.
    pub fn new(client: AdminClient, query: Vec<(&'static str, String)>) -> Self {
        Self { client, query, cursor: None }
    }

    /// The newest events, `max` of them (at most 1000), oldest first; [`EventFeed::next`] goes on after them.
    pub async fn newest(&mut self, max: usize) -> Result<Vec<Value>, ClientError> {
        let mut page = self.page("desc", max.clamp(1, PAGE_MAX), None).await?;
        self.cursor = page.resume;
        page.items.reverse();
        Ok(page.items)
    }

    /// What has come since; none if nothing has. After an error the same is asked for again. `bad-cursor`: what came
    /// next is not kept any more, so something was missed.
    pub async fn next(&mut self) -> Result<Vec<Value>, ClientError> {
        let mut all = Vec::new();
        let mut cursor = self.cursor.clone();
        loop {
            let page = self.page("asc", PAGE_MAX, cursor.as_deref()).await?;
            all.extend(page.items);
            let more = page.next.is_some() && all.len() < AT_ONCE_MAX;
            cursor = page.resume.or(cursor);
            if !more {
                self.cursor = cursor;
                return Ok(all);
            }
        }
    }

    async fn page(&self, order: &str, limit: usize, cursor: Option<&str>) -> Result<EventPage, ClientError> {
        let mut query = self.query.clone();
        query.extend([("order", order.to_owned()), ("limit", limit.to_string())]);
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        self.client.get(&with_query(PATH, &query)).await
    }
}
