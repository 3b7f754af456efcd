//! A dedicated, direct session with the database: never pooled, one owner. For leases, the change log's listener,
//! the tick and the primary tracker.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::error::{Fault, Stage, StoreError};
use super::settings::{Plane, StoreSettings};
use super::statement::{Statement, measured};
use crate::lifecycle::tasks;

/// Notifications that may wait for their reader; more are dropped, since a doorbell rings only to wake.
const NOTIFICATIONS_MAX: usize = 64;

/// Closes when dropped: the server then ends the session and frees its advisory locks.
pub struct Session {
    client: Client,
    pid: i32,
    closed: watch::Receiver<bool>,
    notifications: mpsc::Receiver<String>,
    /// Closes the socket also while an answer is outstanding: the driver by itself would wait for it.
    _driver: AbortOnDropHandle<()>,
}

impl Session {
    /// Connects to one host as the user of `plane`, within the settings' connect deadline. `options` are
    /// session settings in libpq's form (`-c lock_timeout=1s`).
    pub async fn open(
        settings: &StoreSettings,
        host: &(String, u16),
        plane: Plane,
        options: &str,
    ) -> Result<Self, StoreError> {
        let open = async {
            let (client, closed, notifications, driver) = connect(settings, host, plane, options).await?;
            let row = client.query_one("select pg_backend_pid()", &[]).await.map_err(|e| refused(&e))?;
            Ok(Self { client, pid: row.get(0), closed, notifications, _driver: driver })
        };
        match tokio::time::timeout(settings.connect_deadline, open).await {
            Ok(session) => session,
            Err(_) => Err(StoreError::new("connect", Fault::Unavailable, "no session within the connect deadline")),
        }
    }

    /// The backend's process id.
    pub fn backend_pid(&self) -> i32 {
        self.pid
    }

    /// Runs one statement. Past `limit` its outcome is unknown and the session should be dropped.
    pub async fn query(
        &self,
        statement: &'static Statement,
        params: &[&(dyn ToSql + Sync)],
        limit: Duration,
    ) -> Result<Vec<Row>, StoreError> {
        let name = statement.name;
        let work = async {
            match tokio::time::timeout(limit, self.client.query(statement.sql, params)).await {
                Ok(Ok(rows)) => Ok(rows),
                Ok(Err(error)) => Err(StoreError::from_fleet(name, Stage::Committing, &error)),
                Err(_) => Err(StoreError::new(name, Fault::Unknown, format!("no answer within {limit:?}"))),
            }
        };
        measured(name, work).await
    }

    /// Runs text without parameters (LISTEN, SET, DDL that allows no parameters).
    pub async fn batch(&self, name: &'static str, sql: &str, limit: Duration) -> Result<(), StoreError> {
        let work = async {
            match tokio::time::timeout(limit, self.client.batch_execute(sql)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(StoreError::from_fleet(name, Stage::Committing, &error)),
                Err(_) => Err(StoreError::new(name, Fault::Unknown, format!("no answer within {limit:?}"))),
            }
        };
        measured(name, work).await
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || *self.closed.borrow()
    }

    /// Resolves when the connection has ended.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// The channel of the next notification; `None` when the connection has ended.
    pub async fn notified(&mut self) -> Option<String> {
        self.notifications.recv().await
    }
}

fn refused(error: &tokio_postgres::Error) -> StoreError {
    StoreError::from_fleet("connect", Stage::Before, error)
}

type Parts = (Client, watch::Receiver<bool>, mpsc::Receiver<String>, AbortOnDropHandle<()>);

/// Connects, and drives the connection in a task of its own.
pub(super) async fn connect(
    settings: &StoreSettings,
    host: &(String, u16),
    plane: Plane,
    options: &str,
) -> Result<Parts, StoreError> {
    let config = settings.driver_config(host, plane, options);
    let tls = settings.rustls_config().map_err(|e| StoreError::new("connect", Fault::Unavailable, e))?;
    match tls {
        None => {
            let (client, connection) = config.connect(NoTls).await.map_err(|e| refused(&e))?;
            Ok(drive(client, connection))
        }
        Some(tls) => {
            let connector = MakeRustlsConnect::new((*tls).clone());
            let (client, connection) = config.connect(connector).await.map_err(|e| refused(&e))?;
            Ok(drive(client, connection))
        }
    }
}

fn drive<S, T>(client: Client, mut connection: tokio_postgres::Connection<S, T>) -> Parts
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (ended, closed) = watch::channel(false);
    let (ring, notifications) = mpsc::channel(NOTIFICATIONS_MAX);
    let driver = tasks::spawn(async move {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(note)) => drop(ring.try_send(note.channel().to_owned())),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a database connection ended");
                    break;
                }
            }
        }
        let _ = ended.send(true);
    });
    (client, closed, notifications, AbortOnDropHandle::new(driver))
}
