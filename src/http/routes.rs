//! Every route of the three listeners. The routers, the OpenAPI documents and the tests of permissions are made of
//! this table; there is no other list.

use std::sync::Arc;

use axum::Router;

use super::api::{AdminApi, DeviceApi, OpsApi, Shared};
use super::openapi::{self, Shape};
use super::page::PageQuery;
use super::route::{JSON, Method, Permission, Route, RouteInfo, build};
use super::{admin, device, ops};
use crate::admission::Class;
use crate::domain::access::Action;
use crate::observe::net::Port;
use crate::wire::admin as adm;
use crate::wire::device as dev;

const FORM: &str = "application/x-www-form-urlencoded";
const NDJSON: &str = "application/x-ndjson";
/// RFC 8428, 12.3.
const SENML_JSON: &str = "application/senml+json";
const SENML_CBOR: &str = "application/senml+cbor";
/// A chain of certificates (RFC 8555, 9.1).
pub(super) const PEM_CHAIN: &str = "application/pem-certificate-chain";
/// A request for a certificate, and certificates (RFC 7030, 4.2.1 and 4.1.3).
pub(super) const PKCS10: &str = "application/pkcs10";
pub(super) const CERTS_ONLY: &str = "application/pkcs7-mime; smime-type=certs-only";
/// A revocation list (RFC 2585, 4.2).
pub(super) const PKIX_CRL: &str = "application/pkix-crl";
/// Any PEM: what openssl and curl users know it by.
pub(super) const PEM_FILE: &str = "application/x-pem-file";
/// The Prometheus text format.
pub(super) const EXPOSITION: &str = "text/plain; version=0.0.4";
pub(super) const TEXT: &str = "text/plain";

#[rustfmt::skip] // a row is read as a whole
fn device_routes() -> Vec<Route<Arc<DeviceApi>>> {
    use Method::{Get, Post};
    use Permission::{Cert, CertAndToken, CertMaybeExpired, EnrollmentToken, Public};
    let d = Port::Device;
    let mut routes = vec![
        Route::new(d, Get, "/openapi.json", Public, openapi::device)
            .summary("This description.").answers_as(200, JSON, Shape::Any).class(Class::Health),
        Route::new(d, Get, "/v1/ca", Public, device::ca::get)
            .summary("The CA bundle to trust.").answers_as(200, PEM_CHAIN, Shape::Text).class(Class::Health),
        Route::new(d, Get, "/v1/crl", Public, device::crl::der)
            .summary("Revocation list (RFC 5280) of the CA that signs now, for others who meet devices' certificates.")
            .answers_as(200, PKIX_CRL, Shape::Bytes).class(Class::Lists),
        Route::new(d, Get, "/v1/crl.pem", Public, device::crl::pem)
            .summary("That list in PEM, and those of the other CAs that are trusted while they change.")
            .answers_as(200, PEM_FILE, Shape::Text).class(Class::Lists),
        Route::new(d, Post, "/v1/enroll", EnrollmentToken, device::enroll::enroll)
            .summary("Makes a device and its first certificate.")
            .takes::<dev::EnrollRequest>().answers::<dev::EnrollAnswer>(201).secret().also(&[409]),
        Route::new(d, Post, "/v1/renew", CertMaybeExpired, device::enroll::renew)
            .summary("Gives the device its next certificate.")
            .takes::<dev::RenewRequest>().answers::<dev::EnrollAnswer>(200).secret().also(&[409]),
        Route::new(d, Post, "/v1/token", Cert, device::token::create)
            .summary("Gives an access token bound to the certificate (RFC 6749 4.4, RFC 8705).")
            .takes_as(FORM, Shape::of::<device::token::TokenRequest>()).takes_nothing()
            .answers::<dev::TokenAnswer>(200).secret().oauth(),
        Route::new(d, Post, "/v1/heartbeat", CertAndToken, device::heartbeat::beat)
            .summary("A sign of life.")
            .takes_maybe::<dev::HeartbeatRequest>().answers::<dev::HeartbeatAnswer>(200).own_contact().may_be_blind()
            .class(Class::Heartbeats),
        Route::new(d, Post, "/v1/readings", CertAndToken, device::readings::submit)
            .summary("Stores readings; answers once they are durable. 207: some were rejected. 422: all were.")
            .takes::<device::readings::Readings>().takes_as(NDJSON, Shape::Text)
            .takes_as(SENML_JSON, Shape::Own(device::senml::json)).takes_as(SENML_CBOR, Shape::Own(device::senml::cbor))
            .readings()
            .answers::<dev::ReadingsAnswer>(200).answers::<dev::ReadingsAnswer>(207).answers::<dev::ReadingsAnswer>(422),
        Route::new(d, Post, "/v1/goodbye", CertAndToken, device::heartbeat::goodbye)
            .summary("The device leaves on purpose.")
            .takes_maybe::<dev::GoodbyeRequest>().answers_nothing().own_contact().class(Class::Heartbeats),
        Route::new(d, Get, "/v1/me", CertAndToken, device::me::get)
            .summary("What is known of the calling device.").answers::<dev::Me>(200),
    ];
    routes.extend(est_routes());
    routes
}

