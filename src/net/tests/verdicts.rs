//! What the listeners make of client certificates.

use std::sync::Arc;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose::{ClientAuth as ForClients, ServerAuth as ForServers};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SignatureScheme};
use uuid::Uuid;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pki::{Ca, Issued, Leaf, NOW};
use super::rig::{Client, PATIENCE, Rig, read_to_end, settings, tls_settings, write};
use crate::domain::time::{Clock, unix_us};
use crate::net::{ClientAuth, ClientCas, Listener, PeerCert, Reloaded, TlsError, TlsHandle};

const ID: Uuid = Uuid::from_u128(0x0192_f6d0_7b7a_7c3e_9d5e_0123_4567_89ab);

fn device() -> Leaf {
    Leaf::device(ID)
}

#[tokio::test]
async fn every_kind_of_certificate_gets_its_verdict_and_an_answer() {
    let rig = Rig::device(settings()).await;
    let (stranger, sub) = (Ca::new("devices, issuing"), rig.issuing.sub("not in the bundle"));
    let cases: Vec<(Option<Issued>, String)> = vec![
        (None, "none".to_owned()),
        (Some(rig.issuing.issue(&device())), format!("verified {ID}")),
        (Some(rig.root.issue(&device())), format!("verified {ID}")),
        (Some(sub.issue(&device()).with(&sub)), format!("verified {ID}")),
        (Some(rig.issuing.issue(&device()).with(&rig.issuing)), format!("verified {ID}")),
        (Some(sub.issue(&device())), format!("untrusted_issuer {ID}")),
        (Some(stranger.issue(&device())), format!("untrusted_issuer {ID}")),
        (Some(rig.issuing.issue(&device().valid(-9, -2))), format!("expired {ID}")),
        (Some(rig.issuing.issue(&device().valid(2, 9))), format!("not_yet_valid {ID}")),
        // What a stranger signs is a stranger's, whatever else is wrong with it.
        (Some(stranger.issue(&device().valid(-9, -2))), format!("untrusted_issuer {ID}")),
        (Some(stranger.issue(&device().valid(2, 9))), format!("untrusted_issuer {ID}")),
        (Some(rig.issuing.issue(&device().usage(vec![ForServers]))), format!("wrong_use {ID}")),
        (Some(rig.issuing.issue(&device().usage(vec![]))), format!("wrong_use {ID}")),
        (Some(rig.issuing.issue(&device().ca())), format!("wrong_use {ID}")),
        (Some(rig.issuing.issue(&device().valid(-9, -2).usage(vec![]))), format!("wrong_use {ID}")),
        (Some(rig.issuing.issue(&device().nameless())), "malformed ?".to_owned()),
        (Some(rig.issuing.issue(&device().nameless().named("urn:everbeat:device:7"))), "malformed ?".to_owned()),
        (
            Some(rig.issuing.issue(&device().named(&format!("urn:everbeat:device:{}", Uuid::nil())))),
            "malformed ?".to_owned(),
        ),
        (
            Some(rig.issuing.issue(&device()).with(&rig.root).with(&rig.root).with(&rig.root).with(&rig.root)),
            "malformed ?".to_owned(),
        ),
    ];
    for (number, (identity, expected)) in cases.into_iter().enumerate() {
        for version in [&TLS13, &TLS12] {
            let config = rig.config_for(identity.as_ref(), &["http/1.1"], &[version]);
            let answer = Client::http1(rig.connect(config).await.unwrap()).await.get("/").await;
            assert_eq!(answer, Ok(format!("HTTP/1.1 device 127.0.0.1 {expected}")), "case {number}, {version:?}");
        }
    }
}

