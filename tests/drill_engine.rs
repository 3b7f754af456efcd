//! The drill's faults on a real container, found by compose's labels as all others: a server in debian:trixie-slim that
//! answers each line. Without a container engine nothing is tested, and that is said loudly.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::process::Command;
use std::time::Duration;

use everbeat::domain::time::Clock;
use everbeat::tools::drill::compose::cut::{Cutter, Peers};
use everbeat::tools::drill::compose::engine::Engine;
use everbeat::tools::drill::compose::processes;
use everbeat::tools::drill::scenario::Cut;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const IMAGE: &str = "debian:trixie-slim";
const FAULTS_IMAGE: &str = "everbeat/faults:trixie";
const PORT: u16 = 7;
/// Nothing answers in this time: it does not come at all.
const SILENCE: Duration = Duration::from_secs(2);
/// An answer comes in this time, also on a busy machine.
const ANSWER: Duration = Duration::from_secs(30);

const SERVER: &str = r#"
use IO::Socket::INET;
$| = 1;
my $listener = IO::Socket::INET->new(LocalPort => 7, Listen => 16, ReuseAddr => 1) or die $!;
print "began\n";
while (my $caller = $listener->accept()) {
    if (fork) { close $caller; next }
    while (my $line = <$caller>) { print $caller $line; $caller->flush() }
    exit;
}
"#;

/// A compose project of one service, made without compose; removed at the end.
struct Lone {
    project: String,
    name: String,
}

impl Lone {
    /// `None`, after saying so: there is no engine, or it has no image.
    fn start(test: &str) -> Option<Self> {
        let project = format!("everbeat-test-{test}-{}", std::process::id());
        let lone = Self { name: format!("{project}-answerer"), project };
        let label = |name: &str, value: &str| format!("--label=com.docker.compose.{name}={value}");
        let run = Command::new("docker")
            .args(["run", "--detach", "--pull=never", "--name", &lone.name, "--publish", &format!("127.0.0.1::{PORT}")])
            .args([label("project", &lone.project), label("service", "answerer"), label("oneoff", "False")])
            .args([IMAGE, "perl", "-e", SERVER])
            .output();
        match run {
            Ok(output) if output.status.success() => Some(lone),
            Ok(output) => skipped(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skipped(&error.to_string()),
        }
    }

    /// The address on the host's loopback; a container that was started again has another one.
    fn address(&self) -> String {
        let asked = Command::new("docker").args(["port", &self.name, &PORT.to_string()]).output().expect("docker port");
        String::from_utf8_lossy(&asked.stdout).trim().to_owned()
    }

    /// One line, there and back.
    async fn asked(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.address()).await?;
        stream.write_all(b"hello\n").await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        if answer == "hello\n" { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn answers(&self) {
        let until = async {
            while !matches!(tokio::time::timeout(SILENCE, self.asked()).await, Ok(Ok(()))) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(ANSWER, until).await.expect("an answer");
    }

    async fn is_silent(&self) {
        let asked = tokio::time::timeout(SILENCE, self.asked()).await;
        assert!(!matches!(asked, Ok(Ok(()))), "an answer came from what should be silent");
    }
}

fn skipped(why: &str) -> Option<Lone> {
    eprintln!("\n*** SKIPPED: the drill's container faults were NOT tested: {} ***\n", why.trim());
    None
}

impl Drop for Lone {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", "--volumes", &self.name]).output();
    }
}

async fn found(lone: &Lone) -> (Engine, String) {
    let engine = Engine::connect().await.expect("the engine that docker has just used");
    let containers = engine.containers(&lone.project).await.expect("the project's containers");
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert_eq!(containers[0].service, "answerer");
    let id = containers[0].id.clone();
    (engine, id)
}

#[tokio::test]
async fn commands_files_and_logs_of_a_container_are_read() {
    let Some(lone) = Lone::start("read") else { return };
    let (engine, id) = found(&lone).await;
    let output = engine.shell(&id, "echo \"out $1\"; echo err >&2; exit 3", &["argument"]).await.unwrap();
    assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (3, "out argument\n", "err\n"));
    engine
        .shell(&id, "head -c 70000 /dev/zero | tr '\\0' x > /srv/large", &[])
        .await
        .unwrap()
        .success("writing")
        .unwrap();
    assert_eq!(engine.file(&id, "/srv/large").await.unwrap(), vec![b'x'; 70_000]);
    assert!(engine.file(&id, "/srv").await.is_err(), "a directory is no file");
    assert!(engine.file(&id, "/srv/missing").await.is_err());
    lone.answers().await;
    let (fds, resident_bytes) = processes::sample(&engine, &id).await.unwrap();
    assert!(fds >= 3.0 && resident_bytes > 100_000.0, "{fds} descriptors, {resident_bytes} bytes");
    let state = engine.state(&id).await.unwrap();
    assert!(state.running && !state.frozen && state.healthy.is_none());

    engine.signal(&id, "SIGKILL").await.unwrap();
    while engine.state(&id).await.unwrap().running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.file(&id, "/srv/large").await.unwrap().len(), 70_000, "also of one that does not run");
    for _ in 0..2 {
        engine.start(&id).await.unwrap();
    }
    lone.answers().await;
    assert_eq!(engine.log(&id, 0).await.unwrap().0, "began\nbegan\n", "the log of both starts");
    engine.stop(&id).await.unwrap();
    engine.stop(&id).await.unwrap();
    assert!(!engine.state(&id).await.unwrap().running);
}