/// RFC 7030, 3.2.2.
#[rustfmt::skip]
fn est_routes() -> Vec<Route<Arc<DeviceApi>>> {
    use Method::{Get, Post};
    use Permission::{CertMaybeExpired, EnrollmentToken, Public};
    use device::est;
    let d = Port::Device;
    vec![
        Route::new(d, Get, "/.well-known/est/cacerts", Public, est::cacerts)
            .summary("EST: the CA certificates to trust, PKCS#7.")
            .answers_as(200, CERTS_ONLY, Shape::Base64).est().class(Class::Health),
        Route::new(d, Get, "/.well-known/est/csrattrs", Public, est::csrattrs)
            .summary("EST: what a request for a certificate must have, which is nothing.")
            .answers_nothing().est().class(Class::Health),
        Route::new(d, Post, "/.well-known/est/simpleenroll", EnrollmentToken, est::simpleenroll)
            .summary("EST: makes a device and its first certificate.")
            .takes_as(PKCS10, Shape::Base64).answers_as(200, CERTS_ONLY, Shape::Base64).est().secret()
            .also(&[409]),
        Route::new(d, Post, "/.well-known/est/simplereenroll", CertMaybeExpired, est::simplereenroll)
            .summary("EST: gives the device its next certificate.")
            .takes_as(PKCS10, Shape::Base64).answers_as(200, CERTS_ONLY, Shape::Base64).est().secret()
            .also(&[409]),
    ]
}

#[rustfmt::skip] // a row is read as a whole
fn admin_routes() -> Vec<Route<Arc<AdminApi>>> {
    use Action::{FleetRead, SelfRead};
    use Method::Get;
    use Permission::{Operator, Public};
    let a = Port::Admin;
    let mut routes = vec![
        Route::new(a, Get, "/openapi.json", Public, openapi::admin)
            .summary("This description.").answers_as(200, JSON, Shape::Any).class(Class::Health),
        Route::new(a, Get, "/v1/whoami", Operator(SelfRead), admin::whoami::get)
            .summary("The calling operator and their roles.").answers::<adm::WhoAmI>(200),
        Route::new(a, Get, "/v1/events", Operator(FleetRead), admin::events::list)
            .summary("What happened, in the order to follow: each event once, none skipped.")
            .query::<admin::events::EventsQuery>().answers::<adm::EventPage>(200).class(Class::Lists),
    ];
    routes.extend(fleet_routes());
    routes.extend(device_view_routes());
    routes.extend(credential_routes());
    routes.extend(service_routes());
    routes
}

#[rustfmt::skip]
fn fleet_routes() -> Vec<Route<Arc<AdminApi>>> {
    use Action::{FleetAdmin, FleetRead};
    use Method::{Get, Post};
    use Permission::Operator;
    use admin::fleets;
    let a = Port::Admin;
    vec![
        Route::new(a, Get, "/v1/fleets", Operator(FleetRead), fleets::list)
            .summary("The fleets that the operator sees, by name.")
            .query::<PageQuery>().lists::<adm::Fleet>(),
        Route::new(a, Post, "/v1/fleets", Operator(FleetAdmin), fleets::create)
            .summary("Makes a fleet. Takes an admin of every fleet.")
            .takes::<adm::NewFleet>().answers::<adm::Fleet>(201).idempotent_by_key().also(&[409]),
        Route::new(a, Get, "/v1/fleets/{fleet}", Operator(FleetRead), fleets::get)
            .summary("One fleet.").answers::<adm::Fleet>(200).versioned(),
    ]
}

#[rustfmt::skip]
fn device_view_routes() -> Vec<Route<Arc<AdminApi>>> {
    use Action::{FleetRead, FleetSteer};
    use Method::{Get, Post};
    use Permission::Operator;
    use admin::{devices, presence, readings};
    let a = Port::Admin;
    vec![
        Route::new(a, Get, "/v1/devices", Operator(FleetRead), devices::list)
            .summary("Devices with their presence and their newest reading, in the order of their enrollment.")
            .query::<devices::DevicesQuery>().lists::<adm::Device>(),
        Route::new(a, Get, "/v1/devices/{device}", Operator(FleetRead), devices::get)
            .summary("One device.").answers::<adm::Device>(200).versioned(),
        Route::new(a, Post, "/v1/devices/{device}/suspend", Operator(FleetSteer), devices::suspend)
            .summary("The device may not call until it is resumed. A repetition succeeds.")
            .takes_maybe::<adm::Reason>().answers::<adm::Device>(200).versioned().also(&[409]),
        Route::new(a, Post, "/v1/devices/{device}/resume", Operator(FleetSteer), devices::resume)
            .summary("The device may call again. A repetition succeeds.")
            .takes_maybe::<adm::Reason>().answers::<adm::Device>(200).versioned().also(&[409]),
        Route::new(a, Get, "/v1/devices/{device}/presence", Operator(FleetRead), presence::get)
            .summary("What is believed of the device, and why.").answers::<adm::Presence>(200),
        Route::new(a, Get, "/v1/devices/{device}/readings", Operator(FleetRead), readings::list)
            .summary("The device's readings, by time.")
            .query::<readings::ReadingsQuery>().lists::<adm::Reading>(),
        Route::new(a, Get, "/v1/devices/{device}/readings/latest", Operator(FleetRead), readings::latest)
            .summary("The device's newest reading; 404 if it has none.").answers::<adm::Reading>(200),
    ]
}

