use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const QUICK: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);
const START: &[u8] = &[0, 0, 0, 9, 0, 3, 0, 0, 0];
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

struct Pair {
    caller: TcpStream,
    server: TcpStream,
    controls: Arc<Controls>,
    _proxy: Proxy,
}

impl Pair {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controls = Arc::new(Controls::default());
        let to = listener.local_addr().unwrap().to_string();
        let proxy = Proxy::start("127.0.0.1:0", to, controls.clone()).await.unwrap();
        let mut caller = TcpStream::connect(proxy.addr()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        caller.write_all(START).await.unwrap();
        let mut pair = Self { caller, server, controls, _proxy: proxy };
        assert_eq!(pair.server_reads(START.len()).await, START);
        pair
    }

    async fn server_reads(&mut self, bytes: usize) -> Vec<u8> {
        let mut got = vec![0; bytes];
        tokio::time::timeout(LONG, self.server.read_exact(&mut got)).await.unwrap().unwrap();
        got
    }

    async fn caller_reads(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let mut got = vec![0; 100];
        let read = tokio::time::timeout(limit, self.caller.read(&mut got)).await.ok()?.unwrap_or(0);
        got.truncate(read);
        Some(got)
    }
}

#[tokio::test]
async fn a_commit_reaches_the_server_and_its_answer_nobody() {
    let mut pair = Pair::new().await;
    pair.controls.cut_after_commit(1);
    pair.caller.write_all(b"Q\0\0\0\x0aselec\0").await.unwrap();
    assert_eq!(pair.server_reads(11).await, b"Q\0\0\0\x0aselec\0");
    assert_eq!(pair.caller_reads(QUICK).await, None, "nothing else is cut");
    pair.caller.write_all(COMMIT).await.unwrap();
    assert_eq!(pair.server_reads(COMMIT.len()).await, COMMIT);
    assert_eq!(pair.caller_reads(LONG).await.as_deref(), Some(&[][..]), "the caller sees the end and no answer");
    assert_eq!(control::obey("counts", &pair.controls), Ok((1, 0)));
    assert_eq!(control::obey("pass", &pair.controls), Ok((1, 0)));
    assert_eq!(control::obey("pass", &pair.controls), Ok((0, 0)), "the next fault is counted anew");
}

#[tokio::test]
async fn what_vanished_one_way_arrives_when_it_has_healed() {
    let mut pair = Pair::new().await;
    pair.controls.silence(Cut::In);
    pair.caller.write_all(COMMIT).await.unwrap();
    assert_eq!(pair.server_reads(COMMIT.len()).await, COMMIT, "the way there is open");
    pair.server.write_all(b"C").await.unwrap();
    assert_eq!(pair.caller_reads(QUICK).await, None);
    pair.controls.pass();
    assert_eq!(pair.caller_reads(LONG).await.as_deref(), Some(&b"C"[..]));
    control::obey("cut", &pair.controls).unwrap();
    assert_eq!(pair.caller_reads(LONG).await.as_deref(), Some(&[][..]));
}

#[tokio::test]
async fn answers_are_late_as_told() {
    let mut pair = Pair::new().await;
    control::obey("delay 400", &pair.controls).unwrap();
    pair.server.write_all(b"C").await.unwrap();
    assert_eq!(pair.caller_reads(Duration::from_millis(200)).await, None);
    assert_eq!(pair.caller_reads(LONG).await.as_deref(), Some(&b"C"[..]));
    assert!(control::obey("delay soon", &pair.controls).is_err() && control::obey("rm", &pair.controls).is_err());
}
