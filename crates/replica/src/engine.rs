//! The consensus engine (commonware `simplex`) on threads of its own, and what it asks, as messages.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use crate::wires::{Blocked, Incoming, Sender};
use base::{Hash, Keypair, NodeId};
use chain::{namespace, node_of as node, participants};
use commonware_actor::Feedback;
use commonware_codec::DecodeExt;
use commonware_consensus::simplex::elector::RoundRobin;
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_consensus::simplex::{self, Plan, types};
use commonware_consensus::types::{Epoch, Round, ViewDelta};
use commonware_consensus::{Automaton, CertifiableAutomaton, Relay, Reporter};
use commonware_cryptography::Sha256;
use commonware_cryptography::blake3::Digest;
use commonware_cryptography::ed25519::{PrivateKey, PublicKey};
use commonware_p2p::Recipients;
use commonware_parallel::Sequential;
use commonware_runtime::buffer::paged::{self, CacheRef};
use commonware_runtime::{Runner as _, Spawner as _, Supervisor as _, tokio as runtime};
use commonware_utils::{NZDuration, NZUsize};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What validators sign.
type Activity = types::Activity<Scheme, Digest>;
pub(crate) type Context = types::Context<Digest, PublicKey>;

/// How long the engine waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For a leader's proposal.
    pub leader: Duration,
    /// For a certificate of it.
    pub certificate: Duration,
    /// Until a vote against a view is repeated.
    pub retry: Duration,
    /// A leader that was silent for so long is skipped at once.
    pub skip: Duration,
}

impl Timing {
    /// For a set of `n`. Alone there is no other leader to go on to, so it waits for work in one view;
    /// several go from leader to leader in short ones, so that a dead one costs little: two turns, then it is skipped. Each
    /// turn costs everybody votes and a write, with work or without.
    pub fn of(n: usize) -> Self {
        let ms = Duration::from_millis;
        if n == 1 {
            Self { leader: ms(8_000), certificate: ms(9_000), retry: ms(1_000), skip: ms(10_000) }
        } else {
            Self { leader: ms(2_000), certificate: ms(2_500), retry: ms(2_000), skip: ms(3_500) }
        }
    }

    /// How long a leader without anything to propose keeps its turn.
    pub(crate) fn hold(&self) -> Duration {
        self.leader.saturating_mul(4).checked_div(5).unwrap_or_default()
    }
}

/// What the engine asks and says.
pub(crate) enum Asked {
    /// For a block on the parent; dropped: none this time.
    Propose { parent: Hash, leader: NodeId, answer: oneshot::Sender<Digest> },
    /// Whether a block is a valid child of the parent.
    Verify { parent: Hash, leader: NodeId, block: Hash, answer: oneshot::Sender<bool> },
    /// Whether a block that a quorum voted for is safe on this disk.
    Certify { block: Hash, answer: oneshot::Sender<bool> },
    /// To send a block to all, or to some.
    Broadcast { block: Hash, to: Option<Vec<NodeId>> },
    /// A block is final, with the certificate that says so.
    Final { block: Hash, certificate: Vec<u8> },
    /// Somebody signed two things of which an honest validator signs one, as the engine encodes it.
    Evidence(Vec<u8>),
}

#[derive(Clone)]
pub(crate) struct Mailbox(pub(crate) mpsc::UnboundedSender<Asked>);

impl Mailbox {
    fn put(&self, asked: Asked) -> Feedback {
        if self.0.send(asked).is_ok() { Feedback::Ok } else { Feedback::Closed }
    }
}

fn hash(digest: Digest) -> Hash {
    Hash(digest.0)
}

impl Automaton for Mailbox {
    type Context = Context;
    type Digest = Digest;

    async fn propose(&mut self, context: Context) -> oneshot::Receiver<Digest> {
        let (answer, receiver) = oneshot::channel();
        self.put(Asked::Propose { parent: hash(context.parent.1), leader: node(&context.leader), answer });
        receiver
    }

    async fn verify(&mut self, context: Context, payload: Digest) -> oneshot::Receiver<bool> {
        let (answer, receiver) = oneshot::channel();
        self.put(Asked::Verify {
            parent: hash(context.parent.1),
            leader: node(&context.leader),
            block: hash(payload),
            answer,
        });
        receiver
    }
}

impl CertifiableAutomaton for Mailbox {
    async fn certify(&mut self, _round: Round, payload: Digest) -> oneshot::Receiver<bool> {
        let (answer, receiver) = oneshot::channel();
        self.put(Asked::Certify { block: hash(payload), answer });
        receiver
    }
}

impl Relay for Mailbox {
    type Digest = Digest;
    type PublicKey = PublicKey;
    type Plan = Plan<PublicKey>;

    fn broadcast(&mut self, payload: Digest, plan: Plan<PublicKey>) -> Feedback {
        let to = match plan {
            Plan::Forward { recipients: Recipients::Some(some), .. } => Some(some),
            Plan::Forward { recipients: Recipients::One(one), .. } => Some(vec![one]),
            _ => None,
        };
        let to = to.map(|keys| keys.iter().map(node).collect());
        self.put(Asked::Broadcast { block: hash(payload), to })
    }
}

