//! Keys as the engine has them.

use base::NodeId;
use commonware_codec::DecodeExt;
use commonware_cryptography::ed25519::PublicKey;
use commonware_utils::ordered::Set;

/// The engine's key of a node.
pub fn engine_key(node: &NodeId) -> Option<PublicKey> {
    PublicKey::decode(node.0.to_vec()).ok()
}

/// The node of an engine's key.
pub fn node_of(key: &PublicKey) -> NodeId {
    let mut id = NodeId([0; 32]);
    id.0.copy_from_slice(key.as_ref());
    id
}

/// The validators' keys as the engine sorts them; `None` when one is no key or there twice.
pub fn participants(set: &[NodeId]) -> Option<Set<PublicKey>> {
    let keys: Vec<PublicKey> = set.iter().filter_map(engine_key).collect();
    Set::try_from(keys).ok().filter(|keys: &Set<PublicKey>| keys.len() == set.len() && !set.is_empty())
}