#[tokio::test]
async fn the_certificate_is_read_as_it_is() {
    let ca = Ca::new("devices");
    let issued = ca.issue(&device());
    let read = PeerCert::from_der(&issued.chain[0]).unwrap();
    assert_eq!(read.device.0, ID);
    assert_eq!((read.not_before, read.not_after), (NOW - time::Duration::days(1), NOW + time::Duration::days(1)));
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &issued.chain[0]);
    assert_eq!(read.fingerprint.0, sum.as_ref());
    let same_key = PeerCert::from_der(&ca.issue(&device()).chain[0]).unwrap();
    assert_ne!(read.spki_sha256, same_key.spki_sha256, "another key");
    let trailing = [issued.chain[0].as_ref(), &[0]].concat();
    assert_eq!(PeerCert::from_der(&trailing), None);
}

/// Shows a certificate without having its key.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_ends_the_handshake() {
    let rig = Rig::device(settings()).await;
    let (good, other) = (rig.issuing.issue(&device()), rig.issuing.issue(&device()));
    for version in [&TLS13, &TLS12] {
        let mut config = rig.config_for(None, &["http/1.1"], &[version]);
        let stolen = CertifiedKey::new(good.chain.clone(), any_supported_type(&other.key()).unwrap());
        config.client_auth_cert_resolver = Arc::new(Thief(Arc::new(stolen)));
        let answer = match rig.connect(config).await {
            Ok(stream) => Client::http1(stream).await.get("/").await,
            Err(error) => Err(error.to_string()),
        };
        assert!(answer.is_err(), "{version:?}: {answer:?}");
    }
}

