//! What a provider signs for: which question, which weights, which words, at what price.

use crate::{Finish, Price, Tier, Token};
use base::{Hash, Millis, NodeId, Reader, Reject, Signed, Wire, WireError, wire_struct};
use ledger::Credits;

/// Domain of signatures on receipts.
pub const RECEIPT_DOMAIN: &str = "talkoo 2026 receipt v1";
/// Providers that may have written one answer.
pub const PARTS_MAX: usize = 16;
/// Bytes of a name.
const NAME_MAX: usize = 128;

/// What a provider did. Each frame of an answer is signed as the receipt of everything until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The question's random name, the same for all who answered a part of it.
    pub id: Hash,
    /// Digest of the whole request: question, parameters and seed, and what others had written before.
    pub request: Hash,
    /// Who asked.
    pub client: NodeId,
    /// The chain on which it is paid.
    pub chain: Hash,
    /// What runs there.
    pub runtime: Runtime,
    /// When it was taken, by the provider's clock.
    pub time: Millis,
    /// Tokens of the question.
    pub read: u64,
    /// Tokens of the answer that others had written before.
    pub from: u64,
    /// Hash of the words of these.
    pub before: Hash,
    /// Tokens written.
    pub written: u64,
    /// Hash of all words of the answer, see [`roll`].
    pub words: Hash,
    /// Why it ended; none: it did not.
    pub finish: Option<Finish>,
    /// Of a million tokens.
    pub price: Price,
    /// Of all this.
    pub cost: Credits,
    /// How private it was, as far as that is proved.
    pub tier: Tier,
}

/// What answers: two providers of one runtime write the same greedy words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Hash of the weights' file.
    pub model: Hash,
    /// Hash of the chat template.
    pub template: Hash,
    /// Hash of the vocabulary.
    pub tokenizer: Hash,
    /// Class: how the arithmetic was built. Where it is another one, sums may round differently.
    pub class: String,
}

impl Wire for Runtime {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.model, self.template).encode(out);
        (self.tokenizer, self.class.clone()).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (model, template) = Wire::decode(input)?;
        Ok(Self { model, template, tokenizer: Wire::decode(input)?, class: input.string(NAME_MAX)? })
    }
}

wire_struct!(Receipt {
    id,
    request,
    client,
    chain,
    runtime,
    time,
    read,
    from,
    before,
    written,
    words,
    finish,
    price,
    cost,
    tier
});

/// The hash of words where none were written.
pub fn no_words(id: &Hash) -> Hash {
    Hash::of("talkoo 2026 words v1", &id.0)
}

/// The hash of words with one more token.
pub fn roll(words: &Hash, token: &Token) -> Hash {
    let mut bytes = words.0.to_vec();
    (token.id as u32).encode(&mut bytes);
    token.text.encode(&mut bytes);
    Hash::of("talkoo 2026 word v1", &bytes)
}

/// The hash of words with what was held back to the end.
pub fn roll_end(words: &Hash, text: &str) -> Hash {
    let mut bytes = words.0.to_vec();
    bytes.extend_from_slice(text.as_bytes());
    Hash::of("talkoo 2026 last word v1", &bytes)
}

impl Receipt {
    /// Adds tokens.
    pub(crate) fn add(&mut self, tokens: &[Token]) {
        self.written += tokens.len() as u64;
        self.words = tokens.iter().fold(self.words, |words, token| roll(&words, token));
        self.cost = self.price.of(self.read + self.from, self.written);
    }

    /// Ends it.
    pub(crate) fn end(&mut self, finish: Finish, text: &str) {
        self.words = roll_end(&self.words, text);
        self.finish = Some(finish);
    }
}

/// All receipts of one answer: more than one where somebody went on with what another had begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipts(pub Vec<Signed<Receipt>>);

impl Wire for Receipts {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.list(PARTS_MAX).map(Self)
    }
}

impl Receipts {
    /// Checks signatures, sums, and that each went on where the one before stopped; only the last one has an end.
    pub fn verify(&self) -> Result<(), Reject> {
        let Some(first) = self.0.first() else { return Err(Reject::Malformed) };
        let id = first.value.id;
        let (mut from, mut words) = (0, no_words(&id));
        for (i, signed) in self.0.iter().enumerate() {
            let receipt = &signed.value;
            if !signed.verify(RECEIPT_DOMAIN) {
                return Err(Reject::BadSignature);
            }
            if receipt.id != id || receipt.client != first.value.client {
                return Err(Reject::WrongWork);
            }
            if receipt.from != from || receipt.before != words {
                return Err(Reject::OutOfOrder);
            }
            if receipt.cost != receipt.price.of(receipt.read + receipt.from, receipt.written) {
                return Err(Reject::Overcharged);
            }
            if receipt.finish.is_some() != (i + 1 == self.0.len()) {
                return Err(Reject::CutOff);
            }
            (from, words) = (from + receipt.written, receipt.words);
        }
        Ok(())
    }

    /// Whether one runtime wrote all of it.
    pub fn one_class(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0].value.runtime == pair[1].value.runtime)
    }

    /// What all of it costs.
    pub fn cost(&self) -> Credits {
        Credits(self.0.iter().fold(0, |sum: u64, part| sum.saturating_add(part.value.cost.0)))
    }
}
