//! Ed25519 identities. One key is one identity and, in `net`, one address.

use crate::{Hash, Reader, Wire, WireError};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use std::fmt;
use std::str::FromStr;

/// The public key of a machine, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        Hash(self.0).short()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hash(self.0).fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for NodeId {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, WireError> {
        text.parse().map(|Hash(bytes)| Self(bytes))
    }
}

impl serde::Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Wire for NodeId {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.array().map(Self)
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature")
    }
}

impl Wire for Signature {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.array().map(Self)
    }
}

/// A secret key. It has no `Debug` and no encoding: only [`secret`](Self::secret) shows it.
pub struct Keypair(SigningKey);

impl Keypair {
    /// The key of 32 secret bytes, which the caller took from the system's entropy.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&secret))
    }

    /// The secret bytes, to be stored.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, hash: &Hash) -> Signature {
        Signature(self.0.sign(&hash.0).to_bytes())
    }
}

/// A value with the key that signed it. The signature covers the domain and the canonical encoding,
/// so a signature for one kind of message is none for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    /// Who signed.
    pub by: NodeId,
    /// What was signed.
    pub value: T,
    /// Over `H(domain, by ‖ value)`.
    pub signature: Signature,
}

impl<T: Wire> Signed<T> {
    /// Signs `value`.
    pub fn new(domain: &str, key: &Keypair, value: T) -> Self {
        let by = key.id();
        let signature = key.sign(&digest(domain, &by, &value));
        Self { by, value, signature }
    }

    /// Whether the signature is the signer's.
    pub fn verify(&self, domain: &str) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.by.0) else { return false };
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature.0);
        key.verify_strict(&digest(domain, &self.by, &self.value).0, &signature).is_ok()
    }
}

fn digest<T: Wire>(domain: &str, by: &NodeId, value: &T) -> Hash {
    let mut bytes = by.to_bytes();
    value.encode(&mut bytes);
    Hash::of(domain, &bytes)
}

impl<T: Wire> Wire for Signed<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.by.encode(out);
        self.value.encode(out);
        self.signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { by: Wire::decode(input)?, value: Wire::decode(input)?, signature: Wire::decode(input)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_domain_signer_and_value_only() {
        let key = Keypair::from_secret([1; 32]);
        let signed = Signed::new("a", &key, 5u64);
        assert!(signed.verify("a"));
        assert!(!signed.verify("b"));
        assert!(!Signed { value: 6, ..signed.clone() }.verify("a"));
        assert!(!Signed { by: Keypair::from_secret([2; 32]).id(), ..signed.clone() }.verify("a"));
        assert_eq!(Signed::from_bytes(&signed.to_bytes()), Ok(signed));
    }
}
