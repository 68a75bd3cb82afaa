//! What a client and a provider say to each other about one question.

use crate::ids::{ids, put_ids};
use crate::receipt::{RECEIPT_DOMAIN, no_words};
use crate::rendering::Rendering;
use crate::{Ask, AskInput, Finish, Piece, Price, Reason, Receipt, Runtime, Tier, Token};
use base::{Hash, Keypair, Millis, NodeId, Reader, Reject, Signature, Signed, Wire, WireError, wire_struct};
use ledger::{Credits, Voucher};

/// Bytes of one frame, either way.
pub const FRAME_MAX: usize = 8 << 20;
/// Tokens that a provider writes before they are paid, at most. Clients pay twice as often, so that nobody waits.
pub const CHUNK: u64 = 32;
/// A provider that has nothing to say says so this often.
pub const ALIVE_MS: u64 = 100;
/// Tokens of a frame.
pub const TOKENS_MAX: usize = 256;
/// Bytes of what was read in one frame, but for its last token: far below [`FRAME_MAX`] with every alternative.
const ECHO_MAX: usize = 1 << 20;
/// Tokens that a template may add to each message, and to all of them.
const PER_MESSAGE: u64 = 64;
const TEMPLATE_MAX: u64 = 1_024;
/// And for each byte of tools: some templates write them out.
const PER_TOOL_BYTE: u64 = 4;

/// The first frame of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// A random name of the question, the same with all who answer it: also salts its digest.
    pub id: Hash,
    /// Hash of the weights.
    pub model: Hash,
    /// The chain on which it is paid.
    pub chain: Hash,
    /// As offered.
    pub price: Price,
    /// Whose question it is, as its client tells its users apart: what is read for one is not used for another. Each
    /// provider has another name for each of them.
    pub owner: Hash,
    /// The question.
    pub ask: Ask,
    /// Tokens of the answer that were written before, by others.
    pub written: Vec<i32>,
    /// Hash of their words.
    pub before: Hash,
}

impl Request {
    /// A question as it is first asked; whom it goes to sets the terms.
    pub fn new(id: Hash, model: Hash, owner: Hash, ask: Ask) -> Self {
        let (chain, price) = (Hash::default(), Price::default());
        Self { id, model, chain, price, owner, ask, written: Vec::new(), before: no_words(&id) }
    }

    /// Names it and everything in it.
    pub fn digest(&self) -> Hash {
        Hash::of("talkoo 2026 request v1", &self.to_bytes())
    }

    /// The most tokens that a question of these words can have.
    fn read_max(&self) -> u64 {
        match &self.ask.input {
            AskInput::Tokens(ids) => ids.len() as u64,
            AskInput::Text(text) => text.len() as u64 + 16,
            AskInput::Chat { messages, tools } => {
                let tools = tools.as_ref().map_or(0, String::len) as u64 * PER_TOOL_BYTE;
                let words = messages
                    .iter()
                    .map(|m| m.role.len() + m.content.len() + m.tool_calls.as_ref().map_or(0, String::len));
                words.sum::<usize>() as u64 + tools + PER_MESSAGE * messages.len() as u64 + TEMPLATE_MAX
            }
        }
    }
}

impl Wire for Request {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.id, self.model).encode(out);
        (self.chain, self.price).encode(out);
        self.owner.encode(out);
        self.ask.encode(out);
        put_ids(&self.written, out);
        self.before.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (id, model) = Wire::decode(input)?;
        let (chain, price) = Wire::decode(input)?;
        let (owner, ask) = (Wire::decode(input)?, Wire::decode(input)?);
        Ok(Self { id, model, chain, price, owner, ask, written: ids(input)?, before: Wire::decode(input)? })
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub enum Say {
    /// At first.
    Ask {
        /// What is asked.
        request: Request,
    },
    /// Later on: what the provider has earned so far, all in all.
    Pay {
        /// Signed by the client.
        voucher: Signed<Voucher>,
    },
    /// Nobody wants the answer any more. The client hears what is on its way still, and pays it.
    Stop {},
}

/// What a provider says.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// At first: it will answer.
    Taken {
        /// On these terms.
        terms: Terms,
    },
    /// It will not, or cannot any more.
    Refused {
        /// Why.
        reason: Reason,
    },
    /// The question was read.
    Read {
        /// How many of its tokens were known from before.
        cached: u64,
        /// What was read, where it is part of the answer: the question, and what others had written. A long one comes
        /// in several frames.
        echo: Tokens,
    },
    /// Tokens were written.
    Written {
        /// In order.
        tokens: Tokens,
        /// On the receipt until here.
        signature: Signature,
    },
    /// The end.
    End {
        /// Why.
        finish: Finish,
        /// Text that was held back until now.
        text: String,
        /// On the receipt.
        signature: Signature,
    },
    /// There is nothing to say.
    Alive {},
}

/// A bounded list of tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tokens(pub Vec<Token>);

