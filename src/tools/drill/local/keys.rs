//! Keys are replaced under load, as people do it after a theft: made, published, confirmed by every replica, used; then
//! the former token key is retired at once. Nothing is undone: the next run finds other keys.
//!
//! Without force a token key is retired when the last token that it signed has ended, 13 minutes later, and a CA when
//! its last certificate has. No drill takes so long; it only sees that neither goes before. With force each token of the
//! former key is refused once, and the next one is good everywhere, since by then every replica signs with the new key.
//! The former CA is left as it is then: by force it would lock out each device that has not renewed, and none of the
//! load's has.

use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::client::plain_get;
use crate::config::{self, Settings};
use crate::domain::random::Random;
use crate::identity::jwt::Audience;
use crate::lifecycle::shutdown::Shutdown;
use crate::lifecycle::tasks::Tasks;
use crate::observe;
use crate::store::key_views::KeyRole;
use crate::store::keys::KeyState;
use crate::tools::drill::scenario::FaultKind;
use crate::tools::key_life::Desk;

/// All of it: a replica that ended counts as a live one for a minute, and confirms nothing. What comes next in a scenario
/// comes later than this.
const WITHIN: Duration = Duration::from_secs(70);
const ASK_EVERY: Duration = Duration::from_millis(500);
/// One page of metrics.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Long enough for every device that sends readings to send some.
const WATCHED: Duration = Duration::from_secs(3);

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
    let deadline = Instant::now() + WITHIN;
    let role = if kind == FaultKind::ReplaceCa { KeyRole::Issuing } else { KeyRole::Device };
    let desk = Desk::open(settings, tasks, Random::from_os()).await?;
    let work = Work { settings, desk, role, deadline };
    if role == KeyRole::Issuing { work.ca().await } else { work.token_key().await }
}

/// One replacement.
struct Work<'a> {
    settings: &'a Settings,
    desk: Desk,
    role: KeyRole,
    deadline: Instant,
}

