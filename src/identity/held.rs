//! The private halves in the PKI directory: every issuing CA and every token key that this replica can sign with. Names
//! of files say what a key is for; which key signs, the database says ([`super::keyring`]).
//!
//! ```text
//! issuing.pem + issuing.key     the first issuing CA
//! issuing.<print>.key           another: its certificate and its key in one file, so that it is copied whole
//! token-device.key, token-device.<kid>.key      token keys of devices
//! token-operator.key, token-operator.<kid>.key  token keys of operators
//! ```
//!
//! A new key gets a file of its own, named after it: no step of a rotation overwrites or renames a key, so that files
//! may be copied to other hosts in any order, before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::ca::{self, Issuer};
use super::jwt::{Audience, Signer};
use super::pki::{self, ISSUING_KEY, ISSUING_PEM, PkiError, ROOT_PEM};
use super::ring::Ring;
use crate::domain::digest::sha256;
use crate::domain::ids::Fingerprint;
use crate::store::keys::PublicKeys;

/// Files of one kind that are looked at. More are a mistake, and each costs a signature check.
const FILES_MAX: usize = 64;
/// Of a fingerprint, in a file's name. The whole is in the file.
const PRINT_CHARS: usize = 16;

/// An issuing CA with its private key, and the file that it comes from.
#[derive(Clone)]
pub struct HeldIssuer {
    pub file: String,
    pub issuer: Arc<Issuer>,
}

/// A token key, and the file that it comes from.
#[derive(Clone)]
pub struct HeldSigner {
    pub file: String,
    pub signer: Arc<Signer>,
}

/// All of them; each kind has one at least.
#[derive(Clone)]
pub struct Held {
    pub issuers: Vec<HeldIssuer>,
    pub signers: Vec<HeldSigner>,
    /// Names these contents.
    pub(super) digest: [u8; 32],
}

impl Held {
    /// Reads and checks every file. One that is not good spoils all: half of what the person meant is not used.
    pub fn load(dir: &Path, dev: bool) -> Result<Self, PkiError> {
        let texts = secrets(dir, dev)?;
        let root_pem = pki::read(&dir.join(ROOT_PEM))?;
        let mut held = Self { issuers: Vec::new(), signers: Vec::new(), digest: digest(&texts) };
        for (name, text) in &texts {
            if let Some(audience) = audience_of(name) {
                held.add_signer(name, Signer::load(audience, text.expose_secret())?);
            } else {
                held.add_issuer(dir, (name, text), &root_pem)?;
            }
        }
        let missing = |name: &str| Err(PkiError::Missing(dir.join(name)));
        if held.issuers.is_empty() {
            return missing(if dir.join(ISSUING_PEM).exists() { ISSUING_KEY } else { ISSUING_PEM });
        }
        match Audience::ALL.into_iter().find(|audience| held.of(*audience).next().is_none()) {
            Some(audience) => missing(&format!("{}.key", stem(audience))),
            None => Ok(held),
        }
    }

    /// The token keys for an audience.
    pub fn of(&self, audience: Audience) -> impl Iterator<Item = &HeldSigner> {
        self.signers.iter().filter(move |held| held.signer.public().audience == audience)
    }

    pub fn issuer(&self, print: Fingerprint) -> Option<&HeldIssuer> {
        self.issuers.iter().find(|held| held.issuer.fingerprint() == print)
    }

    pub fn signer(&self, kid: &str) -> Option<&HeldSigner> {
        self.signers.iter().find(|held| held.signer.public().kid == kid)
    }

    /// The file of a key by its name in the database.
    pub fn file_of(&self, key: &str) -> Option<&str> {
        let issuer = key.parse().ok().and_then(|print| self.issuer(print)).map(|held| &*held.file);
        issuer.or_else(|| self.signer(key).map(|held| &*held.file))
    }

    /// What may sign, as the database says.
    pub fn ring(&self, published: &PublicKeys) -> Ring {
        Ring::of(self, published)
    }

    /// The names in the database of all keys.
    pub fn names(&self) -> Vec<String> {
        let issuers = self.issuers.iter().map(|held| held.issuer.fingerprint().to_string());
        issuers.chain(self.signers.iter().map(|held| held.signer.public().kid.clone())).collect()
    }

    /// Two files may hold the same key.
    fn add_signer(&mut self, file: &str, signer: Signer) {
        if self.signer(&signer.public().kid).is_none() {
            self.signers.push(HeldSigner { file: file.to_owned(), signer: Arc::new(signer) });
        }
    }

    fn add_issuer(&mut self, dir: &Path, (name, key): (&str, &SecretString), root_pem: &str) -> Result<(), PkiError> {
        let path = dir.join(name);
        let key = key.expose_secret();
        let certificate_pem = match name {
            ISSUING_KEY => pki::read(&dir.join(ISSUING_PEM))?,
            _ => ca::certificates_of(key).map_err(|source| PkiError::Certificate { path: path.clone(), source })?,
        };
        let wrong = |source| PkiError::Certificate { path: path.clone(), source };
        let issuer = Issuer::load(&certificate_pem, key).map_err(wrong)?;
        if !ca::is_issued_by(&certificate_pem, root_pem)
            .map_err(|source| PkiError::Certificate { path: dir.join(ROOT_PEM), source })?
        {
            return Err(PkiError::Chain(if name == ISSUING_KEY { dir.join(ISSUING_PEM) } else { path }));
        }
        if self.issuer(issuer.fingerprint()).is_none() {
            self.issuers.push(HeldIssuer { file: name.to_owned(), issuer: Arc::new(issuer) });
        }
        Ok(())
    }
}

