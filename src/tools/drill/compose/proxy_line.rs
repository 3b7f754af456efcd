//! The control port of the proxy between the third replica and the database: one command a line, one line of answer.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Gives a command and takes the counts of the answer.
pub(super) async fn command(port: u16, line: &str) -> Result<BTreeMap<String, u64>, String> {
    let work = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(ANSWER_LIMIT, work).await {
        Ok(Ok(answer)) => counts(&answer).ok_or_else(|| format!("the database proxy said: {}", answer.trim())),
        Ok(Err(error)) => Err(format!("the database proxy on port {port}: {error}")),
        Err(_) => Err(format!("the database proxy on port {port} does not answer")),
    }
}

/// `ok name=1 other=2`
fn counts(answer: &str) -> Option<BTreeMap<String, u64>> {
    let mut words = answer.split_whitespace();
    (words.next() == Some("ok")).then_some(())?;
    words
        .map(|word| {
            let (name, count) = word.split_once('=')?;
            Some((name.to_owned(), count.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_counts_or_is_an_error() {
        let expected = BTreeMap::from([("commits_cut".to_owned(), 3), ("campaigns_dropped".to_owned(), 0)]);
        assert_eq!(counts("ok commits_cut=3 campaigns_dropped=0\n"), Some(expected));
        assert_eq!(counts("ok\n"), Some(BTreeMap::new()));
        for bad in ["error commands: pass", "", "ok commits_cut", "ok commits_cut=many"] {
            assert_eq!(counts(bad), None, "{bad}");
        }
    }
}
