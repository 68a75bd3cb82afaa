//! What can be believed without doing it again: the chain of epoch ends, each certified by the set that
//! the one before it named, and a proof of an account under the newest.

use crate::block::Header;
use crate::certificate::certified;
use crate::epoch::{first_set, set_hash};
use crate::genesis::Genesis;
use base::{Hash, Millis, NodeId, Reader, Reject, Wire, WireError, wire_struct};
use ledger::{Account, Proof};

/// A block that somebody vouches for: where a light follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: Hash,
}

wire_struct!(Anchor { height, hash });

/// A certified block: the header, and what more than two thirds of its set signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The block.
    pub header: Header,
    /// That it is final.
    pub certificate: Vec<u8>,
}

wire_struct!(Step { header, certificate });

/// Steps of a proof: more epochs than that are verified step by step.
const STEPS_MAX: usize = 1 << 16;
/// Headers between a state and the first certificate after it.
const BETWEEN_MAX: usize = 1 << 10;

/// What a light follower knows of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Light {
    chain: Hash,
    epoch: u64,
    set: Vec<NodeId>,
    newest: Header,
}

impl Light {
    /// From the beginning of a network.
    pub fn of(genesis: &Genesis) -> Self {
        Self { chain: genesis.chain(), epoch: 0, set: first_set(genesis), newest: genesis.block().header }
    }

    /// From a block that somebody vouched for, with the validators of its epoch (or, where it ends one, of the next).
    pub fn anchored(chain: Hash, anchor: &Anchor, header: Header, set: Vec<NodeId>) -> Result<Self, Reject> {
        if header.hash() != anchor.hash || header.height != anchor.height {
            return Err(Reject::WrongHash);
        }
        let (epoch, fits) = match &header.next {
            Some(next) => (after(header.epoch)?, *next == set),
            None => (header.epoch, header.set == set_hash(&set)),
        };
        if fits { Ok(Self { chain, epoch, set, newest: header }) } else { Err(Reject::WrongShape) }
    }

    /// The newest block that is known to be final.
    pub fn newest(&self) -> &Header {
        &self.newest
    }

    /// Its time.
    pub fn time(&self) -> Millis {
        self.newest.time
    }

    /// The epoch whose certificates count now.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who signs them.
    pub fn set(&self) -> &[NodeId] {
        &self.set
    }

    /// Takes a certified block of the current epoch; the last one of an epoch leads to the next.
    pub fn advance(&mut self, step: &Step) -> Result<(), Reject> {
        let Step { header, certificate } = step;
        if header.height <= self.newest.height {
            return Err(Reject::Stale);
        }
        if header.epoch != self.epoch {
            return Err(if header.epoch < self.epoch { Reject::Stale } else { Reject::Early });
        }
        if certified(&self.chain, self.epoch, &self.set, certificate)? != header.hash() {
            return Err(Reject::WrongHash);
        }
        if let Some(next) = &header.next {
            (self.epoch, self.set) = (after(header.epoch)?, next.clone());
        }
        self.newest = header.clone();
        Ok(())
    }
}

/// The epoch after one, as somebody claims that there is one.
fn after(epoch: u64) -> Result<u64, Reject> {
    epoch.checked_add(1).ok_or(Reject::WrongShape)
}

/// That a state's root is in a certified block, for anyone who knows the network's genesis or a block of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootProof {
    /// Blocks from the one after the state up to the one before the certified one.
    pub between: Vec<Header>,
    /// Ends of the epochs since the genesis or later, then the certified block.
    pub steps: Vec<Step>,
}

impl Wire for RootProof {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.between.clone(), self.steps.clone()).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let between = input.list(BETWEEN_MAX)?;
        Ok(Self { between, steps: input.list(STEPS_MAX)? })
    }
}

impl RootProof {
    /// Checks that `root` is that of the state at `height`, as far as `light` can believe it, and what that
    /// then knows.
    pub fn check(&self, mut light: Light, height: u64, root: &Hash) -> Result<Light, Reject> {
        let certified = &self.steps.last().ok_or(Reject::WrongShape)?.header;
        let mut headers = self.between.iter().chain([certified]);
        let first = headers.next().ok_or(Reject::WrongShape)?;
        if first.root != *root || Some(first.height) != height.checked_add(1) {
            return Err(Reject::WrongRoot);
        }
        let mut before = first;
        for header in headers {
            if header.parent != before.hash() {
                return Err(Reject::WrongHash);
            }
            before = header;
        }
        // Whoever begins later has passed the first of them.
        let known = light.epoch();
        for step in self.steps.iter().filter(|step| step.header.epoch >= known) {
            light.advance(step)?;
        }
        if light.newest() == certified { Ok(light) } else { Err(Reject::WrongHash) }
    }
}

/// What an account holds behind a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountProof {
    /// Whose.
    pub owner: NodeId,
    /// Height of the state.
    pub height: u64,
    /// Its time.
    pub time: Millis,
    /// Root over everything in the state but the money.
    pub entries: Hash,
    /// The root of the books.
    pub books: Hash,
    /// The account in them.
    pub money: Proof,
    /// That the state is the chain's.
    pub root: RootProof,
}

wire_struct!(AccountProof { owner, height, time, entries, books, money, root });

impl AccountProof {
    /// The account (`None`: there is none) as `light` can believe it, and the block that says so. Reads
    /// nothing else.
    pub fn check(&self, light: Light) -> Result<(Option<Account>, Light), Reject> {
        let root = state_root(&self.books, &self.entries, self.height, self.time);
        let light = self.root.check(light, self.height, &root)?;
        Ok((self.money.check(&self.books, &self.owner)?.cloned(), light))
    }
}

/// The root over a state: the books, everything else, and where it stands.
pub(crate) fn state_root(books: &Hash, entries: &Hash, height: u64, time: Millis) -> Hash {
    Hash::of("talkoo 2026 state root v1", &((*books, *entries), (height, time)).to_bytes())
}