#[rustfmt::skip]
fn credential_routes() -> Vec<Route<Arc<AdminApi>>> {
    use Action::{FleetRead, FleetSteer};
    use Method::{Get, Post};
    use Permission::Operator;
    use admin::{certificates, enrollment_tokens};
    let a = Port::Admin;
    vec![
        Route::new(a, Get, "/v1/devices/{device}/certificates", Operator(FleetRead), certificates::list)
            .summary("The device's certificates, the newest first.")
            .query::<PageQuery>().lists::<adm::Certificate>(),
        Route::new(a, Get, "/v1/certificates", Operator(FleetRead), certificates::ending)
            .summary("Each active device's newest live certificate, the first to end first.")
            .query::<certificates::EndingQuery>().lists::<adm::EndingCertificate>(),
        Route::new(a, Get, "/v1/certificates/{fingerprint}", Operator(FleetRead), certificates::get)
            .summary("One certificate.").answers::<adm::Certificate>(200),
        Route::new(a, Post, "/v1/certificates/{fingerprint}/revoke", Operator(FleetSteer), certificates::revoke)
            .summary("Revokes a certificate, its descendants, and those of the same keys. A repetition succeeds.")
            .takes_maybe::<adm::Reason>().answers::<adm::Revocation>(200),
        Route::new(a, Get, "/v1/enrollment-tokens", Operator(FleetRead), enrollment_tokens::list)
            .summary("Enrollment tokens, without their secrets.")
            .query::<enrollment_tokens::TokensQuery>().lists::<adm::EnrollmentToken>(),
        Route::new(a, Post, "/v1/enrollment-tokens", Operator(FleetSteer), enrollment_tokens::create)
            .summary("Makes an enrollment token, and shows it once.")
            .takes::<adm::NewEnrollmentToken>().answers::<adm::EnrollmentToken>(201).idempotent_by_key().secret()
            .also(&[404, 409]),
        Route::new(a, Post, "/v1/enrollment-tokens/{token_id}/revoke", Operator(FleetSteer), enrollment_tokens::revoke)
            .summary("Revokes an enrollment token; the devices it enrolled stay. A repetition succeeds.")
            .answers::<adm::EnrollmentToken>(200),
    ]
}

#[rustfmt::skip]
fn service_routes() -> Vec<Route<Arc<AdminApi>>> {
    use Action::ServiceRead;
    use Method::Get;
    use Permission::Operator;
    use admin::{leases, outages, replicas};
    let a = Port::Admin;
    vec![
        Route::new(a, Get, "/v1/leases", Operator(ServiceRead), leases::list)
            .summary("The leases of all duties.").query::<PageQuery>().lists::<adm::Lease>(),
        Route::new(a, Get, "/v1/replicas", Operator(ServiceRead), replicas::list)
            .summary("The replicas, in the order of their starts.")
            .query::<PageQuery>().lists::<adm::Replica>(),
        Route::new(a, Get, "/v1/outages", Operator(ServiceRead), outages::list)
            .summary("The intervals in which silence proves nothing, the newest first.")
            .query::<PageQuery>().lists::<adm::Outage>(),
    ]
}

#[rustfmt::skip] // a row is read as a whole
fn ops_routes() -> Vec<Route<Arc<OpsApi>>> {
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
    build(Port::Device, device_routes(), &Shared::from(&api), Arc::new(api))
}

pub fn admin_router(api: AdminApi) -> Router {
    build(Port::Admin, admin_routes(), &Shared::from(&api), Arc::new(api))
}

pub fn ops_router(api: OpsApi) -> Router {
    build(Port::Ops, ops_routes(), &Shared::from(&api), Arc::new(api))
}

/// All rows, without their handlers.
pub fn table() -> Vec<RouteInfo> {
    let device = device_routes().into_iter().map(|route| route.info);
    let admin = admin_routes().into_iter().map(|route| route.info);
    let ops = ops_routes().into_iter().map(|route| route.info);
    device.chain(admin).chain(ops).collect()
}
