//! Text to ids and back, by a Hugging Face `tokenizer.json`.

use thiserror::Error;
use tokenizers::Tokenizer as HfTokenizer;

/// A loaded tokenizer.
pub struct Tokenizer {
    inner: HfTokenizer,
    json: Vec<u8>,
    end_token: u32,
}

/// Names that the end-of-text token goes by, in the order in which they are looked for.
const END_TOKENS: [&str; 4] = ["<|endoftext|>", "</s>", "<|end_of_text|>", "<|im_end|>"];

/// Why a tokenizer cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// Not a `tokenizer.json`.
    #[error("not a tokenizer.json: {0}")]
    Json(String),
    /// It has no token to put between documents.
    #[error("no end-of-text token ({})", END_TOKENS.join(", "))]
    NoEnd,
    /// It could not encode or decode.
    #[error("tokenizer: {0}")]
    Failed(String),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let mut inner = HfTokenizer::from_bytes(json).map_err(|e| TokenizerError::Json(e.to_string()))?;
        // A text may contain the name of a control token. It is text there: documents end where the builder says.
        inner.set_encode_special_tokens(true);
        let end_token = END_TOKENS.iter().find_map(|name| inner.token_to_id(name)).ok_or(TokenizerError::NoEnd)?;
        Ok(Self { inner, json: json.to_vec(), end_token })
    }

    /// The file it was read from.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The id between two documents.
    pub fn end_token(&self) -> u32 {
        self.end_token
    }

    /// The text of the end token.
    pub fn end_token_text(&self) -> String {
        self.inner.id_to_token(self.end_token).unwrap_or_default()
    }

    /// Number of ids, added tokens included.
    pub fn vocab(&self) -> u32 {
        self.inner.get_vocab_size(true) as u32
    }

    /// Ids of `text`, without special tokens added. Names of control tokens in it are text like all else.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| TokenizerError::Failed(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(|e| TokenizerError::Failed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_text_that_contains_the_name_of_the_end_token_does_not_end_there() {
        let tokenizer = crate::shipped::tokenizer().expect("shipped");
        let end = tokenizer.end_token_text();
        let text = format!("Enter a fool. {end} Exit.{end}");
        let ids = tokenizer.encode(&text).expect("encoded");
        assert!(!ids.contains(&tokenizer.end_token()), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).expect("decoded"), text);
    }
}
