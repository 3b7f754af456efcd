//! How to reach the database.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

/// For every session, whatever the server, the database or the role is set to.
/// * Weaker than `on`, a COMMIT comes back before its record is flushed anywhere, and what was flushed by then would
///   prove nothing about it.
/// * No statement here runs for long enough to repay its compilation: that of a sweep takes a second.
pub(super) const ALWAYS: [(&str, &str); 2] = [("synchronous_commit", "on"), ("jit", "off")];

/// Which of the database's roles a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Migrations only.
    Owner,
    Control,
    Fleet,
    /// Leases, the listener of the change log, the primary tracker.
    Lease,
}

impl Plane {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Control => "control",
            Self::Fleet => "fleet",
            Self::Lease => "lease",
        }
    }
}

/// A user of the database. `Debug` shows no password.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: SecretString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS: for a database on this host.
    Disable,
    /// TLS, the certificate checked against `ca_file` and the host's name.
    VerifyFull,
}

#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// `(host, port)` of every node; one of them is the primary.
    pub hosts: Vec<(String, u16)>,
    pub database: String,
    pub tls: TlsMode,
    pub ca_file: Option<PathBuf>,
    pub owner: Option<Login>,
    pub control: Login,
    pub fleet: Login,
    pub lease: Login,
    pub durability: super::Policy,
    pub control_connections_max: usize,
    pub fleet_connections_max: usize,
    /// Over socket, TLS, start-up and authentication together.
    pub connect_deadline: Duration,
    /// Over any statement, connection included. Past it, a write is *unknown*.
    pub statement_deadline: Duration,
}

impl StoreSettings {
    pub fn login(&self, plane: Plane) -> Option<&Login> {
        match plane {
            Plane::Owner => self.owner.as_ref(),
            Plane::Control => Some(&self.control),
            Plane::Fleet => Some(&self.fleet),
            Plane::Lease => Some(&self.lease),
        }
    }

    /// The fleet plane's driver settings for one host. `options`: `-c name=value …` of the session.
    pub(super) fn driver_config(&self, host: &(String, u16), plane: Plane, options: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        if let Some(login) = self.login(plane) {
            config.user(&login.user).password(login.password.expose_secret());
        }
        config
            .host(&host.0)
            .port(host.1)
            .dbname(&self.database)
            .application_name(format!("everbeat/{}", plane.as_str()))
            .options(format!("{} {options}", ALWAYS.map(|(name, value)| format!("-c {name}={value}")).join(" ")))
            .connect_timeout(self.connect_deadline)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(10))
            .ssl_mode(match self.tls {
                TlsMode::Disable => tokio_postgres::config::SslMode::Disable,
                TlsMode::VerifyFull => tokio_postgres::config::SslMode::Require,
            });
        config
    }

    /// The TLS half of the fleet plane's driver, trusting `ca_file` alone.
    ///
    /// # Errors
    /// A sentence, when the file is missing or holds no certificate.
    pub(super) fn rustls_config(&self) -> Result<Option<Arc<rustls::ClientConfig>>, String> {
        if self.tls == TlsMode::Disable {
            return Ok(None);
        }
        let Some(file) = &self.ca_file else {
            return Err("database.tls = \"verify-full\" needs database.ca_file".to_owned());
        };
        let mut roots = RootCertStore::empty();
        let read = |error| format!("database.ca_file {}: {error}", file.display());
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| read(e.to_string()))? {
            let certificate = certificate.map_err(|e| read(e.to_string()))?;
            roots.add(certificate).map_err(|e| read(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(read("no certificate in it".to_owned()));
        }
        Ok(Some(Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())))
    }
}
