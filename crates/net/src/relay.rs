//! Relays: machines with an open port. A relay passes sealed packets between nodes that cannot reach each other,
//! and tells each what its address looks like from outside, so that they can try to. It learns who talks to whom,
//! when and how much. What they say is encrypted between them; lengths and times tell something of it all the same.

mod door;

use base::{Hash, NodeId};
use door::Door;
use iroh::RelayUrl;
use iroh_relay::server::{
    Access, AccessControl, CertConfig, ClientRateLimit, ClientRequest, ConnectionId, Limits, QuicConfig, RelayConfig,
    Server, ServerConfig, TlsConfig,
};
use iroh_relay::tls::CaTlsConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;

/// Where a relay is: `https://KEY@HOST:PORT`. With a key, the hash of its certificate, nobody vouches for it but
/// who wrote the address; without one its certificate has to be a public authority's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayAddr(RelayUrl);

/// Why a text is no relay's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not the address of a relay: {0}; copy the one that `talkoo relay` printed, https://KEY@HOST:PORT")]
pub struct RelayAddrError(&'static str);

/// The longest address.
const TEXT_MAX: usize = 300;
/// Its own port, where the address names none.
const PORT: u16 = 443;
/// Names the hash of a certificate.
const CERTIFICATE: &str = "talkoo 2026 relay certificate v1";
/// Nodes that one relay serves at a time.
const CLIENTS_MAX: usize = 4096;
/// Domains that mean another machine in another network.
const PRIVATE_DOMAINS: [&str; 4] = [".local", ".lan", ".internal", ".home.arpa"];

impl RelayAddr {
    /// The port of both its services: TCP for packets, UDP for the question "what is my address?".
    pub(crate) fn port(&self) -> u16 {
        self.0.port().unwrap_or(PORT)
    }

    /// Its address, where it is written as one.
    pub(crate) fn ip(&self) -> Option<std::net::IpAddr> {
        let host = self.0.host_str()?.trim_matches(['[', ']']);
        if host == "localhost" || host.ends_with(".localhost") {
            Some(Ipv4Addr::LOCALHOST.into())
        } else {
            host.parse().ok()
        }
    }

    /// Whether its host is a name that only somebody's own network knows: one of a single word, or of a domain that is
    /// for such networks (RFC 6762, RFC 8375, and what routers and clouds call theirs).
    pub(crate) fn is_private_name(&self) -> bool {
        let Some(host) = self.0.host_str().filter(|_| self.ip().is_none()) else { return false };
        let host = host.trim_end_matches('.');
        !host.contains('.') || PRIVATE_DOMAINS.iter().any(|domain| host.ends_with(*domain))
    }

    pub(crate) fn url(&self) -> &RelayUrl {
        &self.0
    }

    pub(crate) fn of(url: &RelayUrl) -> Option<Self> {
        url.to_string().parse().ok()
    }
}

impl FromStr for RelayAddr {
    type Err = RelayAddrError;
    fn from_str(text: &str) -> Result<Self, RelayAddrError> {
        if text.len() > TEXT_MAX {
            return Err(RelayAddrError("too long"));
        }
        let url: RelayUrl = text.trim().parse().map_err(|_| RelayAddrError("not a URL"))?;
        if url.scheme() != "https" || url.host_str().is_none_or(str::is_empty) {
            return Err(RelayAddrError("not https:// and a host"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || url.password().is_some() {
            return Err(RelayAddrError("something after the host"));
        }
        if !url.username().is_empty() && pin(&url).is_none() {
            return Err(RelayAddrError("its key is not 64 hexadecimal digits"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for RelayAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

fn pin(url: &RelayUrl) -> Option<Hash> {
    url.username().parse().ok()
}

/// What an address says of its relay's certificate, if it does.
fn named(relay: &RelayAddr) -> Option<Pin> {
    Some((relay.0.host_str()?.to_owned(), pin(&relay.0)?))
}

/// The keys of the relays that were named to this node.
#[derive(Debug)]
pub(crate) struct Pins {
    /// Hosts of the relays that this node's owner named: nobody else adds keys to them.
    hosts: BTreeSet<String>,
    /// Their keys.
    own: BTreeSet<Pin>,
    /// The relay at which each other node says that it is reached: one for each, which goes when the node is forgotten.
    others: RwLock<BTreeMap<NodeId, Pin>>,
}

/// A host and the hash of its certificate.
type Pin = (String, Hash);

impl Pins {
    /// Those of the node's own relays.
    pub(crate) fn new(own: &[RelayAddr]) -> Self {
        let hosts = own.iter().filter_map(|relay| relay.0.host_str().map(str::to_owned)).collect();
        Self { hosts, own: own.iter().filter_map(named).collect(), others: RwLock::default() }
    }

    /// Where `node` says that it is reached now: what it said before counts no more.
    pub(crate) fn learn(&self, node: NodeId, relay: Option<&RelayAddr>) {
        let pin = relay.and_then(named).filter(|(host, _)| !self.hosts.contains(host));
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        match pin {
            Some(pin) => others.insert(node, pin),
            None => others.remove(&node),
        };
    }

    /// `node` is not heard any more.
    pub(crate) fn forget(&self, node: &NodeId) {
        self.others.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn hold(&self, host: &str, key: Hash) -> bool {
        // The verifier sees IPv6 addresses without their brackets.
        let names = [host.to_owned(), format!("[{host}]")];
        let is = |pin: &Pin| pin.1 == key && names.contains(&pin.0);
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        self.own.iter().any(is) || others.values().any(is)
    }

    /// How relays are told from impostors: by the key in their address, or by a public authority.
    pub(crate) fn tls(self: &Arc<Self>) -> CaTlsConfig {
        let pins = self.clone();
        CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider: Arc<CryptoProvider>| {
            let public = CaTlsConfig::embedded().server_cert_verifier(provider)?;
            Ok(Arc::new(Verifier { pins: pins.clone(), public }) as Arc<dyn ServerCertVerifier>)
        }))
    }
}

#[derive(Debug)]
struct Verifier {
    pins: Arc<Pins>,
    public: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pins.hold(&name.to_str(), Hash::of(CERTIFICATE, certificate)) {
            return Ok(ServerCertVerified::assertion());
        }
        self.public.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.public.supported_verify_schemes()
    }
}

/// A relay's certificate and its secret key, both DER.
#[derive(Clone)]
pub struct RelayKey {
    /// The certificate, signed by itself.
    pub certificate: Vec<u8>,
    /// PKCS #8.
    pub secret: Vec<u8>,
}

/// Why there is no relay.
#[derive(Debug, Error)]
#[error("cannot relay: {0}")]
pub struct RelayError(String);

impl RelayError {
    fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl RelayKey {
    /// A new one.
    pub fn generate() -> Result<Self, RelayError> {
        let made = rcgen::generate_simple_self_signed(vec!["talkoo.relay".into()]).map_err(RelayError::of)?;
        Ok(Self { certificate: made.cert.der().to_vec(), secret: made.signing_key.serialize_der() })
    }
}

/// A running relay. Dropping it ends it.
pub struct Relay {
    server: Server,
    clients: Clients,
    door: Door,
}

impl Relay {
    /// Serves at `bind`, TCP and UDP; each node may send `bytes_per_second` through it, those of one address and all
    /// together some times that.
    pub async fn open(bind: SocketAddr, key: &RelayKey, bytes_per_second: NonZeroU32) -> Result<Self, RelayError> {
        let taken = |error: &dyn fmt::Display| RelayError(format!("at {bind}: {error:#}"));
        let mut door = Door::at(bind).await.map_err(|error| taken(&error))?;
        let provider = iroh_relay::tls::default_provider();
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![CertificateDer::from(key.certificate.clone())];
        let secret = PrivatePkcs8KeyDer::from(key.secret.clone());
        let tls = builder.map_err(RelayError::of)?.with_no_client_auth().with_single_cert(chain, secret.into());
        let cert = CertConfig::Manual { server_config: tls.map_err(RelayError::of)? };
        let clients = Clients::default();
        // The plain service only serves to find captive portals; nobody asks it here.
        let mut relay = RelayConfig::new((Ipv4Addr::LOCALHOST, 0));
        // Behind the door, for which this machine is the only guest.
        relay.tls = Some(TlsConfig::new((Ipv4Addr::LOCALHOST, 0), cert));
        relay.access = Arc::new(clients.clone());
        let mut limits = Limits::default();
        limits.client_rx = Some(ClientRateLimit::new(bytes_per_second));
        relay.limits = limits;
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        let server = Server::spawn(with_quic(config, door.address())).await.map_err(|error| taken(&error))?;
        let inside = server.https_addr().ok_or_else(|| RelayError("its service did not begin".into()))?;
        door.open(inside, u64::from(bytes_per_second.get()));
        Ok(Self { server, clients, door })
    }

    /// Its address for others, who reach this machine as `host` (a name or an IP address).
    pub fn address(&self, host: &str, key: &RelayKey) -> Result<RelayAddr, RelayAddrError> {
        let port = self.door.address().port();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("https://{}@{host}:{port}", Hash::of(CERTIFICATE, &key.certificate)).parse()
    }

    /// Nodes that it serves now.
    pub fn clients(&self) -> usize {
        self.clients.0.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub async fn close(self) {
        drop(self.door);
        let _ = self.server.shutdown().await;
    }
}

fn with_quic(mut config: ServerConfig, bind: SocketAddr) -> ServerConfig {
    config.quic = Some(QuicConfig::new(bind));
    config
}

/// Counts the nodes that are served.
#[derive(Debug, Clone, Default)]
struct Clients(Arc<AtomicUsize>);

impl AccessControl for Clients {
    async fn on_connect(&self, _request: &ClientRequest) -> Access {
        if self.0.fetch_add(1, Ordering::Relaxed) < CLIENTS_MAX {
            return Access::Allow;
        }
        self.0.fetch_sub(1, Ordering::Relaxed);
        Access::Deny { reason: Some("this relay serves as many nodes as it can".into()) }
    }

    fn on_disconnect(&self, _node: iroh::EndpointId, _connection: ConnectionId) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back_and_a_wrong_one_is_refused() {
        let key = "ab".repeat(32);
        for text in [format!("https://{key}@198.51.100.1:7843"), "https://relay.example.org".into()] {
            let relay: RelayAddr = text.parse().expect("an address");
            assert_eq!(relay.to_string(), text);
        }
        for text in ["", "talkoo1ab", "http://a", "https://", "https://x@a:1", "https://a/b", "https://a:1/?c=d"] {
            assert!(text.parse::<RelayAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_named_certificate_of_a_host_is_believed() {
        let (mine, other) = (RelayKey::generate().expect("made"), RelayKey::generate().expect("made"));
        let own = format!("https://{}@198.51.100.9:7843", Hash::of(CERTIFICATE, &other.certificate));
        let pins = Arc::new(Pins::new(&[own.parse().expect("an address")]));
        let named = format!("https://{}@198.51.100.1:7843", Hash::of(CERTIFICATE, &mine.certificate));
        pins.learn(NodeId([1; 32]), Some(&named.parse().expect("an address")));
        pins.learn(NodeId([2; 32]), Some(&named.replace("100.1", "100.9").parse().expect("an address")));
        let verifier = pins.tls().server_cert_verifier(iroh_relay::tls::default_provider()).expect("a verifier");
        let believed = |key: &RelayKey, host: &'static str| {
            let host = ServerName::try_from(host).expect("a host");
            let certificate = CertificateDer::from(key.certificate.clone());
            verifier.verify_server_cert(&certificate, &[], &host, &[], UnixTime::now()).is_ok()
        };
        assert!(believed(&mine, "198.51.100.1"));
        assert!(!believed(&mine, "198.51.100.2"));
        assert!(!believed(&other, "198.51.100.1"));
        assert!(believed(&other, "198.51.100.9"));
        assert!(!believed(&mine, "198.51.100.9"), "nobody else names a key for an own relay");
    }

    #[test]
    fn a_node_that_names_relay_after_relay_keeps_nobody_from_a_new_one() {
        let pins = Pins::new(&[]);
        let key = |i: u16| Hash::of("a key", &i.to_le_bytes());
        let relay = |i: u16| -> RelayAddr {
            format!("https://{}@198.51.100.1:{}", key(i), 1_000 + i).parse().expect("an address")
        };
        let (flooder, honest) = (NodeId([1; 32]), NodeId([2; 32]));
        (0..2_000).for_each(|i| pins.learn(flooder, Some(&relay(i))));
        pins.learn(honest, Some(&relay(3_000)));
        assert!(pins.hold("198.51.100.1", key(3_000)));
        assert!(pins.hold("198.51.100.1", key(1_999)) && !pins.hold("198.51.100.1", key(7)), "its last one counts");
        pins.forget(&flooder);
        assert!(!pins.hold("198.51.100.1", key(1_999)), "it goes with the node");
        pins.learn(honest, None);
        assert!(!pins.hold("198.51.100.1", key(3_000)));
    }
}
