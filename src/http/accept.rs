//! Media types: of what a caller sends, and of what it will take.

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};

/// The media type of the body, without parameters, in lower case; `None` if there is none or it is not text.
pub fn media_type(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let kind = essence(headers.get(CONTENT_TYPE)?.to_str().ok()?);
    let is_lower = !kind.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if is_lower { Cow::Borrowed(kind) } else { Cow::Owned(kind.to_ascii_lowercase()) })
}

/// Will the caller take `media`? An absent or unreadable `Accept` takes anything (RFC 9110, 12.5.1).
pub fn takes(headers: &HeaderMap, media: &str) -> bool {
    let mut ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if ranges.peek().is_none() {
        return true;
    }
    // The most specific range decides: its weight of 0 forbids what a wider one would allow.
    let ranges = ranges.flat_map(|value| value.split(',')).filter_map(|range| fit(range, media));
    ranges.max_by_key(|(width, _)| *width).is_some_and(|(_, wanted)| wanted)
}

fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

/// How precisely a range names `media` (3 exactly, 1 any), and whether its weight is above 0.
fn fit(range: &str, media: &str) -> Option<(u8, bool)> {
    let name = essence(range);
    let kind = media.split('/').next().unwrap_or_default();
    let width = match name {
        "*/*" => 1,
        exact if exact.eq_ignore_ascii_case(essence(media)) => 3,
        wide if wide.strip_suffix("/*").is_some_and(|wide| wide.eq_ignore_ascii_case(kind)) => 2,
        _ => return None,
    };
    let weight = range.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("q") { value.trim().parse::<f32>().ok() } else { None }
    });
    Some((width, weight.unwrap_or(1.0) > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_takes() {
        let table = [
            ("application/json", true),
            ("*/*", true),
            ("application/*; q=0.1", true),
            ("text/html, */*;q=0.1", true),
            ("Application/JSON;charset=utf-8", true),
            ("text/html", false),
            ("application/json;q=0, */*", false),
            ("*/*;q=0", false),
        ];
        for (accept, expected) in table {
            let headers = [(ACCEPT, accept.parse().unwrap())].into_iter().collect();
            assert_eq!(takes(&headers, "application/json"), expected, "{accept}");
        }
        assert!(takes(&HeaderMap::new(), "application/json"));
    }
}
