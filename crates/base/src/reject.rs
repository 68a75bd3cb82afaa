//! Why a peer's input was refused: a closed vocabulary, counted.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! rejects {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// A refused input of a peer. Refusing is an ordinary event: it changes no state and is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reject { $($(#[$doc])* $name),* }

        impl Reject {
            /// Every reason, for metrics and documents.
            pub const ALL: &'static [Reject] = &[$(Reject::$name),*];

            /// The stable name of the reason.
            pub fn name(self) -> &'static str {
                match self { $(Reject::$name => $text),* }
            }
        }
    };
}

rejects! {
    /// The bytes are no value of the format.
    Malformed = "malformed",
    /// Larger than the limit of its kind.
    Oversized = "oversized",
    /// The signature is not the signer's.
    BadSignature = "bad_signature",
    /// A run that this node does not know.
    UnknownRun = "unknown_run",
    /// The run exists already.
    DuplicateRun = "duplicate_run",
    /// The sender is not a member, or has no slot in this round.
    NotMember = "not_member",
    /// The sender is not on the run's access list.
    NotInvited = "not_invited",
    /// No place: the run has as many members as it takes.
    Full = "full",
    /// For a round that has passed.
    Stale = "stale",
    /// For a round or phase that has not come.
    Early = "early",
    /// Said before; the first word counts.
    Duplicate = "duplicate",
    /// Tokens, steps or size are not what the plan and the format allow.
    WrongWork = "wrong_work",
    /// It names weights that the quorum did not agree on.
    WrongRoot = "wrong_root",
    /// The bytes are not those that the hash names.
    WrongHash = "wrong_hash",
    /// An update that does not fit the model.
    WrongSize = "wrong_size",
    /// NaN or infinite values.
    NotFinite = "not_finite",
    /// The norm is not the committed one.
    WrongNorm = "wrong_norm",
    /// A bitmap or list that does not fit the round.
    WrongShape = "wrong_shape",
    /// The sender is not on this round's committee.
    NotCommittee = "not_committee",
    /// The run has ended.
    Ended = "ended",
    /// The account has less than that free.
    Insufficient = "insufficient",
    /// Signed for another chain.
    WrongChain = "wrong_chain",
    /// An amount that is zero, or too large to add.
    BadAmount = "bad_amount",
    /// Creating and joining cost a proof of work, and this has none.
    NoWork = "no_work",
    /// There is no such allotment.
    NoAllotment = "no_allotment",
    /// The peer does not have what was asked for.
    NotHeld = "not_held",
    /// The peer asked for more than it may have in flight.
    TooMany = "too_many",
    /// It does not follow what came before.
    OutOfOrder = "out_of_order",
    /// An answer that ends before its end.
    CutOff = "cut_off",
    /// More than was done, or than was agreed on.
    Overcharged = "overcharged",
    /// What was delivered is not paid.
    Unpaid = "unpaid",
    /// A time that has passed, or is too far away.
    Expired = "expired",
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Reject {}

/// How often each reason occurred.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectCounts(BTreeMap<Reject, u64>);

impl RejectCounts {
    /// Counts one more.
    pub fn add(&mut self, reject: Reject) {
        *self.0.entry(reject).or_default() += 1;
    }

    /// Reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reject, u64)> + '_ {
        self.0.iter().map(|(&reject, &count)| (reject, count))
    }

    /// All refusals together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}
