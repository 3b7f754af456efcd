//! What can be set about listeners. Header limits, windows and TCP keep-alive are constants beside their use: no
//! deployment has a reason to change them.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Bounds of the connections of one listener.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// Open connections, those in the handshake included. Of more, the one that has been longest without a handshake is
    /// closed, or the new one if all others are past theirs. Too low: devices are turned away
    /// while the machine has room. Too high: file descriptors run out (accept(2) pauses) or memory does (a TLS
    /// connection costs about 30 KiB).
    pub connections_max: usize,
    /// From the end of the handshake to the whole header section of the first request (10 s). Too low: slow links
    /// never get through. Too high: silent callers hold permits.
    pub first_request_deadline: Duration,
    /// Between two requests. For HTTP/1 it also bounds the reading of a header section. Keep it above 1.5 × the
    /// heartbeat interval (75 s for 30 s), or every heartbeat pays for a new handshake.
    pub idle_max: Duration,
    /// After this the connection is asked to end once its requests are done (1 h), spread by ±20 % so that a fleet
    /// that connected together does not come back together. Too low: handshakes cost more than requests. Too high:
    /// the load stays uneven long after a replica has joined.
    pub age_max: Duration,
    /// What a connection that was asked to end may take for what it has begun, streams included (60 s); then it is
    /// cut. During a drain the limit of the drain counts instead.
    pub linger: Duration,
}

/// Bounds of connections without a good client certificate, on the device listener: callers that enroll, renew too
/// late, or have no business here.
#[derive(Clone, Debug)]
pub struct UnverifiedSettings {
    /// A pool of their own (64), so that strangers cannot take the place of devices. Too low: a fleet enrolls slowly.
    pub connections_max: usize,
    /// Counted from the end of the handshake (30 s).
    pub age_max: Duration,
    /// Requests before the connection is asked to end (8). What the caller has already sent by then is served, so
    /// this bounds habits and not a burst.
    pub requests_max: u64,
}

/// One TLS listener.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    pub connections: ConnectionSettings,
    /// Handshakes that compute at the same time (64): from the ClientHello to the server's flight, so that a caller who
    /// falls silent before or after it holds none. One computes on one core: only less than the machine has cores is a
    /// limit, and leaves the rest free for requests. Too low: after a failover a fleet reconnects slowly.
    pub handshakes_max: usize,
    /// PROXY header, wait for a handshake permit, and TLS handshake together (10 s).
    pub handshake_deadline: Duration,
    /// Ignored on the admin listener.
    pub unverified: UnverifiedSettings,
    /// Load balancers. They must send a PROXY v2 header, and their word on the caller's address is taken: name
    /// addresses that nobody else can use. From all others the header is an error of TLS.
    pub proxy_peers: Vec<Network>,
}

/// What a listener asks of client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAuth {
    /// No certificate is asked for. Not possible on the device listener.
    None,
    /// Asked for, judged after the handshake; nobody is turned away by TLS.
    Optional,
    /// The handshake fails without a certificate whose path and use are good. Admin listener only.
    Required,
}

/// The files of one listener, PEM.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The server's certificate, then its intermediates.
    pub certificate_file: PathBuf,
    /// Its key. Refused when the group or others can read it, unless `dev` is set.
    pub key_file: PathBuf,
    /// CA certificates that client certificates are checked against: issuing CAs and root, each trusted by itself.
    pub client_ca_file: Option<PathBuf>,
    pub client_auth: ClientAuth,
    /// Accepts a key file that others can read.
    pub dev: bool,
}

/// Addresses with a common prefix: `10.1.0.0/16`, `fd00::/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

/// The text is neither an address nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address or a network such as 10.1.0.0/16")]
pub struct NotANetwork(String);

impl Network {
    /// An IPv4 address in its IPv6 form (a listener on `[::]` sees that) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, wide) = bits(self.address);
        let (other, other_wide) = bits(address.to_canonical());
        let shift = wide - self.prefix;
        wide == other_wide && own.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
    }
}

/// The address as a number, and how many bits it has.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (_, wide) = bits(address);
        let prefix = prefix.unwrap_or(wide);
        if prefix > wide { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let cases = [
            ("10.1.0.0/16", "10.1.255.3", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("10.1.0.0/16", "::ffff:10.1.2.3", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("2001:db8::1", "2001:db8::1", true),
        ];
        for (network, address, inside) in cases {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network} {address}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "lb.example"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
