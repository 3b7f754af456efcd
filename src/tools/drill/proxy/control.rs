//! The proxy as a command, for a deployment of containers: listeners, and a port that takes one command a line.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Controls, Proxy};
use crate::lifecycle::tasks;
use crate::tools::drill::scenario::Cut;

/// What `everbeat drill proxy` takes.
#[derive(clap::Args, Debug)]
pub struct ProxyArgs {
    /// Where to listen; as often as --to
    #[arg(long, value_name = "HOST:PORT", required = true)]
    listen: Vec<String>,
    /// Where its connections go; the first belongs to the first --listen, and so on
    #[arg(long, value_name = "HOST:PORT", required = true)]
    to: Vec<String>,
    /// Where commands are taken
    #[arg(long, value_name = "HOST:PORT")]
    control: String,
}

/// Runs until it is killed.
pub async fn run(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(args.listen.len() == args.to.len(), "each --listen needs a --to");
    let controls = Arc::new(Controls::default());
    let mut proxies = Vec::new();
    for (at, to) in args.listen.iter().zip(args.to) {
        proxies.push(Proxy::start(at, to, controls.clone()).await.map_err(anyhow::Error::msg)?);
    }
    let listener = TcpListener::bind(&args.control).await?;
    loop {
        let (caller, _) = listener.accept().await?;
        let controls = controls.clone();
        drop(tasks::spawn(async move { drop(converse(caller, &controls).await) }));
    }
}

async fn converse(caller: TcpStream, controls: &Controls) -> std::io::Result<()> {
    let (from, mut to) = caller.into_split();
    let mut lines = BufReader::new(from).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match obey(&line, controls) {
            Ok((commits_cut, campaigns_dropped)) => {
                format!("ok commits_cut={commits_cut} campaigns_dropped={campaigns_dropped}\n")
            }
            Err(error) => format!("error {error}\n"),
        };
        to.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// One command. `counts` does nothing: every answer has the counts since the last `pass`, that of a `pass` too.
pub(super) fn obey(line: &str, controls: &Controls) -> Result<(u64, u64), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["pass"] => {
            controls.pass();
            return Ok(controls.take_counts());
        }
        ["cut"] => controls.cut(),
        ["delay", millis] => {
            let millis: u16 = millis.parse().map_err(|_| format!("{millis} is not a number of milliseconds"))?;
            controls.delay(Duration::from_millis(millis.into()));
        }
        ["drop", "in"] => controls.silence(Cut::In),
        ["drop", "out"] => controls.silence(Cut::Out),
        ["drop", "both"] => controls.silence(Cut::Both),
        ["cut-after-commit", connections] => {
            let connections = connections.parse().map_err(|_| format!("{connections} is not a number"))?;
            controls.cut_after_commit(connections);
        }
        ["drop-campaign"] => controls.drop_campaign_answer(),
        ["counts"] => {}
        _ => {
            return Err(
                "commands: pass, cut, delay MS, drop in|out|both, cut-after-commit N, drop-campaign, counts".to_owned()
            );
        }
    }
    Ok((controls.commits_cut(), controls.campaigns_dropped()))
}