/// Makes a new token key in a file of its own; the file's name.
pub fn make_token_key(dir: &Path, audience: Audience) -> Result<String, PkiError> {
    let pem = ca::new_key_pem()?;
    let kid = Signer::load(audience, &pem)?.public().kid.clone();
    let name = format!("{}.{kid}.key", stem(audience));
    pki::write_whole(dir, &name, &pem, 0o600)?;
    Ok(name)
}

/// Writes a new issuing CA, certificate and key, into a file of its own; the file's name.
pub fn write_issuer(dir: &Path, issuer: &Issuer) -> Result<String, PkiError> {
    let print = issuer.fingerprint().to_string();
    let name = format!("issuing.{}.key", &print[..PRINT_CHARS]);
    pki::write_whole(dir, &name, &format!("{}{}", issuer.certificate_pem(), issuer.key_pem()), 0o600)?;
    Ok(name)
}

fn stem(audience: Audience) -> &'static str {
    match audience {
        Audience::Device => "token-device",
        Audience::Operator => "token-operator",
    }
}

/// `<stem>.key` or `<stem>.<anything>.key`.
fn is_of(name: &str, stem: &str) -> bool {
    name.strip_prefix(stem)
        .and_then(|rest| rest.strip_suffix(".key"))
        .is_some_and(|rest| rest.is_empty() || (rest.len() > 1 && rest.starts_with('.')))
}

fn audience_of(name: &str) -> Option<Audience> {
    Audience::ALL.into_iter().find(|audience| is_of(name, stem(*audience)))
}

fn secrets(dir: &Path, dev: bool) -> Result<BTreeMap<String, SecretString>, PkiError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => PkiError::Missing(dir.to_owned()),
        _ => PkiError::File { path: dir.to_owned(), source },
    };
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        if audience_of(&name).is_none() && !is_of(&name, "issuing") {
            continue;
        }
        if texts.len() >= FILES_MAX {
            return Err(failed(std::io::Error::other(format!("more than {FILES_MAX} files of keys"))));
        }
        let text = pki::read_secret(&dir.join(&name), dev)?;
        texts.insert(name, text);
    }
    Ok(texts)
}

fn digest(texts: &BTreeMap<String, SecretString>) -> [u8; 32] {
    let each =
        texts.iter().map(|(name, text)| [sha256(name.as_bytes()), sha256(text.expose_secret().as_bytes())].concat());
    sha256(&each.collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::time::Clock;

    fn directory() -> (tempfile::TempDir, Clock) {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(1_800_000_000_000_000));
        pki::create(dir.path(), &["localhost".to_owned()], &clock).unwrap();
        (dir, clock)
    }

    #[test]
    fn every_key_of_the_directory_is_held() {
        let (dir, clock) = directory();
        let path = dir.path();
        let first = Held::load(path, false).unwrap();
        assert_eq!((first.issuers.len(), first.signers.len()), (1, 2));
        let name = make_token_key(path, Audience::Device).unwrap();
        let root = pki::load_root_with(path, &path.join("root.key"), false).unwrap();
        let issuer = root.make_issuer(clock.wall()).unwrap();
        let ca = write_issuer(path, &issuer).unwrap();
        assert!(matches!(write_issuer(path, &issuer), Err(PkiError::Exists(_))), "nothing is overwritten");
        // A copy under another name is the same key.
        fs::copy(path.join(&name), path.join("token-device.copy.key")).unwrap();
        // Not ours to read.
        for other in ["token-device.key.bak", ".new-token-device.key", "token-device..key", "issuing.pem.key~"] {
            fs::write(path.join(other), "junk").unwrap();
        }
        let held = Held::load(path, false).unwrap();
        assert_eq!((held.issuers.len(), held.signers.len()), (2, 3));
        assert_eq!((held.of(Audience::Device).count(), held.of(Audience::Operator).count()), (2, 1));
        assert_eq!(held.file_of(&issuer.fingerprint().to_string()), Some(&*ca));
        assert_ne!(held.digest, first.digest);

        // The first ones may go, once they are of no use.
        for old in ["issuing.key", "issuing.pem", "token-device.key"] {
            fs::remove_file(path.join(old)).unwrap();
        }
        assert_eq!(Held::load(path, false).unwrap().names().len(), 3);
    }

    #[test]
    fn one_bad_file_spoils_all() {
        let (dir, clock) = directory();
        let path = dir.path();
        let name = make_token_key(path, Audience::Operator).unwrap();
        fs::set_permissions(path.join(&name), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Held::load(path, false), Err(PkiError::Exposed { .. })));
        fs::write(path.join(&name), "half a k").unwrap();
        assert!(matches!(Held::load(path, true), Err(PkiError::TokenKey(_))));
        fs::remove_file(path.join(&name)).unwrap();
        let stranger = ca::Root::make(clock.wall()).unwrap().make_issuer(clock.wall()).unwrap();
        let name = write_issuer(path, &stranger).unwrap();
        assert!(matches!(Held::load(path, false), Err(PkiError::Chain(file)) if file.ends_with(&name)));
        fs::write(path.join(&name), stranger.key_pem()).unwrap();
        assert!(matches!(Held::load(path, false), Err(PkiError::Certificate { .. })), "no certificate in it");
    }
}
