//! The directory that holds a replica's certificates and keys.
//!
//! ```text
//! root.pem           issuing.pem    ca.pem (root, issuing)    server.pem (server, issuing)
//! root.key (offline) issuing.key                              server.key
//!                    token-device.key, token-operator.key
//! ```
//!
//! Further issuing CAs and token keys lie beside them, each in a file of its own: see [`super::held`]. A server
//! certificate that replaced the first one lies in `server.key` together with its key; `server.pem` is then a copy for
//! people.
//!
//! Keys are PKCS#8 in PEM, mode 0600; certificates are 0644, the directory 0700.
//!
//! **Creation is all or nothing.** Files are written and synced in `.creating`, which is renamed to `.created` (the
//! commit), and moved from there into place. A crash before the commit leaves files that nobody has seen, and the
//! next [`create`] begins anew; a crash after it leaves `.created`, which the next [`create`] finishes, and which
//! [`load`] names. Renaming the directory itself would do without all this, but it is often a mount point, and those
//! cannot be renamed. A lock on the directory keeps two [`create`]s apart.
//!
//! Not here: whether these keys are the ones that the database knows (the caller compares [`PublicHalves`]).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::bundle::CaBundle;
use super::ca::{self, CaError, Root};
use super::held::Held;
use super::jwt::{BadTokenKey, TokenPublicKey};
use crate::domain::digest::sha256;
use crate::domain::enrollment::Pin;
use crate::domain::ids::Fingerprint;
use crate::domain::time::Clock;

pub(super) const ROOT_PEM: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
pub(super) const ISSUING_PEM: &str = "issuing.pem";
pub(super) const ISSUING_KEY: &str = "issuing.key";
const CA_PEM: &str = "ca.pem";
const SERVER_PEM: &str = "server.pem";
const SERVER_KEY: &str = "server.key";
const TOKEN_DEVICE_KEY: &str = "token-device.key";
const TOKEN_OPERATOR_KEY: &str = "token-operator.key";
const FILES: [&str; 9] = [
    ROOT_PEM,
    ROOT_KEY,
    ISSUING_PEM,
    ISSUING_KEY,
    CA_PEM,
    SERVER_PEM,
    SERVER_KEY,
    TOKEN_DEVICE_KEY,
    TOKEN_OPERATOR_KEY,
];
/// Written, not yet committed.
const CREATING: &str = ".creating";
/// Committed, not yet in place.
const CREATED: &str = ".created";
/// No file here is longer; a wrong path does not fill the memory.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a PKI directory was not created or loaded. For the person at the command line.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{0} exists: this directory has a PKI already, and its keys are never overwritten")]
    Exists(PathBuf),
    #[error("another process is creating a PKI in {0}")]
    Busy(PathBuf),
    #[error("{0} is missing: not a whole PKI directory")]
    Missing(PathBuf),
    #[error("creating the PKI in {0} was interrupted; create it again, which finishes the work")]
    Interrupted(PathBuf),
    #[error("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path}: {source}")]
    Certificate { path: PathBuf, source: CaError },
    #[error("the files in {0} lack a key that the database calls active: copy it from another replica")]
    LacksActive(PathBuf),
    #[error("{0} does not fit the CA beside it: it is not signed by it, or the bundle does not hold it")]
    Chain(PathBuf),
    #[error(transparent)]
    TokenKey(#[from] BadTokenKey),
    #[error("the PKI could not be made: {0}")]
    Made(#[from] CaError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

/// Everything a replica needs to serve.
pub struct Pki {
    /// Every issuing CA and token key that can be signed with.
    pub held: Held,
    /// What clients are to trust: root, then issuing CA.
    pub ca_bundle: CaBundle,
    /// Of the root's key.
    pub pin: Pin,
    /// The server's certificate, then the issuing CA's.
    pub server_chain_pem: String,
    pub server_key_pem: SecretString,
    /// Only while `root.key` has not been taken offline.
    pub root: Option<Root>,
    root_certificate: CaCertificate,
    pub(super) dir: PathBuf,
    pub(super) dev: bool,
}

/// The public side: what the database publishes, and what a replica's files must agree with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicHalves {
    /// Root, then issuing CAs.
    pub certificates: Vec<CaCertificate>,
    pub token_keys: Vec<TokenPublicKey>,
}

/// A row of `ca_certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaCertificate {
    pub kind: CaKind,
    pub fingerprint: Fingerprint,
    pub pem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaKind {
    Root,
    Issuing,
}

impl CaKind {
    /// As in the column `ca_certificates.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuing => "issuing",
        }
    }
}

