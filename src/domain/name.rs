//! Names of fleets and devices: `[a-z0-9][a-z0-9._-]{0,62}`. And patterns of them.

use std::fmt;
use std::str::FromStr;

/// A valid fleet or device name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// The text is not a name; the message says what one is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 63 characters of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit")]
pub struct NotAName;

impl Name {
    /// The pattern, for schemas.
    pub const PATTERN: &'static str = "^[a-z0-9][a-z0-9._-]{0,62}$";

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let (first, rest) = text.as_bytes().split_first().ok_or(NotAName)?;
        let valid = rest.len() <= 62 && plain(*first) && rest.iter().all(|b| plain(*b) || b"._-".contains(b));
        if valid { Ok(Self(text.into())) } else { Err(NotAName) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

/// Which names are meant: `*` stands for any characters or none, `?` for one, every other for itself. The whole name
/// has to fit. Deliberately no regular expressions: what these can cost is bounded by their length times the name's.
#[derive(Clone, PartialEq, Eq)]
pub struct NamePattern(Box<str>);

/// The text is not a pattern of names; the message says what one is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("1 to 64 characters of a-z, 0-9, '.', '_' and '-', and of '*' (any characters) and '?' (one character)")]
pub struct NotAPattern;

impl NamePattern {
    const BYTES_MAX: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, name: &Name) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.0.as_bytes());
        let (mut at, mut reached) = (0, 0);
        // Behind the last `*`, and what of the name was left to it: only the last one need be tried anew.
        let mut last: Option<(usize, usize)> = None;
        while reached < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    last = Some((at, reached));
                }
                Some(wanted) if *wanted == b'?' || *wanted == name[reached] => (at, reached) = (at + 1, reached + 1),
                _ => match &mut last {
                    Some((behind, from)) => {
                        *from += 1;
                        (at, reached) = (*behind, *from);
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }

    /// The same as a regular expression for the whole name (PostgreSQL manual, 9.7.3).
    pub fn regular_expression(&self) -> String {
        let part = |byte: char| match byte {
            '*' => ".*".to_owned(),
            '?' => ".".to_owned(),
            '.' => r"\.".to_owned(),
            plain => plain.to_string(),
        };
        self.0.chars().map(part).collect()
    }
}

impl FromStr for NamePattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-*?".contains(&byte);
        let valid = (1..=Self::BYTES_MAX).contains(&text.len()) && text.bytes().all(known);
        if valid { Ok(Self(text.into())) } else { Err(NotAPattern) }
    }
}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamePattern({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        pattern.parse::<NamePattern>().unwrap().matches(&name.parse().unwrap())
    }

    /// What the pattern means, without care for the cost.
    fn means(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|taken| means(rest, &name[taken..])),
            Some((wanted, rest)) => name
                .split_first()
                .is_some_and(|(first, left)| (*wanted == b'?' || wanted == first) && means(rest, left)),
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("pump-*", "pump-"),
            ("pump-*", "pump-7"),
            ("*", "a"),
            ("pump-?", "pump-7"),
            ("a*b*c", "abxbc"),
            ("a.b", "a.b"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("pump-*", "my-pump-7"),
            ("pump-?", "pump-"),
            ("pump-?", "pump-77"),
            ("a.b", "a-b"),
            ("pump", "pump-7"),
            ("a*b", "abc"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        for bad in ["", "pump-[0-9]", "a|b", "A*", "ä", "a b", "(a*)*", "a\\.b", "a\0", &"*".repeat(65)] {
            assert_eq!(bad.parse::<NamePattern>(), Err(NotAPattern), "{bad:?}");
        }
        assert_eq!("a.*-?".parse::<NamePattern>().unwrap().regular_expression(), r"a\..*-.");
        // The worst there is: a regular expression like it would take for ever in a careless engine.
        assert!(!fits(&"*a".repeat(32), &format!("{}b", "a".repeat(62))));
    }

    proptest! {
        #[test]
        fn what_fits_is_what_is_meant(pattern in "[ab*?]{1,10}", name in "[ab]{1,10}") {
            prop_assert_eq!(fits(&pattern, &name), means(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn names() {
        for good in ["a", "0", "pump-1", "x.y_z-0", &"a".repeat(63)] {
            assert_eq!(good.parse::<Name>().map(|n| n.as_str().to_owned()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", ".a", "A", "a b", "a\0", "ä", &"a".repeat(64)] {
            assert_eq!(bad.parse::<Name>(), Err(NotAName), "{bad:?}");
        }
    }
}
