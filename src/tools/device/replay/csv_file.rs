//! The file: read once in full to check it, then again to send it. A fault names its line, and nothing is sent.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use aws_lc_rs::digest;
use csv::{Reader, ReaderBuilder, StringRecord, Trim};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::Numbered;
use super::row_id::RowIds;
use crate::client::Reading;
use crate::domain::ids::DeviceId;
use crate::domain::time::{from_unix_us, parse_rfc3339, unix_us};

/// One row: its time and what was measured then.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    pub line: u64,
    pub ts: OffsetDateTime,
    pub values: Map<String, Value>,
}

/// A file without faults.
#[derive(Debug)]
pub(super) struct CsvFile {
    path: PathBuf,
    file: File,
    sha256: [u8; 32],
    rows: u64,
    /// No row is earlier than the one before it.
    sorted: bool,
}

impl CsvFile {
    /// Reads every row; the first fault ends it.
    pub fn check(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let mut file = File::open(path).with_context(named)?;
        let sha256 = hash(&mut file).with_context(named)?;
        let mut checked = Self { path: path.to_owned(), file, sha256, rows: 0, sorted: true };
        let mut before = i64::MIN;
        for row in checked.parse()? {
            let at = unix_us(row?.ts);
            checked.sorted &= at >= before;
            before = at;
            checked.rows += 1;
        }
        ensure!(checked.rows > 0, "{}: it has no rows", path.display());
        Ok(checked)
    }

    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows as readings of a device, from the first.
    pub fn readings(&self, device: DeviceId) -> anyhow::Result<Readings> {
        Ok(Readings { rows: self.parse()?, ids: RowIds::new(device, self.sorted), left: self.rows })
    }

    fn parse(&self) -> anyhow::Result<Rows> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Rows::new(&self.path, file)
    }
}

fn hash(file: &mut File) -> std::io::Result<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut reader = BufReader::new(file);
    loop {
        let chunk = std::io::BufRead::fill_buf(&mut reader)?;
        if chunk.is_empty() {
            let mut out = [0; 32];
            out.copy_from_slice(context.finish().as_ref());
            return Ok(out);
        }
        context.update(chunk);
        let length = chunk.len();
        std::io::BufRead::consume(&mut reader, length);
    }
}

/// Readings with their ids. Ids count repeated rows, so every row is passed through, also those that are skipped.
pub(super) struct Readings {
    rows: Rows,
    ids: RowIds,
    /// Rows that were there when the file was checked; what was appended since is not sent.
    left: u64,
}

impl Readings {
    pub fn pass_over(&mut self, rows: u64) -> anyhow::Result<()> {
        for _ in 0..rows {
            self.next().context("the file became shorter")??;
        }
        Ok(())
    }
}

impl Iterator for Readings {
    type Item = anyhow::Result<Numbered>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let row = self.rows.next()?;
        Some(row.and_then(|row| {
            let id = self.ids.next(&row)?;
            Ok(Numbered { line: row.line, reading: Reading::new(row.ts, id, row.values) })
        }))
    }
}

/// The rows of a file, parsed.
struct Rows {
    path: PathBuf,
    file: File,
    reader: Reader<BufReader<File>>,
    metrics: Vec<String>,
}

