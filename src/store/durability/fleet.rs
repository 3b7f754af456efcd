//! The question in the fleet plane's driver.

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::SimpleQueryMessage;

use super::{Asks, POSITION, Position};

pub(in crate::store) async fn commit_and_ask(transaction: Transaction<'_>) -> Result<Position, tokio_postgres::Error> {
    let both = format!("commit;\n{}", POSITION.sql);
    let messages = transaction.simple_query(&both).await?;
    // It is over: its Drop would roll back what is no longer there, and the server would log a warning.
    std::mem::forget(transaction);
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let number = |name: &str| row.and_then(|row| row.get(name)).and_then(|text| text.parse().ok());
    let named = row.and_then(|row| row.get("named")) == Some("t");
    Ok(Position { flushed: number("flushed").unwrap_or(i64::MAX), standby: number("standby"), named })
}

pub(in crate::store) async fn position(connection: &Object) -> Result<Position, tokio_postgres::Error> {
    let prepared = connection.prepare_cached(POSITION.sql).await?;
    let row = connection.query_one(&prepared, &[]).await?;
    Ok(Position { flushed: row.get("flushed"), standby: row.get("standby"), named: row.get("named") })
}

impl Asks for &Object {
    async fn position(&mut self) -> Option<Position> {
        position(self).await.ok()
    }
}