impl Wire for Tokens {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        // A question may be longer than what is written between two frames.
        input.list(crate::limits::TOKENS_MAX).map(Self)
    }
}

/// What a provider fixes when it takes a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What answers.
    pub runtime: Runtime,
    /// By the provider's clock.
    pub time: Millis,
    /// Tokens of the question.
    pub read: u64,
    /// Tokens of question and answer together at most.
    pub context: u64,
    /// The client's last word to this provider on what it has earned: a client that was restarted may have lost it.
    pub last: Option<Signed<Voucher>>,
}

wire_struct!(Terms { runtime, time, read, context, last });

/// The receipt of a request that nothing was done for yet.
fn begun(request: &Request, client: NodeId, terms: &Terms) -> Receipt {
    let from = request.written.len() as u64;
    Receipt {
        id: request.id,
        request: request.digest(),
        client,
        chain: request.chain,
        runtime: terms.runtime.clone(),
        time: terms.time,
        read: terms.read,
        from,
        before: request.before,
        written: 0,
        words: request.before,
        finish: None,
        price: request.price,
        cost: request.price.of(terms.read + from, 0),
        tier: Tier::Open,
    }
}

/// A provider's side of an answer: makes frames, signs.
pub struct AnswerWriter {
    receipt: Receipt,
}

impl AnswerWriter {
    /// A question that is taken on these terms.
    pub fn new(request: &Request, client: NodeId, terms: &Terms) -> Self {
        Self { receipt: begun(request, client, terms) }
    }

    /// What it came to so far.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// The question was read: what is part of the answer, in frames that a client takes.
    pub fn read(&self, cached: u64, echo: Vec<Token>) -> Vec<Frame> {
        let (mut frames, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for token in echo {
            bytes += token.to_bytes().len();
            part.push(token);
            if bytes > ECHO_MAX {
                frames.push(Frame::Read { cached, echo: Tokens(std::mem::take(&mut part)) });
                bytes = 0;
            }
        }
        if !part.is_empty() || frames.is_empty() {
            frames.push(Frame::Read { cached, echo: Tokens(part) });
        }
        frames
    }

    /// Tokens that were written.
    pub fn written(&mut self, key: &Keypair, tokens: Vec<Token>) -> Frame {
        self.receipt.add(&tokens);
        Frame::Written { tokens: Tokens(tokens), signature: self.sign(key) }
    }

    /// The end.
    pub fn end(&mut self, key: &Keypair, finish: Finish, text: String) -> Frame {
        self.receipt.end(finish, &text);
        Frame::End { finish, text, signature: self.sign(key) }
    }

    fn sign(&self, key: &Keypair) -> Signature {
        Signed::new(RECEIPT_DOMAIN, key, self.receipt.clone()).signature
    }
}

/// A client's side of an answer of one provider: believes nothing that is not signed and in order.
#[derive(Debug, Clone)]
pub struct AnswerReader {
    provider: NodeId,
    client: NodeId,
    request: Request,
    read_max: u64,
    context: u64,
    state: State,
    receipt: Option<Signed<Receipt>>,
    /// What was read, as far as it came.
    echo: Vec<Token>,
    rendering: Rendering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Asked,
    Taken,
    Read,
    Ended,
}

/// What a frame means for who asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// Nothing new.
    Nothing,
    /// It will be answered; reading it costs so much.
    Taken(Credits),
    /// It will not, or not any more.
    Refused(Reason),
    /// Pieces to show.
    Pieces(Vec<Piece>),
}

impl AnswerReader {
    /// Of a request to `provider`, which `offered` so many tokens of question and answer together.
    pub fn new(provider: NodeId, client: NodeId, request: Request, offered: u64) -> Self {
        let (read_max, rendering) = (request.read_max(), Rendering::after(&request.written));
        let (state, echo) = (State::Asked, Vec::new());
        Self { provider, client, read_max, request, context: offered, state, receipt: None, echo, rendering }
    }

    /// The same where the bytes of what others had written are known.
    pub(crate) fn going_on(self, rendering: Rendering) -> Self {
        Self { rendering, ..self }
    }

    /// The text so far, by the bytes of its tokens.
    pub(crate) fn rendering(&self) -> &Rendering {
        &self.rendering
    }

    /// Whether the question was read.
    pub fn is_read(&self) -> bool {
        self.state >= State::Read
    }

    /// What is signed so far, once something was written.
    pub fn receipt(&self) -> Option<&Signed<Receipt>> {
        self.receipt.as_ref().filter(|receipt| receipt.value.written > 0 || receipt.value.finish.is_some())
    }

    /// What it came to so far; after it was taken.
    pub fn sum(&self) -> Option<&Receipt> {
        self.receipt.as_ref().map(|receipt| &receipt.value)
    }

