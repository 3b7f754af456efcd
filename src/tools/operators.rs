//! Operators and their tokens, for the people who run a deployment: read and changed in the database, with the
//! change log, so that every replica acts on it within a second. It takes no operator's token, and so also helps those
//! who have locked themselves out.

use uuid::Uuid;

use crate::domain::access::{Grants, Role};
use crate::domain::ids::OperatorId;
use crate::store::changes::{ChangeError, ChangeLog};
use crate::store::operator_views::{self, OperatorView, TokenView};
use crate::store::{ControlStore, fleets, operators};

/// Rows asked for at once.
const PAGE_MAX: i64 = 1_000;

/// A role for a fleet, or for every fleet.
pub type FleetRole = (Option<String>, Role);

/// All operators, by subject.
pub async fn list(control: &ControlStore) -> Result<Vec<OperatorView>, String> {
    let mut all: Vec<OperatorView> = Vec::new();
    loop {
        let after = all.last().map(|operator| operator.subject.clone());
        let page = operator_views::operators(control, after, PAGE_MAX).await.map_err(|error| error.to_string())?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Tokens of one operator or of all, the oldest first. `dead`: also those that are accepted no more.
pub async fn tokens(control: &ControlStore, subject: Option<String>, dead: bool) -> Result<Vec<TokenView>, String> {
    if let Some(subject) = &subject {
        known(control, subject).await?;
    }
    let mut all: Vec<TokenView> = Vec::new();
    loop {
        let after: Option<Uuid> = all.last().map(|token| token.jti);
        let page = operator_views::tokens(control, (subject.clone(), dead), after, PAGE_MAX).await;
        let page = page.map_err(|error| error.to_string())?;
        if page.is_empty() {
            // Ids of tokens are random; people think in time.
            all.sort_by_key(|token| token.created_at);
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Disables an operator with all tokens, or enables them again: then they need a new token. A repetition succeeds.
pub async fn set_disabled(control: ControlStore, subject: &str, disabled: bool) -> Result<(), String> {
    let id = known(&control, subject).await?;
    operators::set_disabled(&ChangeLog::direct(control), id, disabled).await.map_err(|error| error.to_string())
}

/// Replaces all roles of an operator.
pub async fn set_roles(control: ControlStore, subject: &str, roles: &[FleetRole]) -> Result<(), String> {
    let id = known(&control, subject).await?;
    let grants = grants(&control, roles).await?;
    operators::set_roles(&ChangeLog::direct(control), id, grants).await.map_err(|error| error.to_string())
}

/// Revokes a token; a repetition succeeds.
pub async fn revoke(control: ControlStore, jti: Uuid) -> Result<(), String> {
    operators::revoke_token(&ChangeLog::direct(control), jti).await.map_err(|error| match error {
        ChangeError::NotFound => format!("there is no token {jti}"),
        error => error.to_string(),
    })
}

/// Roles with their fleets' ids.
pub(super) async fn grants(control: &ControlStore, roles: &[FleetRole]) -> Result<Grants, String> {
    let mut grants = Grants::default();
    for (fleet, role) in roles {
        match fleet {
            None => grants.everywhere = Some(*role),
            Some(name) => {
                let found = fleets::by_name(control, name).await.map_err(|error| error.to_string())?;
                let fleet = found.ok_or_else(|| format!("there is no fleet {name:?}"))?;
                grants.fleets.insert(fleet.id, *role);
            }
        }
    }
    Ok(grants)
}

async fn known(control: &ControlStore, subject: &str) -> Result<OperatorId, String> {
    let found = operator_views::by_subject(control, subject).await.map_err(|error| error.to_string())?;
    found.ok_or_else(|| format!("there is no operator {subject:?}; `everbeat operator list` lists them"))
}
