//! Many requests become one commit, and its outcome becomes their answers. Pure.
//!
//! Rows stand in the order of the key, each key once; what repeats a key of the batch shares the fate of its row, if
//! it says the same, and else conflicts with it. A row has its outcome before a request has its answer: a request
//! with any row undecided fails as a whole, and its sender sends it again.

use std::ops::Range;

use super::decode::{BatchItem, CONFLICT, rejection};
use crate::domain::time::from_unix_us;
use crate::observe;
use crate::observe::ingest::Outcome;
use crate::store::readings::{NewReadings, RowOutcome};
use crate::wire::device::RejectedItem;

/// What became of a row, when it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stored now, for the first item that has its key.
    Stored,
    /// A row was there, with this digest of its content.
    Exists { content: i64 },
    /// The database does not take it.
    Refused,
}

/// The answer to the items of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub stored: u64,
    pub duplicates: u64,
    /// In no particular order.
    pub rejected: Vec<RejectedItem>,
    /// What is acknowledged is on the primary alone, as far as is known.
    pub degraded: bool,
}

/// An item, once its row is made: which request and which of its items, and what it says.
struct Member {
    request: usize,
    index: usize,
    content: i64,
}

/// The rows of one commit.
pub struct Gathered {
    requests: usize,
    members: Vec<Member>,
    /// For each row, its members, in the order of their arrival.
    groups: Vec<Range<usize>>,
}

/// Sorts the items of all requests (in the order of their arrival) into rows.
pub fn gather(requests: Vec<Vec<BatchItem>>) -> (NewReadings, Gathered) {
    let count = requests.len();
    let mut items: Vec<(usize, BatchItem)> = Vec::with_capacity(requests.iter().map(Vec::len).sum());
    for (request, of_request) in requests.into_iter().enumerate() {
        items.extend(of_request.into_iter().map(|item| (request, item)));
    }
    items.sort_unstable_by_key(|(request, item)| (item.reading.key(), *request, item.index));
    let mut rows = NewReadings::default();
    let mut gathered = Gathered { requests: count, members: Vec::with_capacity(items.len()), groups: Vec::new() };
    let mut last = None;
    for (request, BatchItem { index, reading }) in items {
        let position = gathered.members.len();
        let key = reading.key();
        gathered.members.push(Member { request, index, content: reading.content });
        if let Some(group) = gathered.groups.last_mut().filter(|_| last == Some(key)) {
            group.end = position + 1;
            continue;
        }
        last = Some(key);
        gathered.groups.push(position..position + 1);
        rows.devices.push(reading.device.0);
        // Decoding admits no time that the calendar does not have.
        rows.ts.push(from_unix_us(reading.ts_us).unwrap_or(time::OffsetDateTime::UNIX_EPOCH));
        rows.digests.push(reading.digest);
        rows.contents.push(reading.content);
        rows.values.push(reading.values);
    }
    (rows, gathered)
}

impl Gathered {
    /// The answers, one for each request; `None` where a row of it is undecided.
    pub fn settle(&self, verdicts: &[Option<Verdict>]) -> Vec<Option<Tally>> {
        let mut tallies: Vec<Option<Tally>> = vec![Some(Tally::default()); self.requests];
        for (row, group) in self.groups.iter().enumerate() {
            let members = &self.members[group.clone()];
            let verdict = verdicts.get(row).copied().flatten();
            for (position, member) in members.iter().enumerate() {
                let slot = &mut tallies[member.request];
                match (verdict, slot.as_mut()) {
                    (None, _) => *slot = None,
                    (Some(verdict), Some(tally)) => tally.add(member, verdict, position == 0, members[0].content),
                    (Some(_), None) => {}
                }
            }
        }
        tallies
    }
}