impl Work<'_> {
    async fn token_key(mut self) -> Result<(), String> {
        self.desk.next_token_key(Audience::Device).await?;
        self.activate().await?;
        self.stays_without_force().await?;
        self.desk.retire(self.role, None, true).await?;
        self.all_know().await?;
        self.devices_go_on().await
    }

    async fn ca(mut self) -> Result<(), String> {
        let new = self.desk.next_ca(&self.settings.pki_dir.join("root.key")).await?.key;
        self.activate().await?;
        let ends = self.desk.renew_server(&["localhost".to_owned(), "127.0.0.1".to_owned()]).await?;
        self.all_show(ends).await?;
        self.has_certified(&new).await?;
        self.stays_without_force().await
    }

    /// As soon as every replica has confirmed the next key; until all of them sign with it.
    async fn activate(&self) -> Result<(), String> {
        self.until(async || self.desk.activate(self.role, true).await.map(drop)).await?;
        self.all_know().await
    }

    /// Every replica knows of as many keys that retire as there are: from then on it signs with the active one, and
    /// accepts nothing by a retired one.
    async fn all_know(&self) -> Result<(), String> {
        let retiring = self.retiring().await?;
        let of_role = format!("use=\"{}\"", self.role.as_str());
        let in_state = format!("state=\"{}\"", KeyState::Retiring.as_str());
        self.until(async || {
            for page in self.pages().await? {
                let known = figure(&page, observe::identity::KEYS, &[of_role.as_str(), in_state.as_str()]);
                if known != Some(retiring) {
                    return Err(format!("of {retiring} keys that retire a replica knows {known:?}"));
                }
            }
            Ok(())
        })
        .await
    }

    async fn retiring(&self) -> Result<u64, String> {
        let (listed, ..) = self.desk.list(&[self.role]).await?;
        Ok(listed.iter().filter(|one| one.view.state == KeyState::Retiring).count() as u64)
    }

    /// Something that the former key signed is live.
    async fn stays_without_force(&self) -> Result<(), String> {
        // The refusal names the way round it; any other error proves nothing.
        let refused = self.desk.retire(self.role, None, false).await.is_err_and(|error| error.contains("--force"));
        if refused && self.retiring().await? > 0 {
            Ok(())
        } else {
            Err("the former key was retired without force, although what it signed is live".to_owned())
        }
    }

    /// For a while readings are stored and nobody's token is refused. By now that takes tokens of the new key.
    async fn devices_go_on(&self) -> Result<(), String> {
        self.until(async || {
            let (stored, refused) = self.counted().await?;
            tokio::time::sleep(WATCHED).await;
            let (stored_then, refused_then) = self.counted().await?;
            if stored_then > stored && refused_then == refused {
                return Ok(());
            }
            let (stored, refused) = (stored_then.saturating_sub(stored), refused_then.saturating_sub(refused));
            Err(format!("in {WATCHED:?} {stored} readings were stored with the new key, and {refused} tokens refused"))
        })
        .await
    }

    /// Readings that were stored and tokens that were refused, on all replicas so far.
    async fn counted(&self) -> Result<(u64, u64), String> {
        let pages = self.pages().await?;
        let sum =
            |name: &str, label: &str| -> u64 { pages.iter().filter_map(|page| figure(page, name, &[label])).sum() };
        let stored = sum(observe::ingest::READINGS, "outcome=\"stored\"");
        Ok((stored, sum(observe::identity::REFUSED, "reason=\"token_invalid\"")))
    }

    /// Every replica shows the new server certificate to whoever connects.
    async fn all_show(&self, ends: OffsetDateTime) -> Result<(), String> {
        let ends = u64::try_from(ends.unix_timestamp()).ok();
        self.until(async || {
            for page in self.pages().await? {
                let shown = |label: &str| figure(&page, observe::net::EXPIRY, &[label]);
                if shown("listener=\"device\"") != ends || shown("listener=\"admin\"") != ends {
                    return Err("a replica does not show the new server certificate".to_owned());
                }
            }
            Ok(())
        })
        .await
    }

    /// A device has a certificate by the CA: the load enrolls some as long as it goes on.
    async fn has_certified(&self, ca: &str) -> Result<(), String> {
        self.until(async || {
            let (listed, ..) = self.desk.list(&[self.role]).await?;
            let new = listed.iter().filter(|one| one.view.key == ca).filter_map(|one| one.ca.as_ref());
            let signed: i64 = new.map(|new| new.signed.count).sum();
            if signed > 0 { Ok(()) } else { Err("no device has a certificate by the new CA".to_owned()) }
        })
        .await
    }

    /// Tries until it is done, or the deadline is over: then it says what the last try failed by.
    async fn until(&self, mut attempt: impl AsyncFnMut() -> Result<(), String>) -> Result<(), String> {
        while let Err(error) = attempt().await {
            if Instant::now() > self.deadline {
                return Err(format!("after {} s still: {error}", WITHIN.as_secs()));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// The metrics of every replica: their ports are counted up from the first's, whose settings these are.
    async fn pages(&self) -> Result<Vec<String>, String> {
        let first = self.settings.ops_addr;
        let mut pages = Vec::new();
        for (index, _) in (0_u16..).zip(&self.settings.endpoints) {
            let url = format!("http://{}:{}/metrics", first.ip(), first.port() + index);
            match plain_get(&url, ASK_LIMIT).await? {
                (200, page) => pages.push(page),
                (status, _) => return Err(format!("{url}: {status}")),
            }
        }
        Ok(pages)
    }
}

/// The value of the series of this name with these labels; `None`: the page has none.
fn figure(page: &str, name: &str, labels: &[&str]) -> Option<u64> {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
    let line = page.lines().filter(of_name).find(|line| labels.iter().all(|label| line.contains(*label)))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_that_of_its_labels() {
        let name = observe::identity::KEYS;
        let page = format!(
            "# TYPE {name} gauge\n{name}_more{{use=\"device\",state=\"retiring\"}} 7\n\
             {name}{{use=\"admin\",state=\"retiring\"}} 1\n{name}{{use=\"device\",state=\"active\"}} 3\n\
             {name}{{state=\"retiring\",use=\"device\"}} 2\n"
        );
        assert_eq!(figure(&page, name, &["use=\"device\"", "state=\"retiring\""]), Some(2));
        assert_eq!(figure(&page, name, &["use=\"admin\"", "state=\"retiring\""]), Some(1));
        assert_eq!(figure(&page, name, &["use=\"issuing\""]), None);
    }
}
