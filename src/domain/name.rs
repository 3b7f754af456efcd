//! Names of fleets and devices: `[a-z0-9][a-z0-9._-]{0,62}`.

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

#[cfg(test)]
mod tests {
    use super::*;

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
