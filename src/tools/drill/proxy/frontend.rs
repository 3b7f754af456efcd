//! What a PostgreSQL client sends, as far as the proxy must know it ("Message Formats" in PostgreSQL's manual): where
//! one message ends, and whether it commits or campaigns.

use std::collections::HashMap;

/// Of a message's body, this much is looked at: names and the first words of a statement.
const LOOKED_AT_MAX: usize = 256;
const START_CODE_TLS: u32 = 80_877_103;
const START_CODE_GSS: u32 = 80_877_104;
/// The comment that a campaign's text begins with.
const CAMPAIGN: &[u8] = b"-- lease_campaign";
/// Of a statement that commits by itself.
const INSERT: &[u8] = b"-- readings_insert";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The transaction's end is on its way.
    Commit,
    /// A campaign for a lease is.
    Campaign,
    Other,
}

enum At {
    /// A start-up message: length and code, without a letter before them.
    Start,
    Letter,
    Length(u8),
    Body {
        letter: u8,
        left: usize,
    },
    /// TLS: nothing can be seen any more.
    Opaque,
}

/// Follows one connection.
pub(super) struct Frontend {
    at: At,
    kept: Vec<u8>,
    /// Prepared statements that campaign, or commit by themselves.
    prepared: HashMap<Vec<u8>, Message>,
    /// What is bound and not yet synchronised.
    bound: Message,
}

impl Default for Frontend {
    fn default() -> Self {
        Self { at: At::Start, kept: Vec::new(), prepared: HashMap::new(), bound: Message::Other }
    }
}

impl Frontend {
    /// Takes the next bytes, however they were cut; what matters most of the messages that end in them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut found = Vec::new();
        for byte in bytes {
            if let Some(message) = self.step(*byte) {
                found.push(message);
            }
        }
        found
    }

    /// The server's answer to the request for TLS was yes.
    pub(super) fn go_opaque(&mut self) {
        self.at = At::Opaque;
    }

    fn step(&mut self, byte: u8) -> Option<Message> {
        match self.at {
            At::Opaque => None,
            At::Letter => {
                self.at = At::Length(byte);
                self.kept.clear();
                None
            }
            At::Start => {
                self.kept.push(byte);
                if self.kept.len() == 8 {
                    let (length, code) = (number(&self.kept[..4]), number(&self.kept[4..]));
                    let asks = code == START_CODE_TLS || code == START_CODE_GSS;
                    // After the request another start-up message follows, in plain when the server said no.
                    self.begin_body(if asks { 0 } else { b'0' }, usize::try_from(length).unwrap_or(0).max(8) - 8)
                } else {
                    None
                }
            }
            At::Length(letter) => {
                self.kept.push(byte);
                if self.kept.len() < 4 {
                    return None;
                }
                let length = usize::try_from(number(&self.kept)).unwrap_or(0);
                self.begin_body(letter, length.max(4) - 4)
            }
            At::Body { letter, left } => {
                if self.kept.len() < LOOKED_AT_MAX {
                    self.kept.push(byte);
                }
                self.at = At::Body { letter, left: left - 1 };
                (left == 1).then(|| self.end(letter))
            }
        }
    }

    fn begin_body(&mut self, letter: u8, left: usize) -> Option<Message> {
        self.kept.clear();
        self.at = At::Body { letter, left };
        (left == 0).then(|| self.end(letter))
    }

    fn end(&mut self, letter: u8) -> Message {
        self.at = if letter == 0 { At::Start } else { At::Letter };
        let mut parts = self.kept.split(|byte| *byte == 0);
        let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let message = match letter {
            b'Q' if commits(first) => Message::Commit,
            b'P' => {
                let text = second.trim_ascii_start();
                let does = match text {
                    text if text.starts_with(CAMPAIGN) => Message::Campaign,
                    text if text.starts_with(INSERT) => Message::Commit,
                    _ => Message::Other,
                };
                self.prepared.insert(first.to_vec(), does);
                Message::Other
            }
            // Bind: the portal's name, then the statement's.
            b'B' => {
                let does = self.prepared.get(second).copied().unwrap_or(Message::Other);
                if does != Message::Other {
                    self.bound = does;
                }
                Message::Other
            }
            b'S' => std::mem::replace(&mut self.bound, Message::Other),
            _ => Message::Other,
        };
        self.kept.clear();
        message
    }
}

