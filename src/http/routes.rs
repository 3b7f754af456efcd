//! Every route of the three listeners. The routers, the OpenAPI documents and the tests of permissions are made of
//! this table; there is no other list.

use axum::Router;

use super::api::{AdminApi, DeviceApi, OpsApi, Shared};
use super::openapi::{self, Shape};
use super::route::{JSON, Method, Permission, Route, RouteInfo, build};
use super::{admin, device, ops};
use crate::domain::access::Action;
use crate::observe::net::Port;
use crate::wire::admin as adm;
use crate::wire::device as dev;

const FORM: &str = "application/x-www-form-urlencoded";
const NDJSON: &str = "application/x-ndjson";
/// A chain of certificates (RFC 8555, 9.1).
pub(super) const PEM_CHAIN: &str = "application/pem-certificate-chain";
/// The Prometheus text format.
pub(super) const EXPOSITION: &str = "text/plain; version=0.0.4";
pub(super) const TEXT: &str = "text/plain";

#[rustfmt::skip] // a row is read as a whole
fn device_routes() -> Vec<Route<DeviceApi>> {
    use Method::{Get, Post};
    use Permission::{Cert, CertAndToken, CertMaybeExpired, EnrollmentToken, Public};
    let d = Port::Device;
    vec![
        Route::new(d, Get, "/openapi.json", Public, openapi::device)
            .summary("This description.").answers_as(200, JSON, Shape::Any),
        Route::new(d, Get, "/v1/ca", Public, device::ca::get)
            .summary("The CA bundle to trust.").answers_as(200, PEM_CHAIN, Shape::Text),
        Route::new(d, Post, "/v1/enroll", EnrollmentToken, device::enroll::enroll)
            .summary("Makes a device and its first certificate.")
            .takes::<dev::EnrollRequest>().answers::<dev::EnrollAnswer>(201).secret(),
        Route::new(d, Post, "/v1/renew", CertMaybeExpired, device::enroll::renew)
            .summary("Gives the device its next certificate.")
            .takes::<dev::RenewRequest>().answers::<dev::EnrollAnswer>(200).secret(),
        Route::new(d, Post, "/v1/token", Cert, device::token::create)
            .summary("Gives an access token bound to the certificate (RFC 6749 4.4, RFC 8705).")
            .takes_as(FORM, Shape::of::<device::token::TokenRequest>()).takes_nothing()
            .answers::<dev::TokenAnswer>(200).secret().oauth(),
        Route::new(d, Post, "/v1/heartbeat", CertAndToken, device::heartbeat::beat)
            .summary("A sign of life.")
            .takes_maybe::<dev::HeartbeatRequest>().answers::<dev::HeartbeatAnswer>(200).own_contact().may_be_blind(),
        Route::new(d, Post, "/v1/readings", CertAndToken, device::readings::submit)
            .summary("Stores readings; answers once they are durable. 207: some were rejected. 422: all were.")
            .takes::<device::readings::Readings>().takes_as(NDJSON, Shape::Text).readings()
            .answers::<dev::ReadingsAnswer>(200).answers::<dev::ReadingsAnswer>(207).answers::<dev::ReadingsAnswer>(422),
        Route::new(d, Post, "/v1/goodbye", CertAndToken, device::heartbeat::goodbye)
            .summary("The device leaves on purpose.")
            .takes_maybe::<dev::GoodbyeRequest>().answers_nothing().own_contact(),
        Route::new(d, Get, "/v1/me", CertAndToken, device::me::get)
            .summary("What is known of the calling device.").answers::<dev::Me>(200),
    ]
}

#[rustfmt::skip] // a row is read as a whole
fn admin_routes() -> Vec<Route<AdminApi>> {
    use Action::{FleetRead, SelfRead, ServiceRead};
    use Method::Get;
    use Permission::{Operator, Public};
    let a = Port::Admin;
    vec![
        Route::new(a, Get, "/openapi.json", Public, openapi::admin)
            .summary("This description.").answers_as(200, JSON, Shape::Any),
        Route::new(a, Get, "/v1/whoami", Operator(SelfRead), admin::whoami::get)
            .summary("The calling operator and their roles.").answers::<adm::WhoAmI>(200),
        Route::new(a, Get, "/v1/fleets", Operator(FleetRead), admin::fleets::list)
            .summary("The fleets that the operator sees, by name.")
            .query::<admin::fleets::FleetsQuery>().lists::<adm::Fleet>(),
        Route::new(a, Get, "/v1/leases", Operator(ServiceRead), admin::leases::list)
            .summary("The leases of all duties.").query::<admin::leases::LeasesQuery>().lists::<adm::Lease>(),
    ]
}

#[rustfmt::skip] // a row is read as a whole
fn ops_routes() -> Vec<Route<OpsApi>> {
    use Method::Get;
    use Permission::Public;
    let o = Port::Ops;
    vec![
        Route::new(o, Get, "/livez", Public, ops::livez)
            .summary("The process turns.").answers_as(200, TEXT, Shape::Text),
        Route::new(o, Get, "/readyz", Public, ops::readyz)
            .summary("It should get traffic: 200 or 503. `?verbose`: a line for each check.")
            .answers_as(200, TEXT, Shape::Text),
        Route::new(o, Get, "/metrics", Public, ops::metrics)
            .summary("Metrics in Prometheus's text format.").answers_as(200, EXPOSITION, Shape::Text),
    ]
}

pub fn device_router(api: DeviceApi) -> Router {
    build(Port::Device, device_routes(), &Shared::from(&api), api)
}

pub fn admin_router(api: AdminApi) -> Router {
    build(Port::Admin, admin_routes(), &Shared::from(&api), api)
}

pub fn ops_router(api: OpsApi) -> Router {
    build(Port::Ops, ops_routes(), &Shared::from(&api), api)
}

/// All rows, without their handlers.
pub fn table() -> Vec<RouteInfo> {
    let device = device_routes().into_iter().map(|route| route.info);
    let admin = admin_routes().into_iter().map(|route| route.info);
    let ops = ops_routes().into_iter().map(|route| route.info);
    device.chain(admin).chain(ops).collect()
}
