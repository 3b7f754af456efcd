//! Who may do what: roles, actions, and what an operator may see.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::ids::FleetId;

/// An operator's role. Ordered: a higher role may do everything a lower one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads, and steers devices.
    Operator,
    /// Everything, people and policies included.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| "a role is viewer, operator or admin".to_owned())
    }
}

/// What an operator's route does, as declared in the table of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// About oneself: any valid token.
    SelfRead,
    /// Devices, presence, readings, events of a fleet.
    FleetRead,
    /// Suspend and resume devices, revoke certificates, make enrollment tokens.
    FleetSteer,
    /// Make and change fleets.
    FleetAdmin,
    /// Leases, replicas, outages: of the service, not of a fleet. Any role will do.
    ServiceRead,
}

impl Action {
    pub const ALL: [Self; 5] = [Self::SelfRead, Self::FleetRead, Self::FleetSteer, Self::FleetAdmin, Self::ServiceRead];

    /// The lowest role that may; `None`: any valid token.
    pub fn needs(self) -> Option<Role> {
        match self {
            Self::SelfRead => None,
            Self::FleetRead | Self::ServiceRead => Some(Role::Viewer),
            Self::FleetSteer => Some(Role::Operator),
            Self::FleetAdmin => Some(Role::Admin),
        }
    }
}

/// The answer to "may they?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// They see the fleet, but their role is too low: 403.
    Forbidden,
    /// They do not see the fleet: 404.
    Invisible,
}

/// The roles of one operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The role in every fleet, present and future.
    pub everywhere: Option<Role>,
    pub fleets: HashMap<FleetId, Role>,
}

impl Grants {
    pub fn role_in(&self, fleet: FleetId) -> Option<Role> {
        self.fleets.get(&fleet).copied().max(self.everywhere)
    }

    /// May they do `action` in `fleet`?
    pub fn in_fleet(&self, action: Action, fleet: FleetId) -> Verdict {
        match (self.role_in(fleet), action.needs()) {
            (_, None) => Verdict::Allowed,
            (None, Some(_)) => Verdict::Invisible,
            (Some(role), Some(needed)) if role >= needed => Verdict::Allowed,
            (Some(_), Some(_)) => Verdict::Forbidden,
        }
    }

    /// May they do `action` where no single fleet is named (lists, the service itself, a new fleet)?
    pub fn anywhere(&self, action: Action) -> Verdict {
        let best = self.fleets.values().copied().max().max(self.everywhere);
        let role = if action == Action::FleetAdmin { self.everywhere } else { best };
        match action.needs() {
            None => Verdict::Allowed,
            Some(needed) if role.is_some_and(|role| role >= needed) => Verdict::Allowed,
            Some(_) => Verdict::Forbidden,
        }
    }

    /// The fleets in which they may do `action`; `None` means every fleet.
    pub fn scope(&self, action: Action) -> Option<Vec<FleetId>> {
        let enough = |role: Role| action.needs().is_none_or(|needed| role >= needed);
        if self.everywhere.is_some_and(enough) {
            return None;
        }
        Some(self.fleets.iter().filter(|(_, role)| enough(**role)).map(|(fleet, _)| *fleet).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_before_forbidden() {
        let (here, there) = (FleetId(uuid::Uuid::from_u128(1)), FleetId(uuid::Uuid::from_u128(2)));
        let viewer = Grants { everywhere: None, fleets: [(here, Role::Viewer)].into() };
        assert_eq!(viewer.in_fleet(Action::FleetRead, here), Verdict::Allowed);
        assert_eq!(viewer.in_fleet(Action::FleetSteer, here), Verdict::Forbidden);
        assert_eq!(viewer.in_fleet(Action::FleetRead, there), Verdict::Invisible);
        assert_eq!(viewer.anywhere(Action::FleetAdmin), Verdict::Forbidden);
        assert_eq!(viewer.scope(Action::FleetRead), Some(vec![here]));
        assert_eq!(viewer.scope(Action::FleetSteer), Some(vec![]));
    }

    #[test]
    fn a_new_fleet_needs_an_admin_of_all() {
        let here = FleetId(uuid::Uuid::from_u128(1));
        let local = Grants { everywhere: Some(Role::Viewer), fleets: [(here, Role::Admin)].into() };
        assert_eq!(local.in_fleet(Action::FleetAdmin, here), Verdict::Allowed);
        assert_eq!(local.anywhere(Action::FleetAdmin), Verdict::Forbidden);
        assert_eq!(local.scope(Action::FleetRead), None);
    }
}
