//! Networks: a genesis, and where its validators are.

use crate::chain_store::ChainStore;
use crate::paths::{chain_dir, secret};
use anyhow::{Context, Result, bail, ensure};
use base::{Hash, NodeId, Reader, Wire, WireError, wire_struct};
use chain::{Founder, Genesis, Recovery, State};
use host::{DataFolder, write_whole};
use ledger::{Credits, Params};
use net::{Address, RelayAddr};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a network begins with: its first credits, in all.
const FAUCET: Credits = Credits::whole(10_000);
/// An hour: validators change no faster.
const EPOCH_MS: u64 = 3_600_000;
/// About a quarter of a million hashes: a moment for a member, a cost for a flood.
const WORK_BITS: u32 = 18;
const FILE: &str = "network";
/// The key of the folder's seat.
pub const SEAT_FILE: &str = "seat";

/// A network as a file that its members hand to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFile {
    /// Fixes the chain.
    pub genesis: Genesis,
    /// The validators and where they are. Not part of the chain: machines move.
    pub seats: Vec<SeatOffer>,
    /// The state that a recovered network goes on with.
    pub state: Option<Vec<u8>>,
}

/// A validator's word of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatOffer {
    /// Its consensus key.
    pub key: NodeId,
    /// Its node, and where that listens.
    pub address: Address,
}

impl Wire for NetworkFile {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.genesis.clone(), self.seats.clone()).encode(out);
        self.state.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (genesis, seats) = Wire::decode(input)?;
        let state = if bool::decode(input)? { Some(input.bytes(chain::STATE_MAX)?.to_vec()) } else { None };
        Ok(Self { genesis, seats, state })
    }
}
wire_struct!(SeatOffer { key, address });

impl NetworkFile {
    /// A network of these validators, who share its first credits.
    pub fn new(name: &str, seats: Vec<SeatOffer>) -> Result<Self> {
        ensure!(
            seats.len() == 1 || seats.len() >= 4,
            "a network has one validator or at least four: two or three halt when one sleeps"
        );
        let mut keys: Vec<NodeId> = seats.iter().map(|seat| seat.key).collect();
        keys.sort_unstable();
        keys.dedup();
        ensure!(keys.len() == seats.len(), "a seat is named twice");
        let share = Credits(FAUCET.0 / seats.len() as u64);
        let found = |seat: &SeatOffer| Founder { key: seat.key, owner: seat.address.node, node: seat.address.node };
        let mut genesis = genesis(name.to_owned(), seats.iter().map(found).collect());
        genesis.opening = seats.iter().map(|seat| (seat.address.node, share)).collect();
        Ok(Self { genesis, seats, state: None })
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let network = Self::from_bytes(&bytes);
        let network = network.with_context(|| format!("{} is no network file, or damaged", path.display()))?;
        let sound = network.genesis.check();
        sound.with_context(|| format!("{}: no network can begin like this", path.display()))?;
        Ok(network)
    }

    /// Whether the chain in a data folder is one of an earlier version, which this one cannot read.
    pub(crate) fn is_earlier(&self, data: &Path) -> bool {
        let (now, earlier) = (self.genesis.chain(), self.genesis.earlier_chain());
        !chain_dir(data, &now).exists() && chain_dir(data, &earlier).exists()
    }

    /// Writes a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_bytes(), true)
    }

    /// Where a folder keeps it.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// The network of a folder, if it has one.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        let path = Self::path(dir);
        if path.exists() { Self::read(&path).map(Some) } else { Ok(None) }
    }

    pub(crate) fn put(&self, data: &DataFolder) -> Result<()> {
        self.write(&Self::path(data.dir()))
    }
}

/// The seat that the data folder's keys can take, on a node that listens at `bind` or is reached at `relay`.
pub fn seat(dir: &Path, bind: SocketAddr, relay: Option<RelayAddr>) -> Result<SeatOffer> {
    let named = bind.port() != 0 && !bind.ip().is_unspecified();
    ensure!(
        named || relay.is_some(),
        "name the address of this machine: --bind IP:PORT; behind a router, a relay: --relay URL"
    );
    let data = DataFolder::open(dir)?;
    let address =
        Address { node: secret(&data, "key")?.id(), sockets: named.then_some(bind).into_iter().collect(), relay };
    Ok(SeatOffer { key: secret(&data, SEAT_FILE)?.id(), address })
}

