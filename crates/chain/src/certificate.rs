//! What a set of validators signed, checked by anyone who knows the set: certificates that a block is
//! final, and evidence that one of them signed two things of which an honest one signs one.

use crate::keys::{node_of, participants};
use crate::limits::{CERTIFICATE_MAX, EVIDENCE_MAX};
use base::{Hash, Keypair, NodeId, Reject};
use commonware_codec::{Copying, DecodeExt as _, Encode as _, Read};
use commonware_consensus::Epochable as _;
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_consensus::simplex::types::{self, Attributable as _, Finalization, Finalize, Proposal};
use commonware_consensus::types::{Epoch, Round, View};
use commonware_cryptography::blake3::Digest;
use commonware_cryptography::certificate::Verifier as _;
use commonware_cryptography::ed25519::PrivateKey;
use commonware_parallel::Sequential;
use commonware_utils::iter::NonEmpty;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

/// What validators sign.
pub(crate) type Activity = types::Activity<Scheme, Digest>;

/// Binds votes to a chain.
pub fn namespace(chain: &Hash) -> Vec<u8> {
    [b"talkoo 2026 consensus v1 ".as_slice(), &chain.0].concat()
}

/// Checks in batches draw random factors; everybody draws the same, from what is checked.
fn rng(bytes: &[u8]) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(Hash::of("talkoo 2026 certificate check v1", bytes).0)
}

fn verifier(chain: &Hash, set: &[NodeId]) -> Result<Scheme, Reject> {
    participants(set).map(|keys| Scheme::verifier(&namespace(chain), keys)).ok_or(Reject::WrongShape)
}

/// The block that more than two thirds of `set` made final in `epoch`, by this certificate.
pub fn certified(chain: &Hash, epoch: u64, set: &[NodeId], certificate: &[u8]) -> Result<Hash, Reject> {
    if certificate.len() > CERTIFICATE_MAX {
        return Err(Reject::Oversized);
    }
    let scheme = verifier(chain, set)?;
    let mut input = Copying(certificate);
    let found = Finalization::<Scheme, Digest>::read_cfg(&mut input, &scheme.certificate_codec_config());
    let found = found.map_err(|_| Reject::Malformed)?;
    if found.encode().as_ref() != certificate {
        return Err(Reject::Malformed);
    }
    if found.proposal.round.epoch().get() != epoch {
        return Err(Reject::WrongShape);
    }
    if !found.verify(&mut rng(certificate), &scheme, &Sequential) {
        return Err(Reject::BadSignature);
    }
    Ok(Hash(found.proposal.payload.0))
}

/// The certificate that the holders of `keys` together make of a block that they find final: what a quorum of
/// `set` signs in the engine. For tests and measurements; who holds so many keys holds the chain.
pub fn certify(
    chain: &Hash,
    set: &[NodeId],
    keys: &[Keypair],
    (epoch, view): (u64, u64),
    block: &Hash,
) -> Result<Vec<u8>, Reject> {
    let round = Round::new(Epoch::new(epoch), View::new(view));
    let proposal = Proposal::new(round, View::new(view.saturating_sub(1)), Digest(block.0));
    let sign = |key: &Keypair| {
        let key = PrivateKey::decode(key.secret().to_vec()).ok()?;
        let scheme = Scheme::signer(&namespace(chain), participants(set)?, key)?;
        Finalize::sign(&scheme, proposal.clone())
    };
    let votes: Vec<Finalize<Scheme, Digest>> = keys.iter().filter_map(sign).collect();
    let scheme = verifier(chain, set)?;
    let mut votes = votes.into_iter();
    let votes = NonEmpty::new(votes.next().ok_or(Reject::WrongShape)?, votes);
    let made = Finalization::from_owned_finalizes(&scheme, votes, &Sequential);
    made.map(|made| made.encode().as_ref().to_vec()).map_err(|_| Reject::WrongShape)
}

/// Who of `set` signed two things in `epoch` that exclude each other, by this evidence.
pub(crate) fn accused(chain: &Hash, epoch: u64, set: &[NodeId], evidence: &[u8]) -> Result<NodeId, Reject> {
    if evidence.len() > EVIDENCE_MAX {
        return Err(Reject::Oversized);
    }
    let scheme = verifier(chain, set)?;
    let config = scheme.certificate_codec_config();
    let found = Activity::read_cfg(&mut Copying(evidence), &config).map_err(|_| Reject::Malformed)?;
    let signer = match &found {
        Activity::ConflictingNotarize(two) => two.signer(),
        Activity::ConflictingFinalize(two) => two.signer(),
        Activity::NullifyFinalize(two) => two.signer(),
        _ => return Err(Reject::Malformed),
    };
    if found.epoch().get() != epoch {
        return Err(Reject::WrongShape);
    }
    let key =
        participants(set).and_then(|keys| keys.get(usize::from(signer)).map(node_of)).ok_or(Reject::WrongShape)?;
    if found.verify(&mut rng(evidence), &scheme, &Sequential) { Ok(key) } else { Err(Reject::BadSignature) }
}