    /// Whether the end came.
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes a frame. After a reject nothing more of this provider is heard.
    pub fn take(&mut self, frame: Frame) -> Result<Received, Reject> {
        if self.state == State::Ended {
            return Err(Reject::OutOfOrder);
        }
        match frame {
            Frame::Alive {} => Ok(Received::Nothing),
            Frame::Refused { reason } => {
                self.state = State::Ended;
                Ok(Received::Refused(reason))
            }
            Frame::Taken { terms } => self.taken(&terms).map(Received::Taken),
            Frame::Read { cached, echo } => self.read(cached, echo.0).map(Received::Pieces),
            Frame::Written { tokens, signature } => self.written(tokens.0, signature).map(Received::Pieces),
            Frame::End { finish, text, signature } => {
                self.end(finish, text, signature).map(|piece| Received::Pieces(vec![piece]))
            }
        }
    }

    fn taken(&mut self, terms: &Terms) -> Result<Credits, Reject> {
        if self.state != State::Asked {
            return Err(Reject::OutOfOrder);
        }
        let exact = matches!(self.request.ask.input, AskInput::Tokens(_));
        let too_many = terms.read > self.read_max || exact && terms.read != self.read_max;
        if too_many {
            return Err(Reject::Overcharged);
        }
        // Less than it offered would make a cut answer a whole one.
        if terms.context < self.context {
            return Err(Reject::CutOff);
        }
        if terms.runtime.model != self.request.model {
            return Err(Reject::WrongRoot);
        }
        self.state = State::Taken;
        self.context = terms.context;
        let receipt = begun(&self.request, self.client, terms);
        let cost = receipt.cost;
        self.receipt = Some(Signed { by: self.provider, value: receipt, signature: Signature([0; 64]) });
        Ok(cost)
    }

    fn read(&mut self, cached: u64, echo: Vec<Token>) -> Result<Vec<Piece>, Reject> {
        let receipt = self.receipt.as_ref().filter(|_| self.state == State::Taken).ok_or(Reject::OutOfOrder)?;
        let (read, all) = (receipt.value.read, receipt.value.read + receipt.value.from);
        let wanted = if self.request.ask.echo { all } else { 0 };
        let come = (self.echo.len() + echo.len()) as u64;
        if cached > all || come > wanted || echo.is_empty() && come < wanted {
            return Err(Reject::WrongShape);
        }
        self.as_asked(&echo)?;
        self.echo.extend(echo);
        if come < wanted {
            return Ok(Vec::new());
        }
        self.state = State::Read;
        let echo = std::mem::take(&mut self.echo);
        Ok(vec![Piece::Read { tokens: read, cached: cached.min(read), echo }])
    }

    /// Nothing comes that was not asked for.
    fn as_asked(&self, tokens: &[Token]) -> Result<(), Reject> {
        let top = self.request.ask.logprobs.map_or(0, usize::from);
        let fits =
            |token: &Token| token.top.len() <= top && (token.logprob.is_none() || self.request.ask.logprobs.is_some());
        if tokens.iter().all(fits) { Ok(()) } else { Err(Reject::WrongShape) }
    }

    fn written(&mut self, tokens: Vec<Token>, signature: Signature) -> Result<Vec<Piece>, Reject> {
        let room = self.room()?;
        if tokens.is_empty() || tokens.len() > TOKENS_MAX || tokens.len() as u64 > room {
            return Err(Reject::Overcharged);
        }
        self.as_asked(&tokens)?;
        let mut rendering = self.rendering.clone();
        tokens.iter().try_for_each(|token| rendering.token(token))?;
        self.sign(signature, |receipt| receipt.add(&tokens))?;
        self.rendering = rendering;
        Ok(tokens.into_iter().map(Piece::Token).collect())
    }

    fn end(&mut self, finish: Finish, text: String, signature: Signature) -> Result<Piece, Reject> {
        // An answer that says it is as long as it may be is.
        if finish == Finish::Length && self.room()? > 0 {
            return Err(Reject::CutOff);
        }
        self.rendering.clone().end(&text, &self.request.ask.stop)?;
        self.sign(signature, |receipt| receipt.end(finish, &text))?;
        self.state = State::Ended;
        let receipt = self.sum().ok_or(Reject::OutOfOrder)?;
        Ok(Piece::End { finish: Ok(finish), text, tokens: receipt.from + receipt.written })
    }

    /// Tokens that may still be written.
    fn room(&self) -> Result<u64, Reject> {
        let receipt = self.sum().filter(|_| self.state == State::Read).ok_or(Reject::OutOfOrder)?;
        let there = receipt.from + receipt.written;
        let asked = self.request.ask.max_tokens.map_or(u64::MAX, |max| max.saturating_sub(there));
        Ok(asked.min(self.context.saturating_sub(receipt.read + there)))
    }

    fn sign(&mut self, signature: Signature, change: impl FnOnce(&mut Receipt)) -> Result<(), Reject> {
        let mut next = self.receipt.clone().filter(|_| self.state == State::Read).ok_or(Reject::OutOfOrder)?;
        change(&mut next.value);
        next.signature = signature;
        if !next.verify(RECEIPT_DOMAIN) {
            return Err(Reject::BadSignature);
        }
        self.receipt = Some(next);
        Ok(())
    }
}
