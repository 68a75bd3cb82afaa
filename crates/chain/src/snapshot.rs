//! A state as it travels: who begins late takes it whole instead of every block, and believes it only
//! under a certificate.

use crate::block::{Genesis, Header};
use crate::light::{Anchor, Light, RootProof};
use crate::state::State;
use base::{Hash, Millis, NodeId, Reject, wire_struct};

/// A state and what makes it believable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Of the network; its hash is the chain.
    pub genesis: Genesis,
    /// The block that was asked for to begin with, and the validators after it.
    pub anchor: Option<(Header, Vec<NodeId>)>,
    /// The state, encoded.
    pub state: Vec<u8>,
    /// That it is the chain's.
    pub proof: RootProof,
}

wire_struct!(Snapshot { genesis, anchor, state, proof });

impl Snapshot {
    /// The state, if it is that of `chain` and of nobody else: from `anchor` on where there is one, from the
    /// genesis otherwise. A certified block that is older than `oldest` is refused as stale.
    pub fn check(&self, chain: &Hash, anchor: Option<&Anchor>, oldest: Millis) -> Result<State, Reject> {
        if self.genesis.chain() != *chain {
            return Err(Reject::WrongChain);
        }
        self.genesis.check()?;
        let light = match (anchor, &self.anchor) {
            (None, _) => Light::of(&self.genesis),
            (Some(_), None) => return Err(Reject::NotHeld),
            (Some(anchor), Some((header, set))) => Light::anchored(*chain, anchor, header.clone(), set.clone())?,
        };
        let mut state = State::from_snapshot(&self.genesis, &self.state)?;
        let root = state.root();
        let light = self.proof.check(light, state.height(), &root)?;
        if light.time() < oldest {
            return Err(Reject::Stale);
        }
        // The root says what is in the state, its child what block it is behind.
        let first = self.proof.between.first().unwrap_or_else(|| light.newest());
        state.stand_behind(first.parent);
        Ok(state)
    }
}
