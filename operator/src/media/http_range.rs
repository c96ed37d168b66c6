//! Which bytes a request asks for: conditions and ranges of RFC 9110 (sections 13 and 14). Pure functions.
//!
//! Scope: strong ETags, no dates (no Last-Modified is sent), one range. A request for several ranges is answered with
//! the whole medium, which section 14.2 allows and every client must accept.
//!
//! Why this is not a library: http-range-header and headers parse the Range header, which is a third of this file, but
//! not the conditions, and they would have to be limited to one range.

use axum::http::{HeaderMap, HeaderName, Method, header};
use std::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// A range that is not empty and within the size.
    Part(Range<u64>),
    /// The client has the current version.
    NotModified,
    /// The client asked for another version (If-Match).
    ConditionFailed,
    /// The range is outside of the medium.
    OutOfRange,
}

/// `etag` with its quotes; `size` in bytes.
pub fn select(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Selection {
    // In the order of section 13.2.2.
    if headers.contains_key(header::IF_MATCH) && !names(headers, header::IF_MATCH, etag, false) {
        return Selection::ConditionFailed;
    }
    if headers.contains_key(header::IF_NONE_MATCH) && names(headers, header::IF_NONE_MATCH, etag, true) {
        return Selection::NotModified;
    }
    // Ranges are defined for GET only (section 14.2). With If-Range, a part is sent only for the current version. A
    // date in If-Range never matches, because no date is sent.
    let same = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    if method == Method::GET && same { range(headers, size) } else { Selection::Whole }
}

/// Whether a list of ETags contains this one. `weakly`: also as a weak tag.
fn names(headers: &HeaderMap, name: HeaderName, etag: &str, weakly: bool) -> bool {
    let values = headers.get_all(name);
    let mut tags =
        values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag == etag || (weakly && tag.strip_prefix("W/") == Some(etag)))
}

fn range(headers: &HeaderMap, size: u64) -> Selection {
    let mut values = headers.get_all(header::RANGE).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => parse(value, size).unwrap_or(Selection::Whole),
        _ => Selection::Whole,
    }
}

/// `None`: several ranges, another unit, or a malformed range. All of these are ignored.
fn parse(value: &str, size: u64) -> Option<Selection> {
    let (unit, set) = value.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let range = match (number(first)?, number(last)?) {
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), last) => first..last.map_or(size, |last| last.saturating_add(1)).min(size),
        (None, Some(length)) => size.saturating_sub(length)..size,
        (None, None) => return None,
    };
    Some(if range.is_empty() { Selection::OutOfRange } else { Selection::Part(range) })
}

/// A number, or an empty text. A number that is too large for u64 becomes the largest one.
fn number(text: &str) -> Option<Option<u64>> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ETAG: &str = "\"aa-bb\"";

    fn asked(method: &Method, headers: &[(HeaderName, &str)]) -> Selection {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        select(method, &headers.collect(), ETAG, 1000)
    }
    fn ranged(range: &str) -> Selection {
        asked(&Method::GET, &[(header::RANGE, range)])
    }

    #[test]
    fn a_single_range_is_selected() {
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-999", 0..1000),
            ("bytes=10-19", 10..20),
            ("bytes=990-5000", 990..1000),
            ("bytes=999-", 999..1000),
            ("bytes=-1", 999..1000),
            ("bytes=-5000", 0..1000),
            ("BYTES=5-6", 5..7),
            ("bytes=5-99999999999999999999999", 5..1000),
            ("bytes=5-18446744073709551615", 5..1000),
        ] {
            assert_eq!(ranged(range), Selection::Part(part), "{range}");
        }
        for range in ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(ranged(range), Selection::OutOfRange, "{range}");
        }
        for range in
            ["bytes=", "bytes=-", "bytes=9-5", "bytes=0-1,5-6", "lines=0-1", "bytes", "bytes=+1-2", "bytes=a-b"]
        {
            assert_eq!(ranged(range), Selection::Whole, "{range}");
        }
        assert_eq!(asked(&Method::HEAD, &[(header::RANGE, "bytes=0-1")]), Selection::Whole);
    }

    #[test]
    fn two_ranges_in_two_headers_are_several_ranges() {
        let mut headers = HeaderMap::new();
        headers.append(header::RANGE, "bytes=0-1".parse().unwrap());
        headers.append(header::RANGE, "bytes=5-6".parse().unwrap());
        assert_eq!(select(&Method::GET, &headers, ETAG, 1000), Selection::Whole);
    }

    #[test]
    fn conditions_are_evaluated_before_the_range() {
        let range = (header::RANGE, "bytes=0-1");
        for (condition, value, selection) in [
            (header::IF_NONE_MATCH, ETAG, Selection::NotModified),
            (header::IF_NONE_MATCH, "\"x\", W/\"aa-bb\"", Selection::NotModified),
            (header::IF_NONE_MATCH, "*", Selection::NotModified),
            (header::IF_NONE_MATCH, "\"x\"", Selection::Part(0..2)),
            (header::IF_MATCH, "\"x\"", Selection::ConditionFailed),
            (header::IF_MATCH, "W/\"aa-bb\"", Selection::ConditionFailed),
            (header::IF_MATCH, "\"x\",\"aa-bb\"", Selection::Part(0..2)),
            (header::IF_RANGE, ETAG, Selection::Part(0..2)),
            (header::IF_RANGE, "W/\"aa-bb\"", Selection::Whole),
            (header::IF_RANGE, "\"x\"", Selection::Whole),
            (header::IF_RANGE, "Wed, 25 Nov 2026 00:00:00 GMT", Selection::Whole),
            (header::IF_MODIFIED_SINCE, "Wed, 25 Nov 2026 00:00:00 GMT", Selection::Part(0..2)),
        ] {
            assert_eq!(
                asked(&Method::GET, &[range.clone(), (condition.clone(), value)]),
                selection,
                "{condition}: {value}"
            );
        }
        assert_eq!(asked(&Method::HEAD, &[(header::IF_NONE_MATCH, ETAG)]), Selection::NotModified);
    }

    proptest! {
        /// Compares with the definition: the existing bytes whose numbers are in the range.
        #[test]
        fn a_range_selects_the_bytes_that_it_names(first in 0u64..300, last in 0u64..300, size in 0u64..200) {
            let of = |named: &dyn Fn(u64) -> bool| (0..size).filter(|number| named(*number)).collect::<Vec<_>>();
            let closed = (first <= last).then(|| of(&|number| (first..=last).contains(&number)));
            for (value, named) in [
                (format!("bytes={first}-{last}"), closed),
                (format!("bytes={first}-"), Some(of(&|number| number >= first))),
                (format!("bytes=-{last}"), Some(of(&|number| number + last >= size))),
            ] {
                let selected = match parse(&value, size) {
                    Some(Selection::Part(part)) => Some(part.collect()),
                    Some(Selection::OutOfRange) => Some(Vec::new()),
                    _ => None,
                };
                prop_assert_eq!(selected, named, "{} of {}", value, size);
            }
        }

        #[test]
        fn no_header_makes_it_panic(value in "[ -~]{0,40}", size: u64) {
            let _ = parse(&value, size);
            let _ = parse(&format!("bytes={value}"), size);
        }
    }
}
