//! The history: one line of JSON for each attempt, written by one task. Nothing is left out: a worker that finds the
//! queue full waits, and a file that cannot be written ends the load.

use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::lifecycle::tasks;
use crate::tools::drill::evidence::Attempt;

/// Attempts that may wait for the disk.
const QUEUE_MAX: usize = 1_024;

pub(super) struct History {
    path: PathBuf,
    writer: JoinHandle<std::io::Result<()>>,
}

impl History {
    /// Begins a file. It is complete when every sender has been dropped and [`Self::read`] has returned.
    pub async fn begin(path: &Path) -> std::io::Result<(Self, mpsc::Sender<Attempt>)> {
        let file = BufWriter::new(File::create(path).await?);
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        Ok((Self { path: path.to_owned(), writer: tasks::spawn(write(file, receiver)) }, sender))
    }

    /// Waits for the last line, and reads them all.
    pub async fn read(self) -> std::io::Result<Vec<Attempt>> {
        self.writer.await.map_err(std::io::Error::other)??;
        let mut lines = BufReader::new(File::open(&self.path).await?).lines();
        let mut attempts = Vec::new();
        while let Some(line) = lines.next_line().await? {
            attempts.push(serde_json::from_str(&line)?);
        }
        Ok(attempts)
    }
}

async fn write(mut file: BufWriter<File>, mut attempts: mpsc::Receiver<Attempt>) -> std::io::Result<()> {
    while let Some(attempt) = attempts.recv().await {
        let mut line = serde_json::to_vec(&attempt)?;
        line.push(b'\n');
        file.write_all(&line).await?;
        if attempts.is_empty() {
            file.flush().await?; // whoever follows the file sees what there is
        }
    }
    file.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::drill::evidence::{Call, Outcome};

    fn attempt(number: u64) -> Attempt {
        Attempt {
            client: "d".to_owned(),
            device: None,
            number,
            call: Call::Me,
            endpoint: "https://a".to_owned(),
            sent_us: number,
            done_us: number,
            outcome: Outcome::Unknown { error: "two\nlines".to_owned() },
            replica: None,
            position: Some("1.2".to_owned()),
            reused_connection: true,
            probe: false,
        }
    }

    #[tokio::test]
    async fn more_than_the_queue_holds_comes_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (history, sender) = History::begin(&dir.path().join("attempts.jsonl")).await.unwrap();
        let count = 3 * QUEUE_MAX as u64;
        for number in 0..count {
            sender.send(attempt(number)).await.unwrap();
        }
        drop(sender);
        assert_eq!(history.read().await.unwrap(), (0..count).map(attempt).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_disk_that_is_full_is_told() {
        let (history, sender) = History::begin(Path::new("/dev/full")).await.unwrap();
        while sender.send(attempt(1)).await.is_ok() {}
        assert!(history.read().await.is_err());
    }
}
