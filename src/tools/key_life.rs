//! Token keys, issuing CAs and server certificates are replaced: files in `pki.dir`, then rows in the database.
//!
//! **File first.** A new private half is written whole, then its public half is published. What dies in between leaves a
//! file that the database does not know: the next `next` publishes it and makes no other. What signs, the database says,
//! so no later step touches a file; each step is one transaction and may be repeated.

use std::time::Duration;

use crate::config::Settings;
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::identity::ca::{self, Issuer};
use crate::identity::held::{self, Held};
use crate::identity::jwt::{Audience, DEVICE_TOKEN_TTL, LEEWAY};
use crate::identity::keys::row_of;
use crate::identity::pki;
use crate::lifecycle::tasks::Tasks;
use crate::store::ControlStore;
use crate::store::changes::ChangeLog;
use crate::store::key_life::{self, NewKey, Step};
use crate::store::key_views::{self, KeyRole, KeyView, LiveReplica, Signed};
use crate::store::keys::{self as rows, CaRow, KeyState, PublicKeys};

use super::deploy;

/// The longest that a device's token is accepted.
const TOKEN_LIFE: Duration = DEVICE_TOKEN_TTL.saturating_add(LEEWAY);

/// A key for `list`: what the database says, and the file here that holds its private half.
pub struct Listed {
    pub view: KeyView,
    pub file: Option<String>,
    /// Of a CA.
    pub ca: Option<ListedCa>,
}

pub struct ListedCa {
    pub not_after: time::OffsetDateTime,
    pub signed: Signed,
}

/// Files here that the database does not know.
pub struct Unknown {
    pub file: String,
    pub key: String,
}

/// What a `next` made, or found.
pub struct Made {
    pub key: String,
    pub file: String,
    pub step: Step,
}

/// The directory's keys and the database, for one command.
pub struct Desk {
    control: ControlStore,
    dir: std::path::PathBuf,
    dev: bool,
    held: Held,
}

impl Desk {
    /// Refuses a directory that belongs to another installation.
    pub async fn open(settings: &Settings, tasks: &Tasks, random: Random) -> Result<Self, String> {
        let control = deploy::control(settings, tasks, random).await?;
        let (dir, dev) = (settings.pki_dir.clone(), settings.dev);
        let held = Held::load(&dir, dev).map_err(text)?;
        let desk = Self { control, dir, dev, held };
        let published = desk.published().await?;
        let known = published.certificates.iter().any(|row| desk.held.issuer(row.fingerprint).is_some())
            || published.token_keys.iter().any(|row| desk.held.signer(&row.kid).is_some());
        if known { Ok(desk) } else { Err("the keys in pki.dir are not of this database's installation".to_owned()) }
    }

    /// All keys of these uses, what is only here, and the live replicas.
    pub async fn list(&self, roles: &[KeyRole]) -> Result<(Vec<Listed>, Vec<Unknown>, Vec<LiveReplica>), String> {
        let (views, live) = key_views::overview(&self.control).await.map_err(text)?;
        let published = self.published().await?;
        let mut listed = Vec::new();
        for view in views.iter().filter(|view| roles.contains(&view.role)) {
            let file = self.held.file_of(&view.key).map(str::to_owned);
            listed.push(Listed { view: view.clone(), file, ca: self.describe(view, &published).await? });
        }
        let unknown = self.held.names().into_iter().filter(|key| !views.iter().any(|view| view.key == *key));
        let unknown = unknown.filter(|key| {
            let issuing = key.parse().ok().is_some_and(|print| self.held.issuer(print).is_some());
            issuing == (roles == [KeyRole::Issuing])
        });
        let unknown = unknown.filter_map(|key| Some(Unknown { file: self.held.file_of(&key)?.to_owned(), key }));
        Ok((listed, unknown.collect(), live))
    }

    async fn describe(&self, view: &KeyView, published: &PublicKeys) -> Result<Option<ListedCa>, String> {
        if view.role != KeyRole::Issuing {
            return Ok(None);
        }
        let row = published.certificates.iter().find(|row| row.fingerprint.to_string() == view.key);
        let Some(row) = row else { return Ok(None) };
        let not_after = ca::chain_end(&row.certificate_pem).map_err(text)?;
        let signed = key_views::signed_by(&self.control, &view.key).await.map_err(text)?;
        Ok(Some(ListedCa { not_after, signed }))
    }

