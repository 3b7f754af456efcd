//! A TCP proxy that cuts its connections at a chosen moment.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use everbeat::lifecycle::tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// In the message that stores the tests' readings, by a statement that commits by itself.
const STORED: &[u8] = b"\"temperature\"";
/// A TLS 1.3 handshake takes the caller two flights, in three reads at most; what comes after them is a request.
const HANDSHAKE_READS: usize = 3;

/// When to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Never = 0,
    /// As soon as bytes of the caller have been passed on.
    AfterRequest = 1,
    /// When bytes of the server arrive: the caller does not get them.
    BeforeAnswer = 2,
    /// The same, on connections that are past their handshake: whoever is cut in it takes the server for closed.
    BeforeLaterAnswer = 4,
    /// As soon as an insert of readings, which commits by itself, has been passed on to a database.
    AfterCommit = 3,
}

pub struct Proxy {
    pub addr: SocketAddr,
    cut: Arc<AtomicU8>,
    swallowed: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (cut, swallowed) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicUsize::new(0)));
        let (cuts, counter) = (cut.clone(), swallowed.clone());
        let accepting = tasks::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                drop(tasks::spawn(pass(caller, server, cuts.clone(), counter.clone())));
            }
        });
        Self { addr, cut, swallowed, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub fn arm(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// Answers that nobody got.
    pub fn swallowed(&self) -> usize {
        self.swallowed.load(Ordering::SeqCst)
    }
}

/// Ends both connections when either direction ends.
async fn pass(caller: TcpStream, server: TcpStream, cut: Arc<AtomicU8>, swallowed: Arc<AtomicUsize>) {
    let ((from_caller, to_caller), (from_server, to_server)) = (caller.into_split(), server.into_split());
    let reads = AtomicUsize::new(0);
    let after = |bytes: &[u8]| {
        reads.fetch_add(1, Ordering::SeqCst);
        match cut.load(Ordering::SeqCst) {
            now if now == Cut::AfterRequest as u8 => true,
            now if now == Cut::AfterCommit as u8 => bytes.windows(STORED.len()).any(|window| window == STORED),
            _ => false,
        }
    };
    let there = copy(from_caller, to_server, |_| false, after);
    let before = |bytes: &[u8]| {
        let cut = cut.load(Ordering::SeqCst);
        let later = cut == Cut::BeforeLaterAnswer as u8 && reads.load(Ordering::SeqCst) > HANDSHAKE_READS;
        let now = !bytes.is_empty() && (cut == Cut::BeforeAnswer as u8 || later);
        swallowed.fetch_add(usize::from(now), Ordering::SeqCst);
        now
    };
    let back = copy(from_server, to_caller, before, |_| false);
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    before: impl Fn(&[u8]) -> bool,
    after: impl Fn(&[u8]) -> bool,
) {
    let mut step = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut step).await.unwrap_or(0);
        let bytes = &step[..read];
        if read == 0 || before(bytes) || to.write_all(bytes).await.is_err() || after(bytes) {
            return;
        }
    }
}
