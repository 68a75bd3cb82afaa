//! What a provider offers.

use base::{Hash, Millis, NodeId, Reader, Reject, Wire, WireError, wire_enum, wire_struct};
use ledger::Credits;

/// An offer is renewed before it ends; silence expires.
pub const OFFER_MS: u64 = 150_000;
/// Models that one provider offers at a time.
pub const OFFERS_MAX: usize = 8;
/// Between a model's name and digits of its hash, where a name alone is not enough: no name has it.
pub const AT: char = '@';
/// Bytes of a name.
const NAME_MAX: usize = 128;
/// Above this a number is no machine's.
const RATE_MAX: u32 = 10_000_000;
const CONTEXT_MAX: u32 = 1 << 24;
const PRICE_MAX: Credits = Credits::whole(1_000_000);

/// A model that a provider serves, and its terms. Signed by the provider with the message that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The chain on which it is paid.
    pub chain: Hash,
    /// Hash of the weights' file.
    pub model: Hash,
    /// The model's name.
    pub name: String,
    /// Type of most weights.
    pub quantisation: String,
    /// Tokens of question and answer together.
    pub context: u32,
    /// Whether its template has a place for tools.
    pub tools: bool,
    /// What it costs.
    pub price: Price,
    /// How private it is, as far as that is proved.
    pub tier: Tier,
    /// Answers at a time.
    pub slots: u16,
    /// Tokens of questions read in a second, as the provider measured.
    pub prompt_rate: u32,
    /// Tokens of one answer written in a second.
    pub decode_rate: u32,
    /// Since when it is served.
    pub since: Millis,
    /// Until when the offer holds, Unix time.
    pub until: Millis,
}

/// Micro-credits for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Price {
    /// Of questions.
    pub input: Credits,
    /// Of answers.
    pub output: Credits,
}

wire_struct!(Price { input, output });

/// How private an answer is: what was proved, not what was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Tier {
    /// Encrypted on the way; the provider's owner can read it.
    #[default]
    Open,
}

wire_enum!(Tier { 0 => Open {} });

impl Tier {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
        }
    }
}

impl Price {
    /// What so many tokens read and written cost, rounded up.
    pub fn of(&self, read: u64, written: u64) -> Credits {
        let parts = u128::from(self.input.0) * u128::from(read) + u128::from(self.output.0) * u128::from(written);
        Credits(u64::try_from(parts.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// Whether it costs nothing.
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is nowhere above `other`.
    pub fn within(&self, other: &Self) -> bool {
        self.input <= other.input && self.output <= other.output
    }
}

impl Offer {
    /// Whether it can be a machine's, and is not over.
    pub fn check(&self, now: Millis) -> Result<(), Reject> {
        let printable = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        let rate = |rate: u32| (1..=RATE_MAX).contains(&rate);
        if !printable(&self.name) || !printable(&self.quantisation) || self.name.contains(AT) {
            return Err(Reject::Malformed);
        }
        if !rate(self.prompt_rate) || !rate(self.decode_rate) || !(1..=CONTEXT_MAX).contains(&self.context) {
            return Err(Reject::WrongWork);
        }
        if self.slots == 0 || self.price.input > PRICE_MAX || self.price.output > PRICE_MAX {
            return Err(Reject::BadAmount);
        }
        // A clock may be a minute ahead.
        if self.until <= now || self.until.since(now) > OFFER_MS + 60_000 || self.since.since(now) > 60_000 {
            return Err(Reject::Expired);
        }
        Ok(())
    }
}

impl Wire for Offer {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.chain, self.model).encode(out);
        (self.name.clone(), self.quantisation.clone()).encode(out);
        (self.context, self.tools).encode(out);
        (self.price, self.tier).encode(out);
        (self.slots, (self.prompt_rate, self.decode_rate)).encode(out);
        (self.since, self.until).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (chain, model) = Wire::decode(input)?;
        let (name, quantisation) = (input.string(NAME_MAX)?, input.string(NAME_MAX)?);
        let (context, tools) = Wire::decode(input)?;
        let (price, tier) = Wire::decode(input)?;
        let (slots, (prompt_rate, decode_rate)) = Wire::decode(input)?;
        let (since, until) = Wire::decode(input)?;
        Ok(Self {
            chain,
            model,
            name,
            quantisation,
            context,
            tools,
            price,
            tier,
            slots,
            prompt_rate,
            decode_rate,
            since,
            until,
        })
    }
}

/// What a provider tells everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offers(pub Vec<Offer>);

impl Wire for Offers {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.list(OFFERS_MAX).map(Self)
    }
}

/// A provider and what it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderCandidate {
    /// Who.
    pub provider: NodeId,
    /// What.
    pub offer: Offer,
    /// Milliseconds to the whole answer, as far as can be told.
    pub expected_ms: u64,
    /// Tokens of a question that it reads in a second: measured, or half of what it claims.
    pub prompt_rate: u64,
    /// Whether it has answered well before.
    pub known: bool,
}

/// How a provider did, for the next choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It answered.
    Answered {
        /// Until its first word.
        first_ms: u64,
        /// Tokens read.
        read: u64,
        /// From the first word to the last.
        rest_ms: u64,
        /// Tokens written.
        written: u64,
    },
    /// It had no room.
    Busy {
        /// When it may have.
        again_ms: u64,
    },
    /// It was not reached, or broke off.
    Failed,
    /// It sent what no honest one sends.
    Lied(Reject),
}