#[tokio::test]
async fn sessions_are_not_resumed() {
    let rig = Rig::device(settings()).await;
    let identity = rig.issuing.issue(&device());
    for version in [&TLS13, &TLS12] {
        let config = rig.config_for(Some(&identity), &["http/1.1"], &[version]);
        for _ in 0..3 {
            let mut stream = rig.connect(config.clone()).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind();
            assert!(!matches!(kind, Some(rustls::HandshakeKind::Resumed)), "{version:?}");
            // Tickets of TLS 1.3 come after the handshake: read until the answer has come.
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            assert!(read_to_end(&mut stream).await.starts_with(b"HTTP/1.1 200"));
            assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
        }
    }
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum_where_the_client_can() {
    let rig = Rig::device(settings()).await;
    let stream = rig.connect(rig.config(None, &[])).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn an_admin_listener_can_require_certificates_or_not_ask() {
    let rig = Rig::start(Listener::Admin, ClientAuth::Required, settings()).await;
    let operator = rig.issuing.issue(&device().nameless());
    assert_eq!(rig.get(Some(&operator), "/").await, Ok("HTTP/1.1 admin 127.0.0.1 none".to_owned()));
    assert!(rig.get(None, "/").await.is_err());
    for bad in [rig.issuing.issue(&device().valid(-9, -2)), rig.issuing.issue(&device().usage(vec![ForServers]))] {
        assert!(rig.get(Some(&bad), "/").await.is_err());
    }
    assert!(rig.get(Some(&Ca::new("x").issue(&device().usage(vec![ForClients]))), "/").await.is_err());

    let rig = Rig::start(Listener::Admin, ClientAuth::Optional, settings()).await;
    let expired = rig.issuing.issue(&device().valid(-9, -2));
    assert_eq!(rig.get(Some(&expired), "/").await, Ok(format!("HTTP/1.1 admin 127.0.0.1 expired {ID}")));
    assert_eq!(rig.get(None, "/").await, Ok("HTTP/1.1 admin 127.0.0.1 none".to_owned()));

    let rig = Rig::start(Listener::Admin, ClientAuth::None, settings()).await;
    let identity = rig.issuing.issue(&device());
    assert_eq!(rig.get(Some(&identity), "/").await, Ok("HTTP/1.1 admin 127.0.0.1 none".to_owned()));
}

#[tokio::test]
async fn a_reload_swaps_a_whole_configuration_or_nothing() {
    let mut rig = Rig::device(settings()).await;
    let device_of = |rig: &Rig| rig.issuing.issue(&device());
    assert_eq!(rig.tls.reload().await, Ok(Reloaded::Unchanged));

    // Only the certificate is new: it does not go with the key, and the old one stays.
    let next = Ca::new("servers, next");
    let server = next.server(None);
    write(rig.files.path(), "server.pem", &server.pem);
    assert!(matches!(rig.tls.reload().await, Err(TlsError::Mismatch { .. })));
    assert!(rig.get(Some(&device_of(&rig)), "/").await.is_ok());

    // Both are new, and the CA bundle too; a connection from before goes on.
    let mut before = Client::http1(rig.connect(rig.config(Some(&device_of(&rig)), &[])).await.unwrap()).await;
    let old_device = device_of(&rig);
    rig.issuing = Ca::new("devices, next");
    write(rig.files.path(), "server.key", &server.key_pem);
    write(rig.files.path(), "ca.pem", &rig.issuing.pem());
    assert_eq!(rig.tls.reload().await, Ok(Reloaded::Swapped));
    assert!(rig.get(None, "/").await.is_err(), "the client trusts only the old server CA");
    rig.server_ca = next;
    assert!(rig.get(Some(&device_of(&rig)), "/").await.unwrap().contains("verified"));
    assert!(rig.get(Some(&old_device), "/").await.unwrap().contains("untrusted_issuer"));
    assert!(before.get("/").await.unwrap().contains("verified"));

    // A server certificate that has expired does not replace one that has not.
    let expired = rig.server_ca.server(Some(NOW - time::Duration::days(1)));
    write(rig.files.path(), "server.pem", &expired.pem);
    write(rig.files.path(), "server.key", &expired.key_pem);
    assert!(matches!(rig.tls.reload().await, Err(TlsError::Expired { .. })));
    std::fs::remove_file(rig.files.path().join("ca.pem")).unwrap();
    assert!(matches!(rig.tls.reload().await, Err(TlsError::Read { .. })));
    assert!(rig.get(Some(&device_of(&rig)), "/").await.is_ok());
}

#[tokio::test]
async fn a_retired_ca_is_in_no_path_although_its_root_is_trusted() {
    let rig = Rig::device(settings()).await;
    let (retired, going_on) = (rig.root.sub("issuing, retired"), rig.root.sub("issuing, the next"));
    let get = async |ca: &Ca| rig.get(Some(&ca.issue(&device()).with(ca)), "/").await.unwrap();
    assert!(get(&retired).await.contains("verified") && get(&going_on).await.contains("verified"));
    let cas = |names: Vec<[u8; 32]>| Arc::new(ClientCas { pem: rig.root.pem().into(), retired: names });
    let der = retired.der();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let print = crate::domain::digest::sha256(parsed.public_key().raw);
    assert_eq!(rig.tls.trust(cas(vec![print])).await, Ok(Reloaded::Swapped));
    assert_eq!(rig.tls.trust(cas(vec![print])).await, Ok(Reloaded::Unchanged));
    assert!(get(&retired).await.contains("untrusted_issuer") && get(&going_on).await.contains("verified"));
    // Instead of the file: what was only there is trusted no more.
    let alone = rig.issuing.issue(&device());
    assert!(rig.get(Some(&alone), "/").await.unwrap().contains("untrusted_issuer"));
    let nothing = Arc::new(ClientCas { pem: "".into(), retired: Vec::new() });
    assert!(matches!(rig.tls.trust(nothing).await, Err(TlsError::Certificate { .. })));
    assert!(get(&going_on).await.contains("verified"), "the old ones stay");
}

#[tokio::test]
async fn cas_change_although_the_server_certificate_cannot_be_exchanged() {
    let rig = Rig::device(settings()).await;
    let get = async |ca: &Ca| rig.get(Some(&ca.issue(&device()).with(ca)), "/").await.unwrap();
    let next = Ca::new("issuing, the next");
    let cas = |ca: &Ca| Arc::new(ClientCas { pem: ca.pem().into(), retired: Vec::new() });
    let expired = rig.server_ca.server(Some(NOW - time::Duration::days(1)));
    write(rig.files.path(), "server.pem", &expired.pem);
    write(rig.files.path(), "server.key", &expired.key_pem);
    assert_eq!(rig.tls.trust(cas(&next)).await, Ok(Reloaded::Swapped));
    assert_eq!(rig.tls.trust(cas(&next)).await, Ok(Reloaded::Unchanged));
    assert!(get(&next).await.contains("verified") && get(&rig.issuing).await.contains("untrusted_issuer"));
    std::fs::remove_file(rig.files.path().join("server.key")).unwrap();
    assert_eq!(rig.tls.trust(cas(&rig.issuing)).await, Ok(Reloaded::Swapped));
    assert!(get(&rig.issuing).await.contains("verified") && get(&next).await.contains("untrusted_issuer"));
    assert!(matches!(rig.tls.reload().await, Err(TlsError::Read { .. })), "the files are still not good");
    assert!(get(&rig.issuing).await.contains("verified"));
}

#[tokio::test]
async fn a_file_of_key_and_chain_counts_before_the_chains_own() {
    let mut rig = Rig::device(settings()).await;
    let next = Ca::new("servers, next");
    let server = next.server(None);
    write(rig.files.path(), "server.key", &(server.pem.clone() + &server.key_pem));
    assert_eq!(rig.tls.reload().await, Ok(Reloaded::Swapped));
    assert!(rig.get(None, "/").await.is_err(), "the client trusts only the old server CA");
    rig.server_ca = next;
    assert!(rig.get(None, "/").await.is_ok());
}

#[tokio::test]
async fn changed_files_are_found_without_a_signal() {
    let rig = Rig::device(settings()).await;
    rig.tls.watch_every(Duration::from_millis(20), &rig.tasks);
    let next = Ca::new("devices, next");
    let identity = next.issue(&device());
    assert!(rig.get(Some(&identity), "/").await.unwrap().contains("untrusted_issuer"));
    write(rig.files.path(), "ca.pem", &next.pem());
    let seen = async {
        while !rig.get(Some(&identity), "/").await.unwrap().contains("verified") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the new bundle is used");
    rig.tasks.shutdown().drain();
    assert_eq!(rig.tasks.finish(PATIENCE).await, None);
}

#[tokio::test]
async fn files_that_cannot_be_right_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::device(settings()).await;
    let directory = rig.files.path();
    let load = |listener, settings| TlsHandle::load(listener, settings, Clock::manual(unix_us(NOW)));
    let refusal = async |listener, settings| match load(listener, settings).await {
        Ok(_) => panic!("loaded"),
        Err(error) => error,
    };
    let device_settings = || tls_settings(directory, ClientAuth::Optional);

    for auth in [ClientAuth::None, ClientAuth::Required] {
        let error = refusal(Listener::Device, tls_settings(directory, auth)).await;
        assert_eq!(error, TlsError::DeviceClientAuth);
    }
    let mut without_ca = device_settings();
    without_ca.client_ca_file = None;
    assert_eq!(refusal(Listener::Device, without_ca).await, TlsError::NoClientCa("device"));

    std::fs::set_permissions(directory.join("server.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = refusal(Listener::Device, device_settings()).await;
    assert!(error.to_string().contains("can be read by others (mode 640)"), "{error}");
    let mut dev = device_settings();
    dev.dev = true;
    assert!(load(Listener::Device, dev).await.is_ok());
    std::fs::set_permissions(directory.join("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();

    let leaf = rig.issuing.issue(&device());
    write(directory, "ca.pem", &(rig.root.pem() + &leaf.pem));
    assert!(matches!(refusal(Listener::Device, device_settings()).await, TlsError::NotACa(_)));
    write(directory, "ca.pem", "nothing\n");
    assert!(matches!(refusal(Listener::Device, device_settings()).await, TlsError::Certificate { .. }));
    write(directory, "ca.pem", &rig.root.pem());
    write(directory, "server.key", "nothing\n");
    assert!(matches!(refusal(Listener::Device, device_settings()).await, TlsError::Key(_)));
}