impl Pki {
    pub fn public_halves(&self) -> PublicHalves {
        let issuing = self.held.issuers.iter().map(|held| CaCertificate {
            kind: CaKind::Issuing,
            fingerprint: held.issuer.fingerprint(),
            pem: held.issuer.certificate_pem().to_owned(),
        });
        PublicHalves {
            certificates: [self.root_certificate.clone()].into_iter().chain(issuing).collect(),
            token_keys: self.held.signers.iter().map(|held| held.signer.public().clone()).collect(),
        }
    }
}

/// Has this directory no file of a PKI, not even of an interrupted creation?
pub fn is_absent(dir: &Path) -> bool {
    FILES.iter().chain([&CREATED]).all(|name| !dir.join(name).exists())
}

/// Makes a root CA, an issuing CA, a server certificate for these names and addresses, and two token keys. Finishes
/// an interrupted creation instead, with the names that were given then.
pub fn create(dir: &Path, server_names: &[String], clock: &Clock) -> Result<PublicHalves, PkiError> {
    make_dir(dir)?;
    let _lock = lock(dir)?;
    if !dir.join(CREATED).exists() {
        if let Some(file) = FILES.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
            return Err(PkiError::Exists(file));
        }
        write_all(dir, server_names, clock)?;
    }
    put_in_place(dir)?;
    Ok(load(dir, false)?.public_halves())
}

/// Reads and checks a PKI directory: every key belongs to its certificate, and every certificate to its CA. Keys that
/// others may read are refused, outside development.
pub fn load(dir: &Path, dev: bool) -> Result<Pki, PkiError> {
    if dir.join(CREATED).exists() {
        return Err(PkiError::Interrupted(dir.to_owned()));
    }
    let held = Held::load(dir, dev)?;
    let root_pem = read(&dir.join(ROOT_PEM))?;
    let server_key_pem = read_secret(&dir.join(SERVER_KEY), dev)?;
    let in_file = |name: &str| {
        let path = dir.join(name);
        move |source| PkiError::Certificate { path, source }
    };
    let server_chain_pem = match ca::certificates_of(server_key_pem.expose_secret()) {
        Ok(chain) => chain,
        Err(_) => read(&dir.join(SERVER_PEM))?,
    };
    let key = server_key_pem.expose_secret();
    let ours = |issuer: &ca::Issuer| issuer.issued_server(&server_chain_pem, key).map_err(in_file(SERVER_PEM));
    let ours = held.issuers.iter().map(|held| ours(&held.issuer)).collect::<Result<Vec<_>, _>>()?;
    if !ours.contains(&true) {
        return Err(PkiError::Chain(dir.join(SERVER_PEM)));
    }
    let root_der = ca::single_certificate(&root_pem).map_err(in_file(ROOT_PEM))?;
    let fingerprint = Fingerprint(sha256(&root_der));
    let root_certificate = CaCertificate { kind: CaKind::Root, fingerprint, pem: root_pem.clone() };
    Ok(Pki {
        root: load_root(dir, &root_pem, dev)?,
        ca_bundle: bundle(dir, &root_pem)?,
        pin: ca::pin_of(&root_pem).map_err(in_file(ROOT_PEM))?,
        held,
        server_chain_pem,
        server_key_pem,
        root_certificate,
        dir: dir.to_owned(),
        dev,
    })
}

/// The root CA with the key in this file, wherever that is.
pub fn load_root_with(dir: &Path, key_file: &Path, dev: bool) -> Result<Root, PkiError> {
    let key = read_secret(key_file, dev)?;
    let wrong = |source| PkiError::Certificate { path: key_file.to_owned(), source };
    Root::load(&read(&dir.join(ROOT_PEM))?, key.expose_secret()).map_err(wrong)
}

/// Puts a new server certificate in place. `server.key` holds the chain too, so that there is one moment at which key and
/// certificate change; `server.pem` follows.
pub fn replace_server(dir: &Path, chain_pem: &str, key_pem: &str) -> Result<(), PkiError> {
    let _lock = lock(dir)?;
    put(dir, SERVER_KEY, &format!("{chain_pem}{key_pem}"), 0o600)?;
    put(dir, SERVER_PEM, chain_pem, 0o644)
}

