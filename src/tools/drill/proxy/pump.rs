//! One connection through the proxy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::frontend::Frontend;
use super::{Controls, Rules};

const PIECE_BYTES: usize = 16 * 1024;
/// The server's yes to a request for TLS.
const TLS_YES: u8 = b'S';
/// How long the server keeps its side after a cut, to finish what it was sent.
const SERVER_ALONE: Duration = Duration::from_secs(20);

enum End {
    /// Either side has closed, or a command has.
    Closed,
    /// The server has got everything; the caller must not hear of it.
    Dropped,
}

/// Passes bytes until either side ends or a command ends both.
pub(super) async fn pass(caller: TcpStream, server: TcpStream, controls: &Controls) {
    let ((from_caller, to_caller), (mut from_server, mut to_server)) = (caller.into_split(), server.into_split());
    let frontend = Mutex::new(Frontend::default());
    let mut cuts = controls.rules.subscribe();
    let born = cuts.borrow().cuts;
    let end = tokio::select! {
        end = there(from_caller, &mut to_server, controls, &frontend) => end,
        () = back(&mut from_server, to_caller, controls.rules.subscribe(), &frontend) => End::Closed,
        _ = cuts.wait_for(|rules| rules.cuts != born) => End::Closed,
    };
    if matches!(end, End::Dropped) {
        // The caller's halves are gone. Closing this side at once could take unread bytes from the server.
        let _ = to_server.shutdown().await;
        let mut rest = vec![0; PIECE_BYTES];
        let finish = async { while from_server.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
        let _ = tokio::time::timeout(SERVER_ALONE, finish).await;
    }
}

async fn there(mut from: OwnedReadHalf, to: &mut OwnedWriteHalf, controls: &Controls, seen: &Mutex<Frontend>) -> End {
    let mut rules = controls.rules.subscribe();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).await.unwrap_or(0);
        if read == 0 || rules.wait_for(|rules| !rules.silent_there).await.is_err() {
            return End::Closed;
        }
        let messages = seen.lock().unwrap_or_else(PoisonError::into_inner).take(&piece[..read]);
        if to.write_all(&piece[..read]).await.is_err() {
            return End::Closed;
        }
        if messages.into_iter().any(|message| controls.ends_at(message)) {
            return End::Dropped;
        }
    }
}

async fn back(
    from: &mut OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rules: watch::Receiver<Rules>,
    seen: &Mutex<Frontend>,
) {
    let mut piece = vec![0; PIECE_BYTES];
    let mut first = true;
    loop {
        let read = from.read(&mut piece).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        if std::mem::take(&mut first) && piece[..read] == [TLS_YES] {
            seen.lock().unwrap_or_else(PoisonError::into_inner).go_opaque();
        }
        let delay = rules.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if rules.wait_for(|rules| !rules.silent_back).await.is_err() || to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
