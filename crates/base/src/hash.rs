//! BLAKE3 hashes and the chunk tree over large content.

use crate::{Reader, Wire, WireError};
use std::fmt;
use std::str::FromStr;

/// Content travels and is compared in chunks of this many bytes (the last one may be shorter).
/// 1 MiB keeps the list of a 1 GB state at 32 kB and a differing chunk cheap to fetch again.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A BLAKE3 hash, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Hash of `bytes` in a domain: equal bytes in two domains have different hashes.
    pub fn of(domain: &str, bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(domain);
        hasher.update(bytes);
        Self(*hasher.finalize().as_bytes())
    }

    /// Keyed BLAKE3; for trees, where a domain's key is better not derived for each node.
    pub fn keyed(key: &[u8; 32], bytes: &[u8]) -> Self {
        Self(*blake3::keyed_hash(key, bytes).as_bytes())
    }

    /// Plain BLAKE3 of a chunk of content.
    pub fn of_chunk(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }

    /// The first eight bytes as an integer, to seed generators.
    pub fn seed(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(bytes)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::write_hex(f, &self.0)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for Hash {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, WireError> {
        let bytes = crate::from_hex(text)?;
        Ok(Self(bytes.try_into().map_err(|_| WireError::Invalid("hash: 64 hex digits are needed"))?))
    }
}

impl serde::Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Wire for Hash {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.array().map(Self)
    }
}

/// The chunk hashes of one piece of content. Its [`root`](Self::root) names the content; with the
/// list in hand every chunk can be fetched from any peer and checked by itself, and two versions
/// of a large content are compared chunk by chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTree {
    /// Length of the content in bytes.
    pub len: u64,
    /// One hash per [`CHUNK_BYTES`], in order.
    pub chunks: Vec<Hash>,
}

/// A tree lists at most this many chunks (64 TiB of content).
const CHUNKS_MAX: usize = 1 << 26;

impl ChunkTree {
    /// Hashes `content`, on the calling thread.
    pub fn of(content: &[u8]) -> Self {
        let chunks = content.chunks(CHUNK_BYTES).map(Hash::of_chunk).collect();
        Self { len: content.len() as u64, chunks }
    }

    /// Hashes what `source` gives until its end, on the calling thread.
    pub fn read(source: &mut impl std::io::Read) -> std::io::Result<Self> {
        let mut tree = Self { len: 0, chunks: Vec::new() };
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            chunk.clear();
            std::io::Read::read_to_end(&mut std::io::Read::take(&mut *source, CHUNK_BYTES as u64), &mut chunk)?;
            if chunk.is_empty() {
                return Ok(tree);
            }
            tree.len += chunk.len() as u64;
            tree.chunks.push(Hash::of_chunk(&chunk));
        }
    }

    /// The hash that names the content.
    pub fn root(&self) -> Hash {
        Hash::of("talkoo 2026 chunk tree v1", &self.to_bytes())
    }

    /// Byte range of chunk `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        let start = i * CHUNK_BYTES;
        start..(start + CHUNK_BYTES).min(self.len as usize)
    }

    /// Indices of the chunks that `other` holds differently or not at all.
    pub fn differing(&self, other: &Self) -> Vec<usize> {
        (0..self.chunks.len())
            .filter(|&i| other.chunks.get(i) != Some(&self.chunks[i]) || self.range(i) != other.range(i))
            .collect()
    }
}

impl Wire for ChunkTree {
    fn encode(&self, out: &mut Vec<u8>) {
        self.len.encode(out);
        self.chunks.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = u64::decode(input)?;
        let chunks: Vec<Hash> = input.list(CHUNKS_MAX)?;
        if len.div_ceil(CHUNK_BYTES as u64) != chunks.len() as u64 {
            return Err(WireError::Invalid("chunk count"));
        }
        Ok(Self { len, chunks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chunk_that_changed_differs() {
        let mut content = vec![7u8; 3 * CHUNK_BYTES + 5];
        let before = ChunkTree::of(&content);
        content[CHUNK_BYTES + 1] = 8;
        let after = ChunkTree::of(&content);
        assert_eq!(after.differing(&before), vec![1]);
        assert_ne!(after.root(), before.root());
        assert_eq!(ChunkTree::from_bytes(&after.to_bytes()), Ok(after));
    }

    #[test]
    fn a_tree_whose_count_lies_is_refused() {
        let tree = ChunkTree { len: 10, chunks: vec![Hash::default(); 2] };
        assert_eq!(ChunkTree::from_bytes(&tree.to_bytes()), Err(WireError::Invalid("chunk count")));
    }

    #[test]
    fn hex_is_read_back_and_refused_when_wrong() {
        let hash = Hash::of("test", b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("zz".parse::<Hash>().is_err());
        assert!("ä".repeat(32).parse::<Hash>().is_err());
    }
}