/// Writes a new file, whole or not at all. Never overwrites one.
pub(super) fn write_whole(dir: &Path, name: &str, text: &str, mode: u32) -> Result<(), PkiError> {
    let _lock = lock(dir)?;
    let path = dir.join(name);
    if path.exists() {
        return Err(PkiError::Exists(path));
    }
    put(dir, name, text, mode)
}

/// Under the lock.
fn put(dir: &Path, name: &str, text: &str, mode: u32) -> Result<(), PkiError> {
    let staging = dir.join(format!(".new-{name}"));
    match fs::remove_file(&staging) {
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(PkiError::File { path: staging, source }),
        _ => {}
    }
    write_new(&staging, text, mode)?;
    rename(&staging, &dir.join(name))?;
    sync_dir(dir)
}

fn load_root(dir: &Path, root_pem: &str, dev: bool) -> Result<Option<Root>, PkiError> {
    let path = dir.join(ROOT_KEY);
    match read_secret(&path, dev) {
        Ok(key) => {
            Root::load(root_pem, key.expose_secret()).map(Some).map_err(|source| PkiError::Certificate { path, source })
        }
        Err(PkiError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bundle may hold more than our own root, but not less.
fn bundle(dir: &Path, root_pem: &str) -> Result<CaBundle, PkiError> {
    let path = dir.join(CA_PEM);
    let text = read(&path)?;
    CaBundle::new(path, &text, ca::pin_of(root_pem)?)
}

/// Makes everything and writes it to `.creating`, then commits by renaming that to `.created`.
fn write_all(dir: &Path, server_names: &[String], clock: &Clock) -> Result<(), PkiError> {
    let now = clock.wall();
    let root = Root::make(now)?;
    let issuer = root.make_issuer(now)?;
    let server = issuer.make_server(server_names, now)?;
    let (root_pem, issuing_pem) = (root.certificate_pem(), issuer.certificate_pem());

    let staging = dir.join(CREATING);
    match fs::remove_dir_all(&staging) {
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(PkiError::File { path: staging, source }),
        _ => {}
    }
    make_dir(&staging)?;
    for (name, text, mode) in [
        (ROOT_PEM, root_pem, 0o644),
        (ROOT_KEY, &*root.key_pem(), 0o600),
        (ISSUING_PEM, issuing_pem, 0o644),
        (ISSUING_KEY, &*issuer.key_pem(), 0o600),
        (CA_PEM, &*format!("{root_pem}{issuing_pem}"), 0o644),
        (SERVER_PEM, &*server.chain_pem, 0o644),
        (SERVER_KEY, &*server.key_pem, 0o600),
        (TOKEN_DEVICE_KEY, &*ca::new_key_pem()?, 0o600),
        (TOKEN_OPERATOR_KEY, &*ca::new_key_pem()?, 0o600),
    ] {
        write_new(&staging.join(name), text, mode)?;
    }
    sync_dir(&staging)?;
    rename(&staging, &dir.join(CREATED))?;
    sync_dir(dir)
}

/// Moves what `.created` holds into place. May be done again after a crash at any point.
fn put_in_place(dir: &Path) -> Result<(), PkiError> {
    let staging = dir.join(CREATED);
    for name in FILES {
        let (from, to) = (staging.join(name), dir.join(name));
        if from.exists() {
            rename(&from, &to)?;
        }
    }
    sync_dir(dir)?;
    fs::remove_dir(&staging).map_err(|source| PkiError::File { path: staging, source })?;
    sync_dir(dir)
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => PkiError::Missing(path.to_owned()),
        _ => PkiError::File { path: path.to_owned(), source },
    };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(ErrorKind::FileTooLarge.into()));
    }
    fs::read_to_string(path).map_err(failed)
}

