//! Tickets: everything that a stranger needs to reach a node, as one line of text.

use crate::relay::RelayAddr;
use base::{Hash, NodeId, Reader, Wire, WireError};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use thiserror::Error;

/// Where a node can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its key.
    pub node: NodeId,
    /// Addresses that were true when the ticket was made.
    pub sockets: Vec<SocketAddr>,
    /// The relay at which it can be reached where these fail.
    pub relay: Option<RelayAddr>,
}

/// An invitation to a run: its name and the nodes through which to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The chain that orders it.
    pub chain: Hash,
    /// Which run.
    pub run: Hash,
    /// Height and hash of a final block: who joins believes nothing that does not follow from it.
    pub anchor: Option<(u64, Hash)>,
    /// Nodes that keep the chain, the writer of the ticket first.
    pub peers: Vec<Address>,
}

/// Why a text is no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a ticket: {0}; copy the whole line that `talkoo train create` printed, beginning with `talkoo1`")]
pub struct TicketError(&'static str);

/// How the text of a [`Ticket`] begins.
pub const TICKET_PREFIX: &str = "talkoo1";
/// Peers in a ticket, and addresses of each.
const LIST_MAX: usize = 32;

impl Wire for Address {
    fn encode(&self, out: &mut Vec<u8>) {
        self.node.encode(out);
        let sockets: Vec<String> = self.sockets.iter().map(SocketAddr::to_string).collect();
        sockets.encode(out);
        self.relay.as_ref().map(RelayAddr::to_string).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let node = NodeId::decode(input)?;
        let sockets: Vec<String> = input.list(LIST_MAX)?;
        let sockets = sockets.iter().map(|text| text.parse().map_err(|_| WireError::Invalid("socket address")));
        let sockets = sockets.collect::<Result<_, _>>()?;
        let relay: Option<String> = Wire::decode(input)?;
        let relay = relay.map(|text| text.parse().map_err(|_| WireError::Invalid("address of a relay")));
        Ok(Self { node, sockets, relay: relay.transpose()? })
    }
}

impl Wire for Ticket {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.chain, self.run).encode(out);
        self.anchor.encode(out);
        self.peers.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (chain, run) = Wire::decode(input)?;
        let anchor = Wire::decode(input)?;
        Ok(Self { chain, run, anchor, peers: input.list(LIST_MAX)? })
    }
}

/// `bytes` as one line of text that begins with `prefix`.
pub fn ticket_text(prefix: &str, bytes: &[u8]) -> String {
    // Four bytes of check sum: a ticket cut off by a copy is noticed as such.
    let check = Hash::of("talkoo 2026 ticket v1", bytes);
    format!("{prefix}{}{}", base::to_hex(bytes), base::to_hex(&check.0[..4]))
}

/// The bytes of such a line.
pub fn ticket_bytes(prefix: &str, text: &str) -> Result<Vec<u8>, TicketError> {
    let hex = text.trim().strip_prefix(prefix).ok_or(TicketError("wrong beginning"))?;
    if hex.len() > 1 << 16 {
        return Err(TicketError("too long"));
    }
    let mut bytes = base::from_hex(hex).map_err(|_| TicketError("cut off, or a foreign character in it"))?;
    let body = bytes.len().checked_sub(4).ok_or(TicketError("cut off"))?;
    if Hash::of("talkoo 2026 ticket v1", &bytes[..body]).0[..4] != bytes[body..] {
        return Err(TicketError("cut off or mistyped"));
    }
    bytes.truncate(body);
    Ok(bytes)
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ticket_text(TICKET_PREFIX, &self.to_bytes()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;
    fn from_str(text: &str) -> Result<Self, TicketError> {
        Self::from_bytes(&ticket_bytes(TICKET_PREFIX, text)?).map_err(|_| TicketError("unknown content"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        let sockets = vec!["127.0.0.1:4000".parse().expect("v4"), "[::1]:4000".parse().expect("v6")];
        Ticket {
            chain: Hash::default(),
            run: Hash::of("test", b""),
            anchor: Some((7, Hash::default())),
            peers: vec![Address { node: NodeId([7; 32]), sockets, relay: "https://relay.example.org".parse().ok() }],
        }
    }

    #[test]
    fn it_is_read_back_and_a_damaged_one_is_refused() {
        let text = ticket().to_string();
        assert_eq!(text.parse(), Ok(ticket()));
        for cut in 0..text.len() {
            assert!(text[..cut].parse::<Ticket>().is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = text.parse::<Ticket>();
            let _ = format!("talkoo1{text}").parse::<Ticket>();
        }
    }
}
