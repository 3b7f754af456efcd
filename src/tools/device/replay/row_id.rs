//! A row's id: SHA-256 of the device, the time, the values, and how many equal rows of the file came before it,
//! as a UUIDv8 (RFC 9562, 5.8). Not of the file's name, its other rows or the row's place, so that a file that grew
//! or was cut in two gives the same readings again. Equal rows of one file stay apart, as many as there are.

use std::collections::HashMap;

use anyhow::ensure;
use uuid::Uuid;

use super::csv_file::Row;
use crate::domain::digest::sha256;
use crate::domain::ids::DeviceId;
use crate::domain::time::unix_us;

/// Changes when the bytes that are hashed do: then a replay stores everything again.
const DOMAIN: &[u8] = b"everbeat replay row 1\0";
/// Rows of a file that is not in order of time are all remembered, at some 50 bytes each.
const UNSORTED_ROWS_MAX: usize = 10_000_000;

/// Gives the rows of one file their ids, in the order of the file.
pub(super) struct RowIds {
    device: DeviceId,
    sorted: bool,
    /// Of a file in order of time, only the rows of the present time can occur again.
    now_us: i64,
    seen: HashMap<[u8; 16], u32>,
}

impl RowIds {
    pub fn new(device: DeviceId, sorted: bool) -> Self {
        Self { device, sorted, now_us: i64::MIN, seen: HashMap::new() }
    }

    pub fn next(&mut self, row: &Row) -> anyhow::Result<Uuid> {
        let ts_us = unix_us(row.ts);
        if self.sorted && ts_us != self.now_us {
            self.seen.clear();
            self.now_us = ts_us;
        }
        ensure!(
            self.seen.len() < UNSORTED_ROWS_MAX,
            "the file is too large for one that is not in order of time; sort it"
        );
        let content = self.content(ts_us, row);
        let mut key = [0; 16];
        key.copy_from_slice(&content[..16]);
        let before = self.seen.entry(key).or_insert(0);
        let id = id(&content, *before);
        *before += 1;
        Ok(id)
    }

    /// Each part is of fixed length or carries its own, so that no two rows have the same bytes.
    fn content(&self, ts_us: i64, row: &Row) -> [u8; 32] {
        let mut bytes = DOMAIN.to_vec();
        bytes.extend(self.device.0.as_bytes());
        bytes.extend(ts_us.to_be_bytes());
        let mut values: Vec<_> = row.values.iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
        values.sort();
        for text in values.into_iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        sha256(&bytes)
    }
}

fn id(content: &[u8; 32], before: u32) -> Uuid {
    let mut bytes = content.to_vec();
    bytes.extend(before.to_be_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&sha256(&bytes)[..16]);
    uuid::Builder::from_custom_bytes(half).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::domain::time::from_unix_us;

    fn row(ts_us: i64, value: i64) -> Row {
        let values: Map<String, Value> = [("value".to_owned(), value.into())].into_iter().collect();
        Row { line: 0, ts: from_unix_us(ts_us).unwrap(), values }
    }

    fn ids(device: u128, rows: &[(i64, i64)], sorted: bool) -> Vec<Uuid> {
        let mut ids = RowIds::new(DeviceId(Uuid::from_u128(device)), sorted);
        rows.iter().map(|(ts, value)| ids.next(&row(*ts, *value)).unwrap()).collect()
    }

    #[test]
    fn the_id_is_golden() {
        // A change of these means that every replay stores its file a second time.
        let made = ids(1, &[(1_000_000, 5), (1_000_000, 5)], true);
        assert_eq!(made.iter().map(Uuid::get_version_num).collect::<Vec<_>>(), [8, 8]);
        let text: Vec<String> = made.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["acfa824c-b86e-813f-95ff-3c94fdee30b1", "f21b8d0d-595f-8d47-8c34-308f76ede209"]);
    }

    #[test]
    fn names_and_values_do_not_run_together() {
        let make = |pairs: &[(&str, &str)]| {
            let values = pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
            let row = Row { line: 0, ts: from_unix_us(0).unwrap(), values };
            RowIds::new(DeviceId(Uuid::nil()), true).next(&row).unwrap()
        };
        let all = [make(&[("a", "bc")]), make(&[("ab", "c")]), make(&[("a", "b"), ("c", "")]), make(&[("a", "")])];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    proptest! {
        /// Few times and values, so that both repeat.
        #[test]
        fn every_row_has_one_id_and_every_run_the_same(rows in prop::collection::vec((0_i64..4, 0_i64..3), 0..60)) {
            let made = ids(1, &rows, false);
            prop_assert_eq!(made.iter().collect::<HashSet<_>>().len(), rows.len());
            prop_assert_eq!(&ids(1, &rows, false), &made);
            prop_assert!(ids(2, &rows, false).iter().all(|id| !made.contains(id)), "another device, other readings");

            // The set of ids is that of the rows, in whatever order they stand.
            let mut ordered = rows.clone();
            ordered.sort_by_key(|row| row.0);
            let sorted: HashSet<_> = ids(1, &ordered, true).into_iter().collect();
            prop_assert_eq!(sorted, made.into_iter().collect::<HashSet<_>>());
        }
    }
}