pub(super) fn read_secret(path: &Path, dev: bool) -> Result<SecretString, PkiError> {
    let text = SecretString::from(read(path)?);
    let metadata = fs::metadata(path).map_err(|source| PkiError::File { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 && !dev { Err(PkiError::Exposed { path: path.to_owned(), mode }) } else { Ok(text) }
}

/// Creates it if need be, for the owner alone. A directory that exists keeps its mode.
fn make_dir(path: &Path) -> Result<(), PkiError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// Held until the file is dropped, or the process dies.
fn lock(dir: &Path) -> Result<File, PkiError> {
    let failed = |source| PkiError::File { path: dir.to_owned(), source };
    let handle = File::open(dir).map_err(failed)?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(fs::TryLockError::WouldBlock) => Err(PkiError::Busy(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let written = || {
        // The mode at opening, so that the key is never readable; set again, because of the umask.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|source| PkiError::File { path: path.to_owned(), source })
}

fn rename(from: &Path, to: &Path) -> Result<(), PkiError> {
    fs::rename(from, to).map_err(|source| PkiError::File { path: to.to_owned(), source })
}

fn sync_dir(dir: &Path) -> Result<(), PkiError> {
    let synced = File::open(dir).and_then(|handle| handle.sync_all());
    synced.map_err(|source| PkiError::File { path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of the test's own, gone at its end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("everbeat-pki-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        fn create(&self) -> Result<PublicHalves, PkiError> {
            let names = ["localhost", "127.0.0.1"].map(str::to_owned);
            create(&self.0, &names, &Clock::manual(1_800_000_000_000_000))
        }

        fn files(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn mode(&self, name: &str) -> u32 {
            fs::metadata(self.0.join(name)).unwrap().permissions().mode() & 0o777
        }

        fn set_mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn is_key(name: &str) -> bool {
        Path::new(name).extension().is_some_and(|extension| extension == "key")
    }

    fn mode_of(name: &str) -> u32 {
        if is_key(name) { 0o600 } else { 0o644 }
    }

    fn sorted_files() -> Vec<String> {
        let mut names = FILES.map(str::to_owned).to_vec();
        names.sort();
        names
    }

    #[test]
    fn what_was_created_can_be_loaded() {
        let dir = Dir::new("create");
        let made = dir.create().unwrap();
        assert_eq!(dir.files(), sorted_files(), "nothing is left over");
        assert_eq!(dir.mode(""), 0o700);
        for name in FILES {
            assert_eq!(dir.mode(name), mode_of(name), "{name}");
        }
        let pki = load(&dir.0, false).unwrap();
        assert_eq!(pki.public_halves(), made);
        assert!(pki.root.is_some() && pki.pin.matches(&pki.ca_bundle.pem()));
        assert_eq!(made.certificates.iter().map(|c| c.kind.as_str()).collect::<Vec<_>>(), ["root", "issuing"]);
        assert_eq!(made.token_keys.len(), 2);

        fs::remove_file(dir.0.join(ROOT_KEY)).unwrap();
        assert!(load(&dir.0, false).unwrap().root.is_none(), "the root may be offline");
    }

    #[test]
    fn nothing_is_overwritten() {
        for name in FILES {
            let dir = Dir::new(&format!("exists-{name}"));
            make_dir(&dir.0).unwrap();
            fs::write(dir.0.join(name), "precious").unwrap();
            assert!(!is_absent(&dir.0));
            assert!(matches!(dir.create(), Err(PkiError::Exists(path)) if path.ends_with(name)));
            assert_eq!(fs::read_to_string(dir.0.join(name)).unwrap(), "precious");
            assert_eq!(dir.files(), [name]);
        }
    }

    #[test]
    fn keys_that_others_can_read_are_refused() {
        let dir = Dir::new("modes");
        dir.create().unwrap();
        for name in FILES.into_iter().filter(|name| is_key(name)) {
            for mode in [0o640, 0o604, 0o620, 0o644] {
                dir.set_mode(name, mode);
                let refused = load(&dir.0, false).err().unwrap();
                assert!(matches!(&refused, PkiError::Exposed { path, mode: m } if path.ends_with(name) && *m == mode));
                assert!(load(&dir.0, true).is_ok(), "{name} in development");
            }
            dir.set_mode(name, 0o400);
            assert!(load(&dir.0, false).is_ok());
        }
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_named() {
        let (dir, other) = (Dir::new("fit"), Dir::new("fit-other"));
        dir.create().unwrap();
        other.create().unwrap();
        for name in FILES {
            let path = dir.0.join(name);
            let own = fs::read_to_string(&path).unwrap();
            fs::copy(other.0.join(name), &path).unwrap();
            let swapped = load(&dir.0, false);
            // A token key of another set is a good key: only the database knows that it is the wrong one.
            let fits = name.starts_with("token-");
            assert_eq!(swapped.is_ok(), fits, "{name} of another set");
            for broken in ["", "junk"] {
                fs::write(&path, broken).unwrap();
                assert!(load(&dir.0, false).is_err(), "{name} is {broken:?}");
            }
            fs::remove_file(&path).unwrap();
            match load(&dir.0, false) {
                Ok(_) => assert_eq!(name, ROOT_KEY),
                Err(error) => assert!(matches!(error, PkiError::Missing(path) if path.ends_with(name)), "{name}"),
            }
            write_new(&path, &own, mode_of(name)).unwrap();
            load(&dir.0, false).unwrap();
        }
        assert!(matches!(load(&dir.0.join("nowhere"), false), Err(PkiError::Missing(_))));
    }

    #[test]
    fn a_crash_before_the_commit_leaves_nothing() {
        let dir = Dir::new("crash-before");
        make_dir(&dir.0.join(CREATING)).unwrap();
        fs::write(dir.0.join(CREATING).join(ROOT_PEM), "half a certifi").unwrap();
        assert!(matches!(load(&dir.0, false), Err(PkiError::Missing(_))));
        dir.create().unwrap();
        assert_eq!(dir.files(), sorted_files());
    }

    #[test]
    fn a_crash_after_the_commit_is_finished() {
        for moved in 0..=FILES.len() {
            let dir = Dir::new(&format!("crash-after-{moved}"));
            let made = dir.create().unwrap();
            // As it was when `moved` of the files were in place.
            make_dir(&dir.0.join(CREATED)).unwrap();
            for name in &FILES[moved..] {
                rename(&dir.0.join(name), &dir.0.join(CREATED).join(name)).unwrap();
            }
            assert!(matches!(load(&dir.0, false), Err(PkiError::Interrupted(_))), "after {moved}");
            assert_eq!(dir.create().unwrap(), made, "after {moved}");
            assert_eq!(dir.files(), sorted_files());
        }
    }

    #[test]
    fn two_at_once() {
        let dir = Dir::new("busy");
        make_dir(&dir.0).unwrap();
        let held = lock(&dir.0).unwrap();
        assert!(matches!(dir.create(), Err(PkiError::Busy(_))));
        drop(held);
        dir.create().unwrap();
        assert!(matches!(dir.create(), Err(PkiError::Exists(_))));
    }

    #[test]
    fn a_bad_name_leaves_nothing_behind() {
        let dir = Dir::new("name");
        let made = create(&dir.0, &["not a name".to_owned()], &Clock::manual(1_800_000_000_000_000));
        assert!(matches!(made, Err(PkiError::Made(CaError::BadServerName(_)))));
        assert_eq!(dir.files(), [""; 0]);
    }
    #[test]
    fn a_new_server_certificate_counts_from_one_rename() {
        let dir = Dir::new("server");
        dir.create().unwrap();
        let pki = load(&dir.0, false).unwrap();
        let now = Clock::manual(1_800_000_000_000_000).wall();
        let server = pki.held.issuers[0].issuer.make_server(&["example.org".to_owned()], now).unwrap();
        let old = fs::read_to_string(dir.0.join(SERVER_PEM)).unwrap();
        replace_server(&dir.0, &server.chain_pem, &server.key_pem).unwrap();
        assert_eq!(dir.files(), sorted_files());
        assert_eq!((dir.mode(SERVER_KEY), dir.mode(SERVER_PEM)), (0o600, 0o644));
        // As after a crash between the two files.
        fs::write(dir.0.join(SERVER_PEM), old).unwrap();
        let (loaded, given) = (load(&dir.0, false).unwrap().server_chain_pem, server.chain_pem);
        assert_eq!(ca::certificate_ders(&loaded), ca::certificate_ders(&given));
        let other = Dir::new("server-other");
        other.create().unwrap();
        let stranger = load(&other.0, false).unwrap();
        let server = stranger.held.issuers[0].issuer.make_server(&["example.org".to_owned()], now).unwrap();
        replace_server(&dir.0, &server.chain_pem, &server.key_pem).unwrap();
        assert!(matches!(load(&dir.0, false), Err(PkiError::Chain(_))), "by another CA");
    }
}