/// Makes a network the folder's own: from its next start on the node keeps that network's chain. Whether it has
/// a seat there.
pub fn join(dir: &Path, network: &NetworkFile) -> Result<bool> {
    let data = DataFolder::open(dir)?;
    if let Some(old) = NetworkFile::of(data.dir())?
        && old.genesis != network.genesis
        && network.genesis.recovers.map(|from| from.chain) != Some(old.genesis.chain())
    {
        bail!("{} keeps the chain of {} already; name another folder with --data", dir.display(), old.genesis.name);
    }
    if let Some(recovery) = &network.genesis.recovers {
        let state = network.state.as_deref().context("the file lacks the state that the network goes on with")?;
        let mut begun = State::from_snapshot(&network.genesis, state).context("the state in the file")?;
        ensure!(begun.root() == recovery.root, "the state in the file is not the one that the network begins with");
        let chain = ChainStore::open(&chain_dir(data.dir(), &network.genesis.chain()))?;
        if crate::disk::Disk::state(&chain)?.is_none() {
            crate::disk::Disk::keep_state(&chain, state, &[])?;
        }
    }
    let seat = secret(&data, SEAT_FILE)?.id();
    network.put(&data)?;
    Ok(network.genesis.validators.iter().any(|founder| founder.key == seat))
}

/// The file of a chain that a folder keeps, its own or another.
pub fn network_of(dir: &Path, chain: &Hash) -> Result<Option<NetworkFile>> {
    match NetworkFile::of(&chain_dir(dir, chain))? {
        Some(network) => Ok(Some(network)),
        None => Ok(NetworkFile::of(dir)?.filter(|network| network.genesis.chain() == *chain)),
    }
}

/// A network that goes on from another's last certified state.
pub struct Recovered {
    /// The new one.
    pub file: NetworkFile,
    /// The old chain.
    pub from: Hash,
    /// Its last certified block in this folder.
    pub height: u64,
}

/// Makes the network `name` of these seats out of the last certified state of the folder's own one. No node may
/// run on the folder.
pub fn recover(dir: &Path, name: &str, seats: Vec<SeatOffer>) -> Result<Recovered> {
    let data = DataFolder::open(dir)?;
    let old = NetworkFile::of(data.dir())?.context("this folder has no network to recover")?;
    let from = old.genesis.chain();
    let disk = ChainStore::open(&chain_dir(data.dir(), &from))?;
    let orderer = crate::replica::replay(&old.genesis, &disk, &|_, _| {})?;
    let (height, block) = (orderer.state().height(), orderer.state().tip());
    let mut file = NetworkFile::new(name, seats)?;
    let zero = Recovery { chain: from, block, height, root: Hash::default() };
    let time = orderer.state().time().max(file.genesis.time);
    let begun = Genesis { opening: Vec::new(), time, recovers: Some(zero), ..file.genesis };
    let mut state = orderer.state().recovered(&begun).context("a new validator's owner cannot pay the bond")?;
    let genesis = Genesis { recovers: Some(Recovery { root: state.root(), ..zero }), ..begun };
    // The root is in the genesis, so the chain's id depends on it, and the state names the chain.
    let state = orderer.state().recovered(&genesis)?;
    file = NetworkFile { state: Some(state.to_snapshot()), genesis, ..file };
    Ok(Recovered { file, from, height })
}

/// A network of one owner.
pub fn private(owner: NodeId, seat: NodeId) -> NetworkFile {
    let mut genesis =
        genesis(format!("private network of {}", owner.short()), vec![Founder { key: seat, owner, node: owner }]);
    genesis.opening = vec![(owner, FAUCET)];
    NetworkFile { genesis, seats: Vec::new(), state: None }
}

fn genesis(name: String, validators: Vec<Founder>) -> Genesis {
    Genesis {
        name,
        time: crate::clock::clock(),
        validators,
        opening: Vec::new(),
        // Nothing can fail an audit where there are none, so nothing is locked.
        money: Params { locked_units: 0, ..Params::default() },
        per_pflop: Credits::whole(1),
        epoch_ms: EPOCH_MS,
        work_bits: WORK_BITS,
        recovers: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_an_earlier_version_is_told_from_a_new_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let network = private(NodeId([1; 32]), NodeId([2; 32]));
        assert!(!network.is_earlier(dir.path()), "it has no chain yet");
        std::fs::create_dir_all(chain_dir(dir.path(), &network.genesis.earlier_chain())).expect("made");
        assert!(network.is_earlier(dir.path()));
        std::fs::create_dir_all(chain_dir(dir.path(), &network.genesis.chain())).expect("made");
        assert!(!network.is_earlier(dir.path()));
    }
}
