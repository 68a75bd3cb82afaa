//! A state as it travels: who begins late takes it whole instead of every block, and believes it only
//! under a certificate.

use crate::block::Header;
use crate::genesis::Genesis;
use crate::light::{Anchor, Light, RootProof, Step};
use crate::state::State;
use base::{Hash, Millis, NodeId, Reader, Reject, Wire, WireError};

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

/// A state is at most this long.
pub const STATE_MAX: usize = 1 << 28;

impl Wire for Snapshot {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.genesis.clone(), self.anchor.clone()).encode(out);
        (self.state.clone(), self.proof.clone()).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (genesis, anchor) = Wire::decode(input)?;
        let state = input.bytes(STATE_MAX)?.to_vec();
        Ok(Self { genesis, anchor, state, proof: Wire::decode(input)? })
    }
}

impl Snapshot {
    /// The state, if it is that of `chain` and of nobody else: from `anchor` on where there is one, from the
    /// genesis otherwise; and the ends of epochs that were verified for it. A beginning that is older than `oldest` is
    /// refused as stale.
    pub fn check(&self, chain: &Hash, anchor: Option<&Anchor>, oldest: Millis) -> Result<(State, Vec<Step>), Reject> {
        if self.genesis.chain() != *chain {
            return Err(Reject::WrongChain);
        }
        self.genesis.check()?;
        let light = match (anchor, &self.anchor) {
            (None, _) => Light::of(&self.genesis),
            (Some(_), None) => return Err(Reject::NotHeld),
            (Some(anchor), Some((header, set))) => Light::anchored(*chain, anchor, header.clone(), set.clone())?,
        };
        // What the validators of that time sign costs them something only while their bonds are there.
        if light.time() < oldest {
            return Err(Reject::Stale);
        }
        let mut state = State::from_snapshot(&self.genesis, &self.state)?;
        let root = state.root();
        let known = light.epoch();
        let light = self.proof.check(light, state.height(), &root)?;
        // The root says what is in the state, its child what block it is behind.
        let first = self.proof.between.first().unwrap_or_else(|| light.newest());
        state.stand_behind(first.parent);
        let ends = self.proof.steps.iter().filter(|step| step.header.epoch >= known && step.header.next.is_some());
        Ok((state, ends.cloned().collect()))
    }
}
