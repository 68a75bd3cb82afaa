//! The protocols, each with its version: one handler each.

/// Content by hash.
pub(crate) const BULK: &[u8] = b"talkoo/bulk/1";
/// Where members are, and what they offer.
pub(crate) const GOSSIP: &[u8] = b"talkoo/gossip/3";
/// Packets of validators.
pub(crate) const LINKS: &[u8] = b"talkoo/chain/1";
/// Following a chain.
pub(crate) const LOG: &[u8] = b"talkoo/log/3";
/// Questions and answers.
pub(crate) const TALK: &[u8] = b"talkoo/ask/3";