#[tokio::test]
async fn what_is_paused_or_frozen_is_silent_until_it_is_undone() {
    let Some(lone) = Lone::start("pause") else { return };
    let (engine, id) = found(&lone).await;
    lone.answers().await;
    for _ in 0..2 {
        processes::resume(&engine, &id).await.unwrap();
    }
    processes::pause(&engine, &id).await.unwrap();
    lone.is_silent().await;
    processes::resume(&engine, &id).await.unwrap();
    lone.answers().await;

    engine.freeze(&id).await.unwrap();
    assert!(engine.state(&id).await.unwrap().frozen);
    lone.is_silent().await;
    for _ in 0..2 {
        engine.thaw(&id).await.unwrap();
    }
    assert!(!engine.state(&id).await.unwrap().frozen);
    lone.answers().await;
}

#[tokio::test]
async fn a_cut_network_is_silent_until_it_is_mended() {
    let Some(lone) = Lone::start("cut") else { return };
    let has_image = Command::new("docker").args(["image", "inspect", FAULTS_IMAGE]).output();
    if !has_image.is_ok_and(|output| output.status.success()) {
        skipped(&format!("there is no image {FAULTS_IMAGE}: docker build -t {FAULTS_IMAGE} docker/faults"));
        return;
    }
    let (engine, id) = found(&lone).await;
    let cutter = Cutter { engine: engine.clone(), project: lone.project.clone(), image: FAULTS_IMAGE.to_owned() };
    lone.answers().await;
    let clock = Clock::System;
    for cut in [Cut::In, Cut::Out, Cut::Both] {
        let before_us = clock.boottime().as_us();
        let first_us = cutter.cut(&id, cut, &Peers::Everybody).await.unwrap();
        // Again: what a drill left that died is no hindrance.
        let second_us = cutter.cut(&id, cut, &Peers::Everybody).await.unwrap();
        assert!(before_us < first_us && first_us < second_us && second_us < clock.boottime().as_us(), "the cut's time");
        lone.is_silent().await;
        cutter.mend(&id).await.unwrap();
        lone.answers().await;
    }
    cutter.cut(&id, Cut::Both, &Peers::Ports(vec![5432])).await.unwrap();
    lone.answers().await;
    for _ in 0..2 {
        cutter.mend(&id).await.unwrap();
    }
    let rules =
        engine.beside(&id, &lone.project, FAULTS_IMAGE, "iptables-save").await.unwrap().success("rules").unwrap();
    assert!(!rules.contains("EVERBEAT"), "{rules}");
    let failed = engine.beside(&id, &lone.project, FAULTS_IMAGE, "echo no >&2; exit 4").await.unwrap();
    assert_eq!((failed.status, failed.stderr.as_str()), (4, "no\n"));
    engine.remove_besides(&lone.project).await.unwrap();
    assert_eq!(engine.containers(&lone.project).await.unwrap().len(), 1, "side containers alone are removed");
}