impl Reporter for Mailbox {
    type Activity = Activity;

    fn report(&mut self, activity: Activity) -> Feedback {
        match activity {
            Activity::Finalization(finalization) => {
                let block = hash(finalization.proposal.payload);
                let certificate = commonware_codec::Encode::encode(&finalization).as_ref().to_vec();
                self.put(Asked::Final { block, certificate })
            }
            Activity::ConflictingNotarize(_) | Activity::ConflictingFinalize(_) | Activity::NullifyFinalize(_) => {
                self.put(Asked::Evidence(commonware_codec::Encode::encode(&activity).as_ref().to_vec()))
            }
            _ => Feedback::Ok,
        }
    }
}

/// What an engine begins with.
pub(crate) struct Begin {
    /// Folder of its journal: never copied, never deleted while its key votes.
    pub(crate) dir: PathBuf,
    /// Binds votes to a chain.
    pub(crate) chain: Hash,
    pub(crate) key: Keypair,
    pub(crate) validators: Vec<NodeId>,
    pub(crate) epoch: u64,
    /// The block before the epoch's first.
    pub(crate) genesis: Hash,
    pub(crate) timing: Timing,
}

/// Why an engine cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Its key is none of the validators'.
    #[error("this node's key is none of the validators'")]
    NoSeat,
    /// A validator's key is no key, or there twice.
    #[error("the validators' keys are not {0} different keys")]
    Validators(usize),
    /// No thread, or no files.
    #[error("the engine's thread or its files: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running engine. Dropped, it stops.
pub(crate) struct Engine {
    stop: oneshot::Sender<()>,
    /// Resolves when the engine's thread is gone.
    pub(crate) ended: oneshot::Receiver<()>,
}

impl Engine {
    pub(crate) fn start(
        begin: Begin,
        mailbox: Mailbox,
        wires: [(Sender, Incoming); 3],
        blocked: Blocked,
    ) -> Result<Self, EngineError> {
        let n = begin.validators.len();
        let participants = participants(&begin.validators).ok_or(EngineError::Validators(n))?;
        let key = PrivateKey::decode(begin.key.secret().to_vec()).map_err(|_| EngineError::NoSeat)?;
        let scheme = Scheme::signer(&namespace(&begin.chain), participants, key).ok_or(EngineError::NoSeat)?;
        forget_epochs(&begin.dir, begin.epoch)?;
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("simplex".into());
        thread.spawn(move || {
            let threads = runtime::Config::new().with_worker_threads(1).with_storage_directory(begin.dir.clone());
            runtime::Runner::new(threads).start(|context| async move {
                let config = config(&begin, scheme, mailbox, blocked);
                let engine = simplex::Engine::new(context.child("engine"), config);
                let [votes, certificates, questions] = wires;
                let mut handle = engine.start(votes, certificates, questions);
                tokio::select! {
                    _ = stopped => {
                        let _ = context.child("stop").stop(0, Some(Duration::from_secs(5))).await;
                    }
                    result = &mut handle => tracing::error!(?result, "the consensus engine ended"),
                }
            });
            let _ = end.send(());
        })?;
        Ok(Self { stop, ended })
    }

    /// Ends it; when this returns its journal is on disk.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

/// Deletes the records of votes in epochs before the last one: they ended for good, nobody asks for them again.
fn forget_epochs(dir: &Path, now: u64) -> std::io::Result<()> {
    let old = |name: &str| {
        let epoch = name.strip_prefix("epoch-")?.split('-').next()?.parse::<u64>().ok()?;
        (epoch < now.saturating_sub(1)).then_some(())
    };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().and_then(old).is_some() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

type Config = simplex::Config<Scheme, RoundRobin<Sha256>, Blocked, Digest, Mailbox, Mailbox, Mailbox, Sequential>;

fn config(begin: &Begin, scheme: Scheme, mailbox: Mailbox, blocker: Blocked) -> Config {
    let timing = begin.timing;
    simplex::Config {
        scheme,
        elector: RoundRobin::<Sha256>::default(),
        blocker,
        automaton: mailbox.clone(),
        relay: mailbox.clone(),
        reporter: mailbox,
        track_historical_votes: true,
        strategy: Sequential,
        partition: format!("epoch-{}", begin.epoch),
        mailbox_size: NZUsize!(1024),
        epoch: Epoch::new(begin.epoch),
        floor: simplex::Floor::Genesis(Digest(begin.genesis.0)),
        replay_buffer: NZUsize!(1 << 20),
        write_buffer: NZUsize!(1 << 16),
        page_cache: CacheRef::new(paged::page_size(4096), NZUsize!(256)),
        leader_timeout: timing.leader,
        certification_timeout: timing.certificate,
        timeout_retry: timing.retry,
        view_retention: ViewDelta::new(32),
        skip: simplex::SkipPolicy::Enabled {
            timeout: timing.skip,
            budget: simplex::SkipBudget::Fixed(NonZeroU64::new(64).expect("not zero")),
        },
        fetch_timeout: NZDuration!(Duration::from_millis(500)),
        fetch_retry_delay: Duration::from_millis(50),
        forward: simplex::ForwardPolicy::SilentVoters,
    }
}