impl Rows {
    fn new(path: &Path, file: File) -> anyhow::Result<Self> {
        let shared = file.try_clone()?;
        let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(BufReader::new(file));
        let header = reader.headers().with_context(|| path.display().to_string())?;
        let fault = |text: String| anyhow!("{}, line 1: {text}", path.display());
        let mut names = header.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned());
        let first = names.next().unwrap_or_default();
        if parse_time(&first).is_some() {
            return Err(fault("there is no header; it names the time and the metrics".to_owned()));
        }
        let metrics: Vec<String> = names.collect();
        if metrics.is_empty() {
            return Err(fault("there must be a column for the time and at least one for a metric".to_owned()));
        }
        for (index, name) in metrics.iter().enumerate() {
            if name.is_empty() || metrics[..index].contains(name) {
                return Err(fault(format!("the metric of column {} has no name of its own", index + 2)));
            }
        }
        Ok(Self { path: path.to_owned(), file: shared, reader, metrics })
    }

    /// The line on which the record begins. The parser's position is where it began to look: before blank lines, and
    /// on the second half of a CR LF.
    fn line_of(&self, record: &StringRecord) -> u64 {
        let Some(position) = record.position() else { return 0 };
        let (mut line, mut at, mut byte) = (position.line(), position.byte(), [0]);
        // `read_at` leaves the parser's place in the file alone.
        while self.file.read_at(&mut byte, at).is_ok_and(|read| read == 1) && matches!(byte, [b'\n' | b'\r']) {
            line += u64::from(byte == [b'\n']);
            at += 1;
        }
        line
    }

    fn row(&self, record: &StringRecord) -> anyhow::Result<Row> {
        let line = self.line_of(record);
        let mut fields = record.iter();
        let time = fields.next().unwrap_or_default();
        let ts = parse_time(time).ok_or_else(|| anyhow!("{time:?} is not a time"))?;
        let mut values = Map::new();
        // An empty cell means that this metric was not measured then.
        for (name, text) in self.metrics.iter().zip(fields).filter(|(_, text)| !text.is_empty()) {
            let value = parse_value(text).with_context(|| format!("column {name:?}"))?;
            values.insert(name.clone(), value);
        }
        ensure!(!values.is_empty(), "there is no value");
        Ok(Row { line, ts, values })
    }
}

impl Iterator for Rows {
    type Item = anyhow::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = StringRecord::new();
        match self.reader.read_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let named = || format!("{}, line {}", self.path.display(), self.line_of(&record));
                Some(self.row(&record).with_context(named))
            }
            // csv's own message names the line.
            Err(error) => Some(Err(anyhow!("{}: {error}", self.path.display()))),
        }
    }
}

/// RFC 3339; the same with a space for the `T`, without a zone (then UTC) or without seconds; or Unix milliseconds.
fn parse_time(text: &str) -> Option<OffsetDateTime> {
    if let Ok(millis) = text.parse::<i64>() {
        return from_unix_us(millis.checked_mul(1_000)?);
    }
    let (date, clock) = text.split_once([' ', 'T', 't'])?;
    let clock = clock.trim_start();
    let zone_at = clock.find(['Z', 'z', '+', '-']).unwrap_or(clock.len());
    let (clock, zone) = clock.split_at(zone_at);
    let seconds = if clock.len() == 5 { ":00" } else { "" };
    let zone = if zone.is_empty() { "Z" } else { zone };
    parse_rfc3339(&format!("{date}T{}{seconds}{zone}", clock.trim_end()))
}

