//! One pass over a body that proves it to be JSON (RFC 8259) of bounded depth and finds its items. It recurses
//! nowhere and keeps one bit for each open bracket, so a million brackets cost no more than the thirty-third.
//! What follows, item by item, may then call any fault the item's own, and may recurse.

/// Brackets that may be open at one time, the batch's own included.
pub(super) const DEPTH_MAX: u32 = 32;

/// Why a text is not acceptable JSON. Positions are byte offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Syntax {
        at: usize,
    },
    TooDeep {
        at: usize,
    },
    /// A number, a string, a literal: JSON, but neither an object nor an array.
    Scalar,
    TooMany,
}

/// The items of a body: the elements of an array, or the one object.
pub(super) fn items(text: &str, items_max: usize) -> Result<Vec<&str>, Broken> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, open: 0, depth: 0 };
    scanner.blank();
    let mut items = Vec::new();
    if scanner.peek() == Some(b'[') {
        scanner.array(text, items_max, &mut items)?;
    } else {
        let begin = scanner.at;
        let scalar = scanner.peek() != Some(b'{');
        scanner.value()?;
        items.push(&text[begin..scanner.at]);
        if scalar {
            scanner.end()?;
            return Err(Broken::Scalar);
        }
    }
    scanner.end()?;
    Ok(items)
}

/// Is `text` one JSON value?
pub(super) fn single(text: &str) -> Result<(), Broken> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, open: 0, depth: 0 };
    scanner.blank();
    scanner.value()?;
    scanner.end()
}

/// The members of an object that [`items`] has found: each key, quotes included, with its value. `None`: no object.
pub(super) fn members(item: &str) -> Option<Members<'_>> {
    let mut scanner = Scanner { bytes: item.as_bytes(), at: 0, open: 0, depth: 0 };
    scanner.eat(b'{').then_some(Members { text: item, scanner })
}

pub(super) struct Members<'t> {
    text: &'t str,
    scanner: Scanner<'t>,
}

impl<'t> Iterator for Members<'t> {
    type Item = (&'t str, &'t str);

    fn next(&mut self) -> Option<Self::Item> {
        let scanner = &mut self.scanner;
        scanner.blank();
        // After the opening bracket there is none.
        scanner.eat(b',');
        scanner.blank();
        if scanner.peek() != Some(b'"') {
            return None;
        }
        let key = scanner.at;
        scanner.string().ok()?;
        let key = &self.text[key..scanner.at];
        scanner.blank();
        if !scanner.eat(b':') {
            return None;
        }
        scanner.blank();
        let value = scanner.at;
        scanner.value().ok()?;
        Some((key, &self.text[value..scanner.at]))
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// One bit for each open bracket, the innermost lowest: 1 is an object.
    open: u32,
    depth: u32,
}

impl Scanner<'_> {
    fn array<'t>(&mut self, text: &'t str, items_max: usize, items: &mut Vec<&'t str>) -> Result<(), Broken> {
        self.at += 1;
        self.depth = 1;
        self.blank();
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.blank();
            let begin = self.at;
            self.value()?;
            if items.len() == items_max {
                return Err(Broken::TooMany);
            }
            items.push(&text[begin..self.at]);
            self.blank();
            if self.eat(b']') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// Passes over one value. `at` is on its first byte.
    fn value(&mut self) -> Result<(), Broken> {
        let outside = self.depth;
        loop {
            let ended = self.begin_value()?;
            if ended && self.after_value(outside)? {
                return Ok(());
            }
        }
    }

    /// Passes over a scalar, an empty container, or the opening of another; false: its first value follows.
    fn begin_value(&mut self) -> Result<bool, Broken> {
        self.blank();
        match self.peek() {
            Some(b'{') => {
                self.push(1)?;
                self.blank();
                if self.eat(b'}') {
                    self.pop();
                    return Ok(true);
                }
                self.key()?;
                return Ok(false);
            }
            Some(b'[') => {
                self.push(0)?;
                self.blank();
                if self.eat(b']') {
                    self.pop();
                    return Ok(true);
                }
                return Ok(false);
            }
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            _ => return Err(self.syntax()),
        }
        Ok(true)
    }