impl Tally {
    /// `first`: this member's reading is the one that was sent to the database; `sent`: what that one says.
    fn add(&mut self, member: &Member, verdict: Verdict, first: bool, sent: i64) {
        let there = match verdict {
            Verdict::Stored if first => {
                self.stored += 1;
                return;
            }
            Verdict::Stored => sent,
            Verdict::Exists { content } => content,
            Verdict::Refused => {
                let detail = "/values: the database does not take this reading".to_owned();
                self.rejected.push(rejection(member.index, "refused", detail));
                return;
            }
        };
        if member.content == there {
            self.duplicates += 1;
        } else {
            let detail = "/id: another reading with this id and ts was stored before; its values differ".to_owned();
            self.rejected.push(rejection(member.index, CONFLICT, detail));
        }
    }
}

/// Counts what is answered to the requests of one commit.
pub(super) fn measure(tallies: &[Option<Tally>], degraded: bool) {
    let sum = |of: fn(&Tally) -> u64| tallies.iter().flatten().map(of).sum::<u64>();
    let (stored, duplicates) = (sum(|tally| tally.stored), sum(|tally| tally.duplicates));
    let conflicts = sum(|tally| tally.rejected.iter().filter(|item| item.kind == CONFLICT).count() as u64);
    let rejected = sum(|tally| tally.rejected.len() as u64);
    observe::ingest::readings(Outcome::Stored, stored);
    observe::ingest::readings(Outcome::Duplicate, duplicates);
    observe::ingest::readings(Outcome::RejectedConflict, conflicts);
    observe::ingest::readings(Outcome::RejectedRefused, rejected - conflicts);
    if degraded {
        observe::ingest::degraded(stored + duplicates);
    }
}

/// How far a commit has come. It begins as one range of rows; a range that the database refuses is halved, until the
/// row alone is left that it refuses, and its neighbours are stored.
pub struct Progress {
    verdicts: Vec<Option<Verdict>>,
    todo: Vec<Range<usize>>,
}

impl Progress {
    pub fn new(rows: usize) -> Self {
        let whole = 0..rows;
        let todo = if whole.is_empty() { Vec::new() } else { vec![whole] };
        Self { verdicts: vec![None; rows], todo }
    }

    /// The rows to try next.
    pub fn take(&mut self) -> Option<Range<usize>> {
        self.todo.pop()
    }

    /// The range must be tried again.
    pub fn again(&mut self, range: Range<usize>) {
        self.todo.push(range);
    }

    pub fn committed(&mut self, range: Range<usize>, outcomes: &[RowOutcome]) {
        for (verdict, outcome) in self.verdicts[range].iter_mut().zip(outcomes) {
            *verdict = match *outcome {
                RowOutcome::Stored => Some(Verdict::Stored),
                RowOutcome::Exists { content } => Some(Verdict::Exists { content }),
                RowOutcome::Vanished => None,
            };
        }
    }

    /// The database refused the range. True: it was halved.
    pub fn refused(&mut self, range: Range<usize>) -> bool {
        if range.len() <= 1 {
            self.verdicts[range].fill(Some(Verdict::Refused));
            return false;
        }
        let middle = range.start + range.len() / 2;
        // The first half is tried first: rows stay in their order.
        self.todo.push(middle..range.end);
        self.todo.push(range.start..middle);
        true
    }