/// COMMIT, alone or before another statement.
fn commits(text: &[u8]) -> bool {
    let first = text.split(|byte| *byte == b';').next().unwrap_or_default();
    first.trim_ascii().eq_ignore_ascii_case(b"commit")
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(letter: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[letter][..], &length.to_be_bytes(), body].concat()
    }

    fn started() -> Frontend {
        let mut frontend = Frontend::default();
        let start = [&[0, 0, 0, 17, 0, 3, 0, 0][..], b"user\0me\0\0"].concat();
        assert_eq!(frontend.take(&start), [Message::Other]);
        frontend
    }

    #[test]
    fn a_commit_is_seen_wherever_the_bytes_are_cut() {
        let bytes = [message(b'Q', b"begin\0"), message(b'Q', b"COMMIT\0"), message(b'S', b"")].concat();
        for size in 1..bytes.len() {
            let mut frontend = started();
            let found: Vec<Message> = bytes.chunks(size).flat_map(|piece| frontend.take(piece)).collect();
            assert_eq!(found, [Message::Other, Message::Commit, Message::Other], "pieces of {size}");
        }
        let mut frontend = started();
        assert_eq!(frontend.take(&message(b'Q', b"commit prepared 'x'\0")), [Message::Other]);
        assert_eq!(frontend.take(&message(b'Q', b"commit;\n-- commit_position\nselect 1\0")), [Message::Commit]);
    }

    #[test]
    fn a_campaign_counts_when_it_is_sent_and_not_when_it_is_prepared() {
        let mut frontend = started();
        let text = b"s7\0-- lease_campaign: takes the lease\nwith me as\0\0\0";
        assert_eq!(frontend.take(&[message(b'P', text), message(b'S', b"")].concat()), [Message::Other; 2]);
        let sent = [message(b'B', b"\0s7\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
        assert_eq!(frontend.take(&sent), [Message::Other, Message::Other, Message::Campaign]);
        let other = [message(b'B', b"\0s8\0\0\0\0\0"), message(b'S', b"")].concat();
        assert_eq!(frontend.take(&other), [Message::Other; 2]);
    }

    #[test]
    fn an_insert_that_commits_by_itself_counts_when_it_is_sent() {
        let mut frontend = started();
        let text = b"s1\0-- readings_insert: stores a batch\ninsert\0\0\0";
        assert_eq!(frontend.take(&[message(b'P', text), message(b'S', b"")].concat()), [Message::Other; 2]);
        let asked = [message(b'B', b"\0s2\0\0\0\0\0"), message(b'S', b"")].concat();
        for _ in 0..2 {
            let sent = [message(b'B', b"\0s1\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
            assert_eq!(frontend.take(&sent), [Message::Other, Message::Other, Message::Commit]);
            assert_eq!(frontend.take(&asked), [Message::Other; 2], "what is sent with it is not");
        }
    }

    #[test]
    fn a_refused_request_for_tls_is_followed_by_the_start() {
        let mut frontend = Frontend::default();
        assert_eq!(frontend.take(&[0, 0, 0, 8, 4, 210, 22, 47]), [Message::Other]);
        let start = [&[0, 0, 0, 17, 0, 3, 0, 0][..], b"user\0me\0\0"].concat();
        assert_eq!(frontend.take(&start), [Message::Other]);
        assert_eq!(frontend.take(&message(b'Q', b"COMMIT\0")), [Message::Commit]);
    }
}
