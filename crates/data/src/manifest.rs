//! What a corpus is made of.

use base::Hash;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A corpus has at most this many shards; more is a malformed manifest.
const SHARDS_MAX: usize = 1 << 20;
/// A shard has at most this many bytes: it passes through memory whole when it is fetched.
const SHARD_BYTES_MAX: u64 = 1 << 30;

/// Describes a corpus completely: with it, and a peer that has the bytes, a node can train.
/// Written as JSON with the fields in this order; the hash of those bytes names the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version, 1.
    pub version: u32,
    /// Name for people.
    pub name: String,
    /// Licence of the text, as its builder stated it.
    pub licence: String,
    /// Chunk-tree root of `tokenizer.json`.
    pub tokenizer: Hash,
    /// Ids are below this number.
    pub vocab: u32,
    /// The id between two documents.
    pub end_token: u32,
    /// Bytes per id: 2 where the vocabulary fits, else 4 (little-endian).
    pub id_bytes: u32,
    /// Shards of the training split, in order.
    pub train: Vec<Shard>,
    /// Shards of the held-out split, in order.
    pub heldout: Vec<Shard>,
    /// Documents in the training and the held-out split.
    pub documents: [u64; 2],
}

/// One file of packed token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Chunk-tree root of the bytes.
    pub root: Hash,
    /// Ids in the shard.
    pub tokens: u64,
    /// UTF-8 bytes of the text behind them (end tokens count none).
    pub text_bytes: u64,
}

/// Why a manifest is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not the JSON of a manifest.
    #[error("not a manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// A value that cannot be.
    #[error("impossible manifest: {0}")]
    Impossible(&'static str),
}

impl Manifest {
    /// The bytes that are stored, sent and hashed.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest has no map with foreign keys")
    }

    /// Reads and checks a manifest.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The name of the corpus: chunk-tree root of its JSON.
    pub fn root(&self) -> Hash {
        base::ChunkTree::of(&self.to_json()).root()
    }

    /// Tokens of the training split.
    pub fn train_tokens(&self) -> u64 {
        self.train.iter().map(|shard| shard.tokens).sum()
    }

    /// Tokens of the held-out split.
    pub fn heldout_tokens(&self) -> u64 {
        self.heldout.iter().map(|shard| shard.tokens).sum()
    }

    /// UTF-8 bytes of the held-out text.
    pub fn heldout_text_bytes(&self) -> u64 {
        self.heldout.iter().map(|shard| shard.text_bytes).sum()
    }

    /// Bytes of a shard's file.
    pub fn shard_bytes(&self, shard: &Shard) -> u64 {
        shard.tokens.saturating_mul(u64::from(self.id_bytes))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let refuse = |why| Err(ManifestError::Impossible(why));
        if self.version != 1 {
            return refuse("version is not 1");
        }
        if self.end_token >= self.vocab {
            return refuse("the end token is outside the vocabulary");
        }
        let fits = match self.id_bytes {
            2 => self.vocab <= 1 << 16,
            4 => true,
            _ => false,
        };
        if !fits {
            return refuse("id_bytes does not fit the vocabulary");
        }
        if self.train.is_empty() || self.train.len() + self.heldout.len() > SHARDS_MAX {
            return refuse("number of shards");
        }
        if self.train.iter().chain(&self.heldout).any(|shard| self.shard_bytes(shard) > SHARD_BYTES_MAX) {
            return refuse("a shard has more than 2^30 bytes");
        }
        let total = self.train.iter().chain(&self.heldout).try_fold(0u64, |sum, shard| sum.checked_add(shard.tokens));
        match total {
            Some(total) if total < 1 << 56 => Ok(()),
            _ => refuse("number of tokens"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let shard = Shard { root: Hash::default(), tokens: 10, text_bytes: 30 };
        Manifest {
            version: 1,
            name: "test".into(),
            licence: "CC0-1.0".into(),
            tokenizer: Hash::default(),
            vocab: 256,
            end_token: 0,
            id_bytes: 2,
            train: vec![shard],
            heldout: vec![],
            documents: [1, 0],
        }
    }

    #[test]
    fn it_is_read_back() {
        let manifest = manifest();
        assert_eq!(Manifest::from_json(&manifest.to_json()).ok(), Some(manifest));
    }

    #[test]
    fn impossible_values_are_refused() {
        let spoil: [fn(&mut Manifest); 5] = [
            |m| m.version = 2,
            |m| m.end_token = 256,
            |m| m.id_bytes = 3,
            |m| m.train.clear(),
            |m| m.train[0].tokens = u64::MAX,
        ];
        for f in spoil {
            let mut manifest = manifest();
            f(&mut manifest);
            assert!(Manifest::from_json(&manifest.to_json()).is_err());
        }
        assert!(Manifest::from_json(b"{}").is_err());
    }
}