    pub fn verdicts(&self) -> &[Option<Verdict>] {
        &self.verdicts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::DeviceId;
    use crate::domain::reading::Reading;

    fn item(index: usize, (device, ts_us, digest, content): (u128, i64, i64, i64)) -> BatchItem {
        let device = DeviceId(Uuid::from_u128(device));
        BatchItem { index, reading: Reading { device, ts_us, digest, content, values: content.to_string().into() } }
    }

    fn request(items: &[(u128, i64, i64, i64)]) -> Vec<BatchItem> {
        items.iter().enumerate().map(|(index, key)| item(index, *key)).collect()
    }

    fn kinds(tally: &Tally) -> Vec<(u64, &str)> {
        tally.rejected.iter().map(|item| (item.index, item.kind.as_str())).collect()
    }

    #[test]
    fn a_repeat_is_a_duplicate_and_another_content_a_conflict() {
        let requests =
            vec![request(&[(2, 5, 9, 1), (1, 7, 3, 3)]), request(&[(1, 7, 3, 3), (2, 5, 9, 2), (1, 6, 3, 3)])];
        let (rows, gathered) = gather(requests);
        assert_eq!(rows.devices.iter().map(Uuid::as_u128).collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(&*rows.values[2], "1", "the first to come");
        let stored = gathered.settle(&[Some(Verdict::Stored); 3]);
        assert_eq!(stored[0], Some(Tally { stored: 2, ..Tally::default() }));
        let second = stored[1].as_ref().unwrap();
        assert_eq!((second.stored, second.duplicates, kinds(second)), (1, 1, vec![(1, "conflict")]));
    }

    #[test]
    fn what_the_database_has_decides() {
        let (_, gathered) = gather(vec![request(&[(1, 1, 1, 10), (1, 1, 1, 20), (1, 1, 1, 10)])]);
        let tally = |verdict| gathered.settle(&[Some(verdict)])[0].clone().unwrap();
        let (of_first, of_second) = (tally(Verdict::Exists { content: 10 }), tally(Verdict::Exists { content: 20 }));
        assert_eq!((of_first.duplicates, kinds(&of_first)), (2, vec![(1, "conflict")]));
        assert_eq!((of_second.duplicates, kinds(&of_second)), (1, vec![(0, "conflict"), (2, "conflict")]));
        assert_eq!(kinds(&tally(Verdict::Refused)).len(), 3);
    }

    #[test]
    fn an_undecided_row_fails_its_requests_alone() {
        let (_, gathered) = gather(vec![request(&[(1, 1, 1, 1), (1, 2, 1, 1)]), request(&[(1, 1, 1, 1)])]);
        let settled = gathered.settle(&[Some(Verdict::Stored), None]);
        assert_eq!(settled[0], None);
        assert_eq!(settled[1], Some(Tally { duplicates: 1, ..Tally::default() }));
    }

    #[test]
    fn halving_finds_the_culprits() {
        let bad = [0, 3, 999];
        let mut progress = Progress::new(1000);
        let mut tries = 0;
        while let Some(range) = progress.take() {
            tries += 1;
            if bad.iter().any(|row| range.contains(row)) {
                progress.refused(range);
            } else {
                let stored = vec![RowOutcome::Stored; range.len()];
                progress.committed(range, &stored);
            }
        }
        for (row, verdict) in progress.verdicts().iter().enumerate() {
            let expected = if bad.contains(&row) { Verdict::Refused } else { Verdict::Stored };
            assert_eq!(*verdict, Some(expected), "{row}");
        }
        assert!(tries < 3 * 2 * 10 + 1, "{tries}");
    }

    proptest! {
        #[test]
        fn every_item_is_answered_once(
            requests in proptest::collection::vec(
                proptest::collection::vec((0..3_u128, 0..3_i64, 0..2_i64, 0..2_i64), 0..6), 0..6),
        ) {
            let (rows, gathered) = gather(requests.iter().map(|items| request(items)).collect());
            let keys: Vec<_> = (0..rows.len()).map(|i| (rows.devices[i], rows.ts[i], rows.digests[i])).collect();
            prop_assert!(keys.is_sorted_by(|a, b| a < b), "sorted, and each once");
            let settled = gathered.settle(&vec![Some(Verdict::Stored); rows.len()]);
            let stored: u64 = settled.iter().flatten().map(|tally| tally.stored).sum();
            prop_assert_eq!(stored, rows.len() as u64);
            for (items, tally) in requests.iter().zip(settled) {
                let tally = tally.unwrap();
                prop_assert_eq!(items.len() as u64, tally.stored + tally.duplicates + tally.rejected.len() as u64);
            }
        }
    }
}
