//! What is told of a model: a ticket, and where those meet who have it.

use super::hub::{HubFile, HubName};
use super::valid_name;
use anyhow::{Context, Result};
use base::{Hash, Reader, Wire, WireError};
use net::Address;
use std::fmt;
use std::str::FromStr;

/// Everything that a stranger needs to fetch a model, as one line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTicket {
    /// What it is called.
    pub name: String,
    /// Its content.
    pub hash: Hash,
    /// Its length.
    pub bytes: u64,
    /// Where it is on a hub, for when no peer has it.
    pub hub: Option<HubFile>,
    /// Nodes that have it.
    pub peers: Vec<Address>,
}

/// What somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A model that a peer has.
    Ticket(ModelTicket),
    /// A model of a hub.
    Hub(HubName),
}

const PREFIX: &str = "talkoomodel1";
/// Nodes in a ticket.
pub(super) const PEERS_MAX: usize = 32;
const TEXT_MAX: usize = 512;

/// What a node says that has the model.
pub const HERE: &[u8] = b"here";

/// The topic of those who have a model or look for it.
pub fn topic(model: &Hash) -> Hash {
    Hash::of("talkoo 2026 model topic v1", &model.0)
}

impl Wire for HubFile {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.repo.clone(), self.revision.clone()).encode(out);
        self.file.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (repo, revision, file) = (short(input)?, short(input)?, short(input)?);
        // What it names has to be a name: it becomes part of an address.
        let name: Result<HubName, _> = format!("{repo}/{file}@{revision}").parse();
        name.map_err(|_| WireError::Invalid("file of a hub"))?;
        Ok(Self { repo, revision, file })
    }
}

fn short(input: &mut Reader<'_>) -> Result<String, WireError> {
    String::from_utf8(input.bytes(TEXT_MAX)?.to_vec()).map_err(|_| WireError::Invalid("text"))
}

impl Wire for ModelTicket {
    fn encode(&self, out: &mut Vec<u8>) {
        self.name.encode(out);
        (self.hash, self.bytes).encode(out);
        self.hub.encode(out);
        self.peers.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let name = valid_name(&short(input)?).map_err(|_| WireError::Invalid("name of a model"))?;
        let (hash, bytes) = Wire::decode(input)?;
        let hub = Wire::decode(input)?;
        Ok(Self { name, hash, bytes, hub, peers: input.list(PEERS_MAX)? })
    }
}

impl fmt::Display for ModelTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&net::ticket_text(PREFIX, &self.to_bytes()))
    }
}

impl FromStr for Wanted {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if !text.starts_with(PREFIX) {
            return Ok(Self::Hub(text.parse()?));
        }
        let ticket = net::ticket_bytes(PREFIX, text).ok().and_then(|bytes| ModelTicket::from_bytes(&bytes).ok());
        let ticket = ticket.context("not a model's ticket: copy the whole line that `talkoo model publish` printed")?;
        Ok(Self::Ticket(ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::NodeId;
    use proptest::prelude::*;

    fn ticket() -> ModelTicket {
        let hub = HubFile { repo: "org/repo".into(), revision: "main".into(), file: "a.gguf".into() };
        let sockets = vec!["127.0.0.1:4000".parse().expect("v4")];
        let peers = vec![Address { node: NodeId([7; 32]), sockets, relay: None }];
        ModelTicket { name: "a".into(), hash: Hash::default(), bytes: 7, hub: Some(hub), peers }
    }

    #[test]
    fn it_is_read_back_and_a_damaged_one_is_refused() {
        let text = ticket().to_string();
        assert_eq!(text.parse::<Wanted>().expect("a ticket"), Wanted::Ticket(ticket()));
        for cut in PREFIX.len()..text.len() {
            assert!(text[..cut].parse::<Wanted>().is_err(), "cut at {cut}");
        }
        let foreign = HubFile { repo: "../../x".into(), revision: "main".into(), file: "a.gguf".into() };
        let foreign = ModelTicket { hub: Some(foreign), ..ticket() };
        assert!(foreign.to_string().parse::<Wanted>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String, bytes: Vec<u8>) {
            let _ = text.parse::<Wanted>();
            let _ = net::ticket_text(PREFIX, &bytes).parse::<Wanted>();
        }
    }
}
