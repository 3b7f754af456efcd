//! Keys are replaced under load, as the people who run a deployment do it: made, published, confirmed by every replica,
//! used, and the old one retired. Nothing is undone: the next run finds other keys.
//!
//! A token key's tokens live for minutes, so the old key is retired by force: every device is refused once, and has a token
//! by the new key then, or nothing goes on. Nobody can do without a CA whose certificates live: there the retirement has
//! to be refused, while devices that come get certificates by the new one.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{self, Settings};
use crate::domain::random::Random;
use crate::identity::jwt::Audience;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::store::key_views::KeyRole;
use crate::store::keys::KeyState;
use crate::tools::drill::scenario::FaultKind;
use crate::tools::key_life::Desk;

/// Until every replica has confirmed: a few looks at its files.
const CONFIRMED_WITHIN: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Until every replica signs with the new key: it hears of the change at once.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// Until the load has enrolled another device.
const SIGNED_WITHIN: Duration = Duration::from_secs(30);

/// `file`: the drill's settings.
pub(super) async fn replace(file: PathBuf, kind: FaultKind) -> Result<(), String> {
    let loaded = config::load(std::slice::from_ref(&file));
    let settings = loaded.map(|(_, settings)| settings).map_err(|errors| errors.to_string())?;
    let tasks = Tasks::new(Shutdown::new());
    let done = Box::pin(replaced(&settings, &tasks, kind)).await;
    tasks.shutdown().abort();
    let _ = tasks.finish(Duration::from_secs(1)).await;
    done
}

async fn replaced(settings: &Settings, tasks: &Tasks, kind: FaultKind) -> Result<(), String> {
    let mut desk = Desk::open(settings, tasks, Random::from_os()).await?;
    let role = if kind == FaultKind::ReplaceCa { KeyRole::Issuing } else { KeyRole::Device };
    if role == KeyRole::Issuing {
        desk.next_ca(&settings.pki_dir.join("root.key")).await?;
    } else {
        desk.next_token_key(Audience::Device).await?;
    }
    let begun = Instant::now();
    while let Err(error) = desk.activate(role, true).await {
        if begun.elapsed() > CONFIRMED_WITHIN {
            return Err(error);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    if role == KeyRole::Issuing {
        desk.renew_server(&["localhost".to_owned(), "127.0.0.1".to_owned()]).await?;
        signs(&desk).await?;
        return match desk.retire(role, None, false).await {
            Err(_) => Ok(()),
            Ok(done) => Err(format!("{} CAs were retired while certificates by them live", done.len())),
        };
    }
    tokio::time::sleep(HEARD_WITHIN).await;
    let retired = desk.retire(role, None, true).await?;
    if retired.is_empty() { Err("there was no old key to retire".to_owned()) } else { Ok(()) }
}

/// Waits until the active CA has signed a certificate of a device.
async fn signs(desk: &Desk) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let (keys, ..) = desk.list(&[KeyRole::Issuing]).await?;
        let active = keys.iter().filter(|key| key.view.state == KeyState::Active);
        if active.filter_map(|key| key.ca.as_ref()).any(|ca| ca.signed.count > 0) {
            return Ok(());
        }
        if begun.elapsed() > SIGNED_WITHIN {
            return Err("no device got a certificate by the new CA".to_owned());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
