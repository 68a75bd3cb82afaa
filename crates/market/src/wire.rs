//! Encodings of questions and answers. A peer's numbers are finite and its texts bounded.

use crate::ids::{ids, put_ids};
use crate::limits::{STOP_MAX, TOKEN_BYTES_MAX};
use crate::{AnswerFormat, Ask, AskInput, Finish, Frame, Message, Reason, Sampling, Say, Token};
use base::{Reader, Wire, WireError, wire_struct};

/// Bytes of a text in a question at most.
const TEXT_MAX: usize = 4 << 20;
/// Messages of a conversation.
const MESSAGES_MAX: usize = 4096;
/// Alternatives to a token.
const TOP_MAX: usize = 20;
const STOPS_MAX: usize = 16;
const BIASES_MAX: usize = 4096;
/// Bytes of the name of a model or of a role.
const WORD_MAX: usize = 1024;
/// Bytes of a word in a reason: a sentence, not a page for whatever program reads the error.
const REASON_MAX: usize = 256;
/// A frame is so long or a multiple of it: who sees packets learns little of the words in them.
const STEP: usize = 256;

/// Writes a frame and zeros up to the next step.
fn padded(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begun = out.len();
    write(out);
    let used = out.len() - begun;
    out.resize(begun + used.next_multiple_of(STEP), 0);
}

/// Reads a frame and the zeros behind it: one frame, one encoding.
fn unpadded<T>(
    input: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    let before = input.remaining();
    let value = read(input)?;
    let used = before - input.remaining();
    let padding = input.take(used.next_multiple_of(STEP) - used)?;
    if padding.iter().all(|byte| *byte == 0) { Ok(value) } else { Err(WireError::Invalid("padding")) }
}

