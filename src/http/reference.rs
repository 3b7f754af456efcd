//! How a path names a resource: by id, or `name:<fleet>` and `name:<fleet>:<name>`.

use std::str::FromStr;

use crate::domain::ids::{DeviceId, FleetId};
use crate::domain::name::Name;

/// A fleet in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetRef {
    Id(FleetId),
    Named(Name),
}

/// A device in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceRef {
    Id(DeviceId),
    Named { fleet: Name, name: Name },
}

/// Neither an id nor a name: there is no such resource.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAReference;

impl FromStr for FleetRef {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        match text.strip_prefix("name:") {
            Some(name) => name.parse().map(Self::Named).map_err(|_| NotAReference),
            None => text.parse().map(Self::Id).map_err(|_| NotAReference),
        }
    }
}

impl FromStr for DeviceRef {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        let Some(names) = text.strip_prefix("name:") else {
            return text.parse().map(Self::Id).map_err(|_| NotAReference);
        };
        let (fleet, name) = names.split_once(':').ok_or(NotAReference)?;
        let fleet = fleet.parse().map_err(|_| NotAReference)?;
        Ok(Self::Named { fleet, name: name.parse().map_err(|_| NotAReference)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let id = "0192f6d0-7b7a-7c3e-9d5e-0123456789ab";
        assert_eq!(id.parse(), Ok(DeviceRef::Id(id.parse().unwrap())));
        let named = DeviceRef::Named { fleet: "f".parse().unwrap(), name: "pump-1".parse().unwrap() };
        assert_eq!("name:f:pump-1".parse(), Ok(named));
        assert_eq!("name:f".parse(), Ok(FleetRef::Named("f".parse().unwrap())));
        for bad in ["", "pump-1", "name:f", "name:f:", "name::x", "name:f:X", "name:f:x:y", "name:"] {
            assert_eq!(bad.parse::<DeviceRef>(), Err(NotAReference), "{bad}");
        }
    }
}
