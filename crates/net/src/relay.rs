//! Relays: machines with an open port. A relay passes sealed packets between nodes that cannot reach each other,
//! and tells each what its address looks like from outside, so that they can try to. It learns who talks to whom
//! and how much, never what.

use base::Hash;
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
use std::collections::BTreeSet;
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
/// Foreign relays whose keys are remembered.
const PINS_MAX: usize = 1024;

impl RelayAddr {
    /// The port of both its services: TCP for packets, UDP for the question "what is my address?".
    pub(crate) fn port(&self) -> u16 {
        self.0.port().unwrap_or(PORT)
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

/// The keys of the relays that were named to this node.
#[derive(Debug)]
pub(crate) struct Pins {
    /// Hosts of the relays that this node's owner named: nobody else adds keys to them.
    own: BTreeSet<String>,
    keys: RwLock<BTreeSet<(String, Hash)>>,
}

impl Pins {
    /// Those of the node's own relays.
    pub(crate) fn new(own: &[RelayAddr]) -> Self {
        let keys = own.iter().filter_map(|relay| Some((relay.0.host_str()?.to_owned(), pin(&relay.0)?)));
        let hosts = own.iter().filter_map(|relay| relay.0.host_str().map(str::to_owned)).collect();
        Self { keys: RwLock::new(keys.collect()), own: hosts }
    }

    /// One at which another node says that it is reached.
    pub(crate) fn learn(&self, relay: &RelayAddr) {
        let (Some(host), Some(key)) = (relay.0.host_str(), pin(&relay.0)) else { return };
        let mut pins = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if !self.own.contains(host) && pins.len() < PINS_MAX {
            pins.insert((host.to_owned(), key));
        }
    }

    fn hold(&self, host: &str, key: Hash) -> bool {
        // The verifier sees IPv6 addresses without their brackets.
        let pins = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        pins.contains(&(host.to_owned(), key)) || pins.contains(&(format!("[{host}]"), key))
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
}

impl Relay {
    /// Serves at `bind`, TCP and UDP; each node may send `bytes_per_second` through it.
    pub async fn open(bind: SocketAddr, key: &RelayKey, bytes_per_second: NonZeroU32) -> Result<Self, RelayError> {
        let provider = iroh_relay::tls::default_provider();
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![CertificateDer::from(key.certificate.clone())];
        let secret = PrivatePkcs8KeyDer::from(key.secret.clone());
        let tls = builder.map_err(RelayError::of)?.with_no_client_auth().with_single_cert(chain, secret.into());
        let cert = CertConfig::Manual { server_config: tls.map_err(RelayError::of)? };
        let clients = Clients::default();
        // The plain service only serves to find captive portals; nobody asks it here.
        let mut relay = RelayConfig::new((Ipv4Addr::LOCALHOST, 0));
        relay.tls = Some(TlsConfig::new(bind, cert));
        relay.access = Arc::new(clients.clone());
        let mut limits = Limits::default();
        limits.client_rx = Some(ClientRateLimit::new(bytes_per_second));
        relay.limits = limits;
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        let server = Server::spawn(with_quic(config, bind)).await;
        Ok(Self { server: server.map_err(|error| RelayError(format!("at {bind}: {error:#}")))?, clients })
    }

    /// Its address for others, who reach this machine as `host` (a name or an IP address).
    pub fn address(&self, host: &str, key: &RelayKey) -> Result<RelayAddr, RelayAddrError> {
        let port = self.server.https_addr().map_or(PORT, |address| address.port());
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("https://{}@{host}:{port}", Hash::of(CERTIFICATE, &key.certificate)).parse()
    }

    /// Nodes that it serves now.
    pub fn clients(&self) -> usize {
        self.clients.0.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub async fn close(self) {
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
        pins.learn(&named.parse().expect("an address"));
        pins.learn(&named.replace("100.1", "100.9").parse().expect("an address"));
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
}