    /// Passes over what may stand after a value: closing brackets, then a comma. True: the outermost value is over.
    fn after_value(&mut self, outside: u32) -> Result<bool, Broken> {
        while self.depth > outside {
            self.blank();
            let object = self.open & 1 == 1;
            if self.eat(b',') {
                if object {
                    self.blank();
                    self.key()?;
                }
                return Ok(false);
            }
            self.expect(if object { b'}' } else { b']' })?;
            self.pop();
        }
        Ok(true)
    }

    fn push(&mut self, object: u32) -> Result<(), Broken> {
        if self.depth == DEPTH_MAX {
            return Err(Broken::TooDeep { at: self.at });
        }
        self.at += 1;
        self.depth += 1;
        self.open = self.open << 1 | object;
        Ok(())
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.open >>= 1;
    }

    fn key(&mut self) -> Result<(), Broken> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax());
        }
        self.string()?;
        self.blank();
        self.expect(b':')
    }

    fn string(&mut self) -> Result<(), Broken> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(self.syntax()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Broken> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.syntax());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.syntax()),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Broken> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), Broken> {
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == begin { Err(self.syntax()) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Broken> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.syntax());
        }
        self.at += word.len();
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.blank();
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.syntax()) }
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Broken> {
        if self.eat(byte) { Ok(()) } else { Err(self.syntax()) }
    }

    fn syntax(&self) -> Broken {
        Broken::Syntax { at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_items() {
        let table: &[(&str, &[&str])] = &[
            ("[]", &[]),
            (" [ ] ", &[]),
            ("{}", &["{}"]),
            (" {\"a\" : [1, {}]}\n", &["{\"a\" : [1, {}]}"]),
            ("[1,\"],[\" , [ ], {\"a\":\"\\\"\"}]", &["1", "\"],[\"", "[ ]", "{\"a\":\"\\\"\"}"]),
        ];
        for (text, expected) in table {
            assert_eq!(items(text, 10).as_deref(), Ok(*expected), "{text}");
        }
        assert_eq!(items("[1,2,3]", 2), Err(Broken::TooMany));
        assert_eq!(items(" 3 ", 2), Err(Broken::Scalar));
    }

    #[test]
    fn finds_the_members() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("{}", &[]),
            ("{ }", &[]),
            ("{\"a\":1}", &[("\"a\"", "1")]),
            (
                "{ \"a\\\"\" : [1, {\"x\":2}] ,\"b\":\"},\" , \"c\" :null }",
                &[("\"a\\\"\"", "[1, {\"x\":2}]"), ("\"b\"", "\"},\""), ("\"c\"", "null")],
            ),
        ];
        for (text, expected) in table {
            assert_eq!(items(text, 1).as_deref(), Ok(&[*text][..]));
            assert_eq!(members(text).unwrap().collect::<Vec<_>>(), *expected, "{text}");
        }
        assert!(members("[1]").is_none());
    }

    #[test]
    fn stops_at_the_depth() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(items(&nested(32), 10).is_ok());
        assert_eq!(items(&nested(33), 10), Err(Broken::TooDeep { at: 32 }));
        assert_eq!(items(&"[".repeat(1_000_000), 10), Err(Broken::TooDeep { at: 32 }));
        assert_eq!(single(&"{\"a\":".repeat(1_000_000)), Err(Broken::TooDeep { at: 160 }));
        assert!(single(&format!("\"{}\"", "[".repeat(100))).is_ok(), "brackets in strings are text");
    }

    /// The grammar is serde_json's, apart from what serde_json says about values: numbers too large, lone surrogates.
    fn agrees(text: &str) -> Result<(), TestCaseError> {
        let ours = single(text).is_ok();
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        prop_assert_eq!(ours, theirs, "{}", text);
        Ok(())
    }

    proptest! {
        #[test]
        fn accepts_what_serde_json_accepts(text in "[\\[\\]{},:\"\\\\a-fntrue0-9.eE+ -]{0,24}") {
            agrees(&text)?;
        }

        #[test]
        fn accepts_numbers_like_serde_json(text in "-?[0-9]{0,3}\\.?[0-9]{0,2}[eE]?[+-]?[0-9]{0,2}") {
            agrees(&text)?;
        }
    }
}
