//! Pages of lists. A cursor holds the key after which the next page begins, and a seal of the query it belongs to
//! (route and filters): with another query it is `bad-cursor`. It is opaque, not secret: whoever edits it asks for
//! another page of what they may see anyway.
//!
//! Keys must be unique and in the order of the list, so that rows inserted meanwhile neither repeat nor hide others.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::scan_any;
use crate::wire::Page;
use crate::wire::problem::Slug;

pub const LIMIT_DEFAULT: u32 = 100;
pub const LIMIT_MAX: u32 = 1_000;
/// Longer cursors than any key makes are not decoded.
const CURSOR_MAX: usize = 1_024;

type Seal = [u8; 8];

/// The query of a list without filters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<String>,
}

/// One request for a page.
#[derive(Debug)]
pub struct Paging<K> {
    limit: u32,
    /// The key of the last row of the page before.
    pub after: Option<K>,
    seal: Seal,
}

impl<K: Serialize + DeserializeOwned> Paging<K> {
    /// `route` and `filters` are what the cursor is sealed with: everything that decides which rows are in the list
    /// and their order, but not `limit` and `cursor`.
    pub fn new(
        route: &str,
        filters: &impl Serialize,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Self, ApiError> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(ApiError::field("?limit", format!("1 to {LIMIT_MAX}")));
        }
        let seal = seal(route, filters)?;
        let after = cursor.map(|cursor| open(cursor, seal).ok_or_else(bad_cursor)).transpose()?;
        Ok(Self { limit, after, seal })
    }

    /// Of a list without filters; `within`: what its path names.
    pub fn asked(route: &str, within: &impl Serialize, asked: &PageQuery) -> Result<Self, ApiError> {
        Self::new(route, within, asked.limit, asked.cursor.as_deref())
    }

    /// The key as the store takes it. A key that `read` makes nothing of was edited: `bad-cursor`.
    pub fn after_as<T>(&self, read: impl FnOnce(&K) -> Option<T>) -> Result<Option<T>, ApiError> {
        self.after.as_ref().map(|key| read(key).ok_or_else(bad_cursor)).transpose()
    }

    /// How many rows to fetch: one more than the page has, to know whether there is another.
    pub fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// How many rows the page has at most.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The cursor of the page that begins after `key`.
    pub fn cursor(&self, key: &K) -> Option<String> {
        close(key, self.seal)
    }

    /// Makes the page of what was fetched.
    pub fn page<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> K) -> Page<T> {
        let limit = self.limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).and_then(|last| close(&key(last), self.seal));
        Page { items, next }
    }
}

fn bad_cursor() -> ApiError {
    ApiError::because(Slug::BadCursor, "Begin again without a cursor, or repeat the query that the cursor came from.")
}

fn seal(route: &str, filters: &impl Serialize) -> Result<Seal, ApiError> {
    let filters = serde_json::to_vec(filters).map_err(|error| ApiError::internal(&error.to_string()))?;
    let mut sum = Context::new(&SHA256);
    sum.update(route.as_bytes());
    sum.update(&[0]);
    sum.update(&filters);
    let mut seal = Seal::default();
    seal.copy_from_slice(&sum.finish().as_ref()[..8]);
    Ok(seal)
}

fn close(key: &impl Serialize, seal: Seal) -> Option<String> {
    let mut bytes = seal.to_vec();
    serde_json::to_writer(&mut bytes, key).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

fn open<K: DeserializeOwned>(cursor: &str, seal: Seal) -> Option<K> {
    if cursor.len() > CURSOR_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let key = bytes.strip_prefix(&seal)?;
    // No key of ours holds NUL, and PostgreSQL does not take it.
    scan_any(key).ok()?;
    serde_json::from_slice(key).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(filter: &str, limit: Option<u32>, cursor: Option<&str>) -> Result<Paging<(String, u64)>, Slug> {
        Paging::new("/v1/things", &filter, limit, cursor).map_err(|error| error.slug())
    }

    #[test]
    fn a_cursor_belongs_to_its_query() {
        let first = ask("a", Some(2), None).unwrap();
        assert_eq!((first.fetch(), &first.after), (3, &None));
        let page = first.page(vec![1, 2, 3], |n| ("x".to_owned(), *n));
        assert_eq!(page.items, [1, 2]);
        let cursor = page.next.unwrap();
        assert_eq!(ask("a", Some(9), Some(&cursor)).unwrap().after, Some(("x".to_owned(), 2)));
        assert_eq!(ask("b", Some(2), Some(&cursor)).unwrap_err(), Slug::BadCursor);
        for cursor in ["", "x", "AAAA", &cursor[1..], &format!("{cursor}AA"), &"A".repeat(2_000)] {
            assert_eq!(ask("a", None, Some(cursor)).unwrap_err(), Slug::BadCursor, "{cursor}");
        }
    }

    #[test]
    fn an_edited_key_is_refused() {
        let cursor = |key: &str| ask("a", None, None).unwrap().cursor(&(key.to_owned(), 7)).unwrap();
        assert_eq!(ask("a", None, Some(&cursor("a\0b"))).unwrap_err(), Slug::BadCursor);
        assert!(ask("a", None, Some(&cursor("a\\u0000b"))).is_ok(), "no NUL, only its name");
        let paging = ask("a", None, Some(&cursor("x"))).unwrap();
        assert_eq!(paging.after_as(|(_, n)| Some(*n)).unwrap(), Some(7));
        assert_eq!(paging.after_as(|_| None::<u64>).unwrap_err().slug(), Slug::BadCursor);
        assert_eq!(ask("a", None, None).unwrap().after_as(|_| None::<u64>).unwrap(), None);
    }

    #[test]
    fn the_last_page_has_no_next() {
        let paging = ask("a", Some(2), None).unwrap();
        assert_eq!(paging.page(vec![1, 2], |n| (String::new(), *n)).next, None);
        assert_eq!(ask("a", Some(0), None).unwrap_err(), Slug::Invalid);
        assert_eq!(ask("a", Some(1_001), None).unwrap_err(), Slug::Invalid);
    }
}
