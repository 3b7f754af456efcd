//! Finds what a request names, and asks whether the operator may: what they may not see is not there.

use crate::domain::ids::FleetId;
use crate::http::api::AdminApi;
use crate::http::authn::Operator;
use crate::http::error::ApiError;
use crate::http::reference::{DeviceRef, FleetRef};
use crate::store::device_views::{self, DeviceFilter, DeviceView};
use crate::store::fleets::{self, FleetFilter, FleetRow};

/// The fleet in a path.
pub async fn fleet(api: &AdminApi, operator: &Operator, reference: FleetRef) -> Result<FleetRow, ApiError> {
    let filter = match reference {
        FleetRef::Id(id) => FleetFilter { id: Some(id), ..FleetFilter::default() },
        FleetRef::Named(name) => FleetFilter { name: Some(name.to_string()), ..FleetFilter::default() },
    };
    let row = fleets::one(&api.store, filter).await?.ok_or_else(ApiError::not_found)?;
    operator.allow(FleetId(row.id))?;
    Ok(row)
}

/// The fleet of this name, in a query or a body. What cannot be a name is not there.
pub async fn fleet_named(api: &AdminApi, operator: &Operator, name: &str) -> Result<FleetId, ApiError> {
    let name = name.parse().map_err(|_| ApiError::not_found())?;
    Ok(FleetId(fleet(api, operator, FleetRef::Named(name)).await?.id))
}

/// The device in a path.
pub async fn device(api: &AdminApi, operator: &Operator, reference: DeviceRef) -> Result<DeviceView, ApiError> {
    let filter = match reference {
        DeviceRef::Id(id) => DeviceFilter { id: Some(id), ..DeviceFilter::default() },
        DeviceRef::Named { fleet, name } => DeviceFilter {
            fleet_name: Some(fleet.to_string()),
            name: Some(name.to_string()),
            ..DeviceFilter::default()
        },
    };
    let view = device_views::one(&api.store, filter).await?.ok_or_else(ApiError::not_found)?;
    operator.allow(view.fleet)?;
    Ok(view)
}