impl Wire for Say {
    fn encode(&self, out: &mut Vec<u8>) {
        padded(out, |out| match self {
            Self::Ask { request } => {
                out.push(0);
                request.encode(out);
            }
            Self::Pay { voucher } => {
                out.push(1);
                voucher.encode(out);
            }
            Self::Stop {} => out.push(2),
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        unpadded(input, |input| match u8::decode(input)? {
            0 => Ok(Self::Ask { request: Wire::decode(input)? }),
            1 => Ok(Self::Pay { voucher: Wire::decode(input)? }),
            2 => Ok(Self::Stop {}),
            _ => Err(WireError::Invalid("word of a client")),
        })
    }
}

impl Wire for Frame {
    fn encode(&self, out: &mut Vec<u8>) {
        padded(out, |out| match self {
            Self::Taken { terms } => {
                out.push(0);
                terms.encode(out);
            }
            Self::Refused { reason } => {
                out.push(1);
                reason.encode(out);
            }
            Self::Read { cached, echo } => {
                out.push(2);
                cached.encode(out);
                echo.encode(out);
            }
            Self::Written { tokens, signature } => {
                out.push(3);
                tokens.encode(out);
                signature.encode(out);
            }
            Self::End { finish, text, signature } => {
                out.push(4);
                finish.encode(out);
                text.encode(out);
                signature.encode(out);
            }
            Self::Alive {} => out.push(5),
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        unpadded(input, |input| match u8::decode(input)? {
            0 => Ok(Self::Taken { terms: Wire::decode(input)? }),
            1 => Ok(Self::Refused { reason: Wire::decode(input)? }),
            2 => Ok(Self::Read { cached: Wire::decode(input)?, echo: Wire::decode(input)? }),
            3 => Ok(Self::Written { tokens: Wire::decode(input)?, signature: Wire::decode(input)? }),
            4 => Ok(Self::End {
                finish: Wire::decode(input)?,
                text: input.string(TOKEN_BYTES_MAX + STOP_MAX)?,
                signature: Wire::decode(input)?,
            }),
            5 => Ok(Self::Alive {}),
            _ => Err(WireError::Invalid("word of a provider")),
        })
    }
}

/// A finite number, by its bits: one number, one encoding.
struct Real(f32);

impl Wire for Real {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.to_bits().encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let value = f32::from_bits(u32::decode(input)?);
        if value.is_finite() { Ok(Self(value)) } else { Err(WireError::Invalid("number")) }
    }
}

fn put_real(value: f32, out: &mut Vec<u8>) {
    Real(value).encode(out);
}

fn real(input: &mut Reader<'_>) -> Result<f32, WireError> {
    Ok(Real::decode(input)?.0)
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u32).encode(out);
    out.extend_from_slice(bytes);
}

fn put_text(text: Option<&String>, out: &mut Vec<u8>) {
    text.is_some().encode(out);
    if let Some(text) = text {
        text.encode(out);
    }
}

fn text(input: &mut Reader<'_>) -> Result<Option<String>, WireError> {
    if bool::decode(input)? { input.string(TEXT_MAX).map(Some) } else { Ok(None) }
}

impl Wire for Ask {
    fn encode(&self, out: &mut Vec<u8>) {
        self.model.encode(out);
        self.input.encode(out);
        self.max_tokens.encode(out);
        self.sampling.encode(out);
        self.stop.encode(out);
        (self.logprobs, self.echo).encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (model, question) = (input.string(WORD_MAX)?, AskInput::decode(input)?);
        let (max_tokens, sampling) = (Wire::decode(input)?, Wire::decode(input)?);
        let stop: Vec<String> = input.list(STOPS_MAX)?;
        let (logprobs, echo): (Option<u8>, bool) = Wire::decode(input)?;
        if stop.iter().any(|stop| stop.len() > STOP_MAX) || logprobs.is_some_and(|top| usize::from(top) > TOP_MAX) {
            return Err(WireError::Invalid("question"));
        }
        Ok(Self { model, input: question, max_tokens, sampling, stop, logprobs, echo })
    }
}

impl Wire for AskInput {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Chat { messages, tools } => {
                out.push(0);
                messages.encode(out);
                put_text(tools.as_ref(), out);
            }
            Self::Text(text) => {
                out.push(1);
                text.encode(out);
            }
            Self::Tokens(ids) => {
                out.push(2);
                put_ids(ids, out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::decode(input)? {
            0 => Ok(Self::Chat { messages: input.list(MESSAGES_MAX)?, tools: text(input)? }),
            1 => input.string(TEXT_MAX).map(Self::Text),
            2 => ids(input).map(Self::Tokens),
            _ => Err(WireError::Invalid("question")),
        }
    }
}

impl Wire for Message {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.role.clone(), self.content.clone()).encode(out);
        [&self.tool_calls, &self.tool_call_id, &self.name].iter().for_each(|text| put_text(text.as_ref(), out));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (role, content) = (input.string(WORD_MAX)?, input.string(TEXT_MAX)?);
        Ok(Self { role, content, tool_calls: text(input)?, tool_call_id: text(input)?, name: text(input)? })
    }
}

impl Wire for Sampling {
    fn encode(&self, out: &mut Vec<u8>) {
        for value in [self.temperature, self.top_p, self.min_p] {
            put_real(value, out);
        }
        for value in [self.frequency_penalty, self.presence_penalty, self.repetition_penalty] {
            put_real(value, out);
        }
        (self.top_k, self.seed).encode(out);
        (self.logit_bias.len() as u32).encode(out);
        for (id, bias) in &self.logit_bias {
            (*id as u32).encode(out);
            put_real(*bias, out);
        }
        let schema = if let AnswerFormat::Schema(schema) = &self.format { Some(schema) } else { None };
        put_text(schema, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let (temperature, top_p, min_p) = (real(input)?, real(input)?, real(input)?);
        let (frequency_penalty, presence_penalty, repetition_penalty) = (real(input)?, real(input)?, real(input)?);
        let (top_k, seed) = Wire::decode(input)?;
        let biases: Vec<(u32, Real)> = input.list(BIASES_MAX)?;
        let logit_bias: Vec<(i32, f32)> = biases.into_iter().map(|(id, bias)| (id as i32, bias.0)).collect();
        let format = text(input)?.map_or(AnswerFormat::Free, AnswerFormat::Schema);
        // The ranges of the API: what is outside makes a model's sums meaningless.
        let chances = [top_p, min_p].iter().all(|chance| (0.0..=1.0).contains(chance));
        let penalties = [frequency_penalty, presence_penalty].iter().all(|penalty| (-2.0..=2.0).contains(penalty));
        let rest = (0.0..=2.0).contains(&temperature) && (0.01..=10.0).contains(&repetition_penalty);
        let biases = |(_, bias): &(i32, f32)| (-100.0..=100.0).contains(bias);
        if !(chances && penalties && rest && logit_bias.iter().all(biases)) {
            return Err(WireError::Invalid("parameter"));
        }
        Ok(Self {
            temperature,
            top_p,
            top_k,
            min_p,
            frequency_penalty,
            presence_penalty,
            repetition_penalty,
            logit_bias,
            seed,
            format,
        })
    }
}

impl Wire for Token {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.id as u32).encode(out);
        put_bytes(self.text.as_bytes(), out);
        put_bytes(&self.bytes, out);
        self.logprob.map(Real).encode(out);
        (self.top.len() as u32).encode(out);
        for (bytes, logprob) in &self.top {
            put_bytes(bytes, out);
            put_real(*logprob, out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let id = u32::decode(input)? as i32;
        let (text, bytes) = (input.string(TOKEN_BYTES_MAX)?, input.bytes(TOKEN_BYTES_MAX)?.to_vec());
        let logprob: Option<Real> = Wire::decode(input)?;
        let mut top = Vec::new();
        for _ in 0..input.len(TOP_MAX)? {
            top.push((input.bytes(TOKEN_BYTES_MAX)?.to_vec(), real(input)?));
        }
        Ok(Self { id, text, bytes, logprob: logprob.map(|value| value.0), top })
    }
}

impl Wire for Finish {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Stop => 0,
            Self::Length => 1,
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::decode(input)? {
            0 => Ok(Self::Stop),
            1 => Ok(Self::Length),
            _ => Err(WireError::Invalid("end")),
        }
    }
}

/// Whether a character shows as itself: none that moves a cursor, ends a line or turns the direction of writing.
fn is_printable(c: char) -> bool {
    let turns = ['\u{61c}', '\u{feff}', '\u{2028}', '\u{2029}'].contains(&c);
    let formats = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    !(c.is_control() || turns || formats)
}

/// A reason as it travels: a kind, two words, two numbers.
struct Told {
    kind: u8,
    words: (Word, Word),
    numbers: (u64, u64),
}

wire_struct!(Told { kind, words, numbers });

struct Word(String);

impl Wire for Word {
    fn encode(&self, out: &mut Vec<u8>) {
        // A longer one is our own text about a peer's: its beginning says enough.
        let text: String = self.0.chars().filter(|c| is_printable(*c)).collect();
        put_bytes(&text.as_bytes()[..text.floor_char_boundary(REASON_MAX)], out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let text = input.string(REASON_MAX)?;
        if text.chars().all(is_printable) { Ok(Self(text)) } else { Err(WireError::Invalid("reason")) }
    }
}

impl Wire for Reason {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, one, two, numbers) = match self {
            Self::Model(name) => (0, name.as_str(), "", (0, 0)),
            Self::Busy(again_ms) => (1, "", "", (*again_ms, 0)),
            Self::TooLong { asked, max } => (2, "", "", (*asked, *max)),
            Self::Unsupported { what, why } => (3, what.as_str(), why.as_str(), (0, 0)),
            Self::Invalid { what, why } => (4, what.as_str(), why.as_str(), (0, 0)),
            Self::Failed(why) => (5, why.as_str(), "", (0, 0)),
            Self::Price => (6, "", "", (0, 0)),
            Self::Unpaid(why) => (7, why.as_str(), "", (0, 0)),
            Self::Owner(why) => (8, why.as_str(), "", (0, 0)),
            Self::Away(why) => (9, why.as_str(), "", (0, 0)),
        };
        Told { kind, words: (Word(one.to_owned()), Word(two.to_owned())), numbers }.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let told = Told::decode(input)?;
        let (one, two, numbers) = (told.words.0.0.clone(), told.words.1.0.clone(), told.numbers);
        let reason = match told.kind {
            0 => Self::Model(one),
            1 => Self::Busy(numbers.0),
            2 => Self::TooLong { asked: numbers.0, max: numbers.1 },
            3 => Self::Unsupported { what: one, why: two },
            4 => Self::Invalid { what: one, why: two },
            5 => Self::Failed(one),
            6 => Self::Price,
            7 => Self::Unpaid(one),
            8 => Self::Owner(one),
            9 => Self::Away(one),
            _ => return Err(WireError::Invalid("reason")),
        };
        // What a kind has no use for is not there.
        if reason.to_bytes() == told.to_bytes() { Ok(reason) } else { Err(WireError::Invalid("reason")) }
    }
}