/// A number, `true` or `false`, or text. The number is sent as the digits say it.
fn parse_value(text: &str) -> anyhow::Result<Value> {
    if let Ok(whole) = text.parse::<i64>() {
        return Ok(whole.into());
    }
    if let Ok(number) = text.parse::<f64>() {
        let Some(number) = serde_json::Number::from_f64(number) else {
            bail!("{text:?} is not a number that can be stored; leave the cell empty");
        };
        return Ok(Value::Number(number));
    }
    Ok(match text {
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        text => text.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::time::rfc3339;

    fn device() -> DeviceId {
        DeviceId(uuid::Uuid::from_u128(7))
    }

    fn with_file<T>(content: &str, check: impl FnOnce(&Path) -> T) -> T {
        let name = crate::domain::digest::hex(&crate::domain::digest::sha256(content.as_bytes())[..8]);
        let path = std::env::temp_dir().join(format!("everbeat-csv-{}-{name}.csv", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let result = check(&path);
        std::fs::remove_file(&path).unwrap();
        result
    }

    fn fault(content: &str) -> String {
        with_file(content, |path| format!("{:#}", CsvFile::check(path).unwrap_err()))
    }

    fn ids(content: &str, skip: u64) -> Vec<uuid::Uuid> {
        with_file(content, |path| {
            let mut readings = CsvFile::check(path).unwrap().readings(device()).unwrap();
            readings.pass_over(skip).unwrap();
            readings.map(|row| row.unwrap().reading.id()).collect()
        })
    }

    #[test]
    fn each_row_is_one_reading() {
        // A time twice with different values; the same row three times, not in a row.
        let sorted = "timestamp,value\n2013-12-02 21:15:00,1.5\n2013-12-02 21:15:00,2\n2013-12-02 21:15:00,1.5\n\
                      2013-12-02 21:20:00,1.5\n";
        let unsorted = format!("{sorted}2013-12-02 21:15:00,1.5\n");
        let all = ids(&unsorted, 0);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 5, "five rows, five readings");
        assert_eq!(ids(&unsorted, 0), all, "the next run gives the same ids");
        assert_eq!(ids(&unsorted, 3), all[3..], "and so does one that goes on in the middle");
        assert_eq!(ids(sorted, 0), all[..4], "how it is counted does not depend on the order of the file");
    }

    #[test]
    fn a_fault_names_its_line() {
        let head = "timestamp,value\n2013-12-02 21:15:00,1\n";
        assert!(fault(&format!("{head}yesterday,1\n")).ends_with("line 3: \"yesterday\" is not a time"));
        assert!(fault(&format!("{head}\n2013-12-02 21:20:00,\n")).ends_with("line 4: there is no value"));
        assert!(
            fault(&format!("{head}\n\n2013-12-02 21:20:00,").replace('\n', "\r\n"))
                .ends_with("line 5: there is no value")
        );
        assert!(fault(&format!("{head}2013-12-02 21:20:00,NaN\n")).contains("line 3: column \"value\": \"NaN\""));
        assert!(fault(&format!("{head}2013-12-02 21:20:00,1,2\n")).contains("line: 3"));
        assert!(fault("2013-12-02 21:15:00,1\n").contains("line 1: there is no header"));
        assert!(fault("timestamp,a,a\n").contains("line 1: the metric of column 3"));
        assert!(fault("timestamp\n").contains("line 1"));
        assert!(fault("timestamp,value\n").contains("no rows"));
    }

    #[test]
    fn columns_are_metrics_and_empty_cells_are_not_measured() {
        let content = "\u{feff}time,temp,ok,note\n2015-07-10T14:24:00+02:00,564,true,\n1436531040001,0.1,,x\n";
        with_file(content, |path| {
            let file = CsvFile::check(path).unwrap();
            let rows: Vec<Row> = file.parse().unwrap().map(Result::unwrap).collect();
            let json: Vec<String> = rows.iter().map(|row| serde_json::to_string(&row.values).unwrap()).collect();
            assert_eq!(json, [r#"{"ok":true,"temp":564}"#, r#"{"note":"x","temp":0.1}"#]);
            assert_eq!(rfc3339(rows[0].ts), "2015-07-10T12:24:00.000000Z");
            assert_eq!(rfc3339(rows[1].ts), "2015-07-10T12:24:00.001000Z");
        });
    }

    #[test]
    fn times_without_a_zone_are_utc() {
        for (text, expected) in [
            ("2013-07-04 00:00:00", Some("2013-07-04T00:00:00.000000Z")),
            ("2013-07-04T00:00:00.25", Some("2013-07-04T00:00:00.250000Z")),
            ("2013-07-04 00:00", Some("2013-07-04T00:00:00.000000Z")),
            ("2013-07-04 00:00:00-01:30", Some("2013-07-04T01:30:00.000000Z")),
            ("2013-07-04", None),
            ("04.07.2013 00:00:00", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text).map(rfc3339).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn digits_survive() {
        for text in ["73.96732207", "74.93588199999998", "564", "-0.5", "9007199254740993"] {
            assert_eq!(parse_value(text).unwrap().to_string(), text);
        }
    }
}