    /// Publishes the next token key of an audience, and makes it if need be.
    pub async fn next_token_key(&mut self, audience: Audience) -> Result<Made, String> {
        let published = self.published().await?;
        let of = || published.token_keys.iter().filter(|row| row.audience == audience.column());
        if let Some(next) = of().find(|row| row.state == KeyState::Next) {
            return self.published_before(&next.kid);
        }
        let unknown = |held: &Held| {
            let mut unknown = held.of(audience).filter(|held| !of().any(|row| row.kid == held.signer.public().kid));
            unknown.next().cloned()
        };
        let ready = if let Some(ready) = unknown(&self.held) {
            ready
        } else {
            held::make_token_key(&self.dir, audience).map_err(text)?;
            self.held = Held::load(&self.dir, self.dev).map_err(text)?;
            unknown(&self.held).ok_or("the new key is not among the files")?
        };
        let public = ready.signer.public();
        let new = NewKey::Token(row_of(public, KeyState::Next));
        let step = key_life::publish_next(&self.log(), new).await.map_err(text)?;
        Ok(Made { key: public.kid.clone(), file: ready.file.clone(), step })
    }

    /// Publishes the next issuing CA, and makes it if need be.
    pub async fn next_ca(&mut self, root_key: &std::path::Path) -> Result<Made, String> {
        let published = self.published().await?;
        let known = |print| published.certificates.iter().find(|row| row.fingerprint == print);
        let next = published.certificates.iter().find(|row| row.kind == "issuing" && row.state == KeyState::Next);
        if let Some(next) = next {
            return self.published_before(&next.fingerprint.to_string());
        }
        let unknown = |held: &Held| held.issuers.iter().find(|one| known(one.issuer.fingerprint()).is_none()).cloned();
        let ready = if let Some(ready) = unknown(&self.held) {
            ready
        } else {
            let root = pki::load_root_with(&self.dir, root_key, self.dev).map_err(text)?;
            let issuer = root.make_issuer(Clock::System.wall()).map_err(text)?;
            held::write_issuer(&self.dir, &issuer).map_err(text)?;
            self.held = Held::load(&self.dir, self.dev).map_err(text)?;
            unknown(&self.held).ok_or("the new CA is not among the files")?
        };
        let fingerprint = ready.issuer.fingerprint();
        let certificate_pem = ready.issuer.certificate_pem().to_owned();
        let row = CaRow { kind: "issuing".to_owned(), fingerprint, certificate_pem, state: KeyState::Next };
        let step = key_life::publish_next(&self.log(), NewKey::Ca(row)).await.map_err(text)?;
        Ok(Made { key: fingerprint.to_string(), file: ready.file.clone(), step })
    }

    fn published_before(&self, key: &str) -> Result<Made, String> {
        let lost = || {
            format!(
                "{key} is published as the next key, and its private half is not in pki.dir: copy its file from the host \
                 that made it, or retire it (--key {key}) and begin again"
            )
        };
        let file = self.held.file_of(key).ok_or_else(lost)?.to_owned();
        Ok(Made { key: key.to_owned(), file, step: Step::Before })
    }

    /// Makes the next key the one that signs. `now`: a CA need not be old.
    pub async fn activate(&self, role: KeyRole, now: bool) -> Result<(String, Step), String> {
        key_life::activate(&self.log(), role, self.held.names(), now).await.map_err(text)
    }

    /// Ends these keys; without names, every one that retires. What was done to which.
    pub async fn retire(&self, role: KeyRole, key: Option<String>, force: bool) -> Result<Vec<(String, Step)>, String> {
        let (views, _) = key_views::overview(&self.control).await.map_err(text)?;
        let chosen = views.iter().filter(|view| {
            view.role == role
                && match &key {
                    Some(key) => view.key == *key,
                    None => view.state == KeyState::Retiring,
                }
        });
        let chosen: Vec<String> = chosen.map(|view| view.key.clone()).collect();
        if let (true, Some(key)) = (chosen.is_empty(), key) {
            return Err(format!("the database has no such key: {key}"));
        }
        let mut done = Vec::new();
        for key in chosen {
            let step = key_life::retire(&self.log(), key.clone(), TOKEN_LIFE, force).await.map_err(text)?;
            done.push((key, step));
        }
        Ok(done)
    }

    /// The file here that holds a key.
    pub fn file_of(&self, key: &str) -> Option<&str> {
        self.held.file_of(key)
    }

    /// A new key and certificate for replicas, by the active CA, put in place in this directory.
    pub async fn renew_server(&self, names: &[String]) -> Result<time::OffsetDateTime, String> {
        let issuer = self.held.ring(&self.published().await?).issuer;
        let issuer = issuer.ok_or("the active issuing CA is not among the files in pki.dir: copy it from a replica")?;
        let server = Issuer::make_server(&issuer, names, Clock::System.wall()).map_err(text)?;
        pki::replace_server(&self.dir, &server.chain_pem, &server.key_pem).map_err(text)?;
        ca::chain_end(&server.chain_pem).map_err(text)
    }

    async fn published(&self) -> Result<PublicKeys, String> {
        rows::load(&self.control).await.map_err(text)
    }

    fn log(&self) -> ChangeLog {
        ChangeLog::direct(self.control.clone())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
