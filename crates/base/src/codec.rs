//! Canonical, bounded binary encoding. Integers are little-endian and of fixed width, lists carry a
//! `u32` count, and a decoder states its limit for everything that has a length: the bytes of a
//! peer can neither make it allocate more than they bring nor read past their end.

use std::collections::{BTreeMap, VecDeque};
use thiserror::Error;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end before the value does.
    #[error("truncated")]
    Truncated,
    /// A length is above the limit of its field.
    #[error("length {len} above the limit {limit}")]
    TooLong {
        /// The length that was claimed.
        len: u64,
        /// The largest length that is taken.
        limit: u64,
    },
    /// A tag or a value that the format does not have.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// Bytes are left over after the value.
    #[error("{0} trailing bytes")]
    Trailing(usize),
}

/// A value with one canonical encoding.
pub trait Wire: Sized {
    /// Appends the encoding of `self`.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads one value and leaves `input` behind it.
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError>;

    /// The encoding as a buffer of its own.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Decodes a buffer that holds this value and nothing else.
    fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let mut input = Reader::new(bytes);
        let value = Self::decode(&mut input)?;
        input.end()?;
        Ok(value)
    }
}

/// A cursor over bytes of a peer.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        if n > self.bytes.len() {
            return Err(WireError::Truncated);
        }
        let (head, tail) = self.bytes.split_at(n);
        self.bytes = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A length prefix of at most `limit`.
    pub fn len(&mut self, limit: usize) -> Result<usize, WireError> {
        let len = u32::decode(self)? as usize;
        if len > limit {
            return Err(WireError::TooLong { len: len as u64, limit: limit as u64 });
        }
        Ok(len)
    }

    /// Length-prefixed bytes, at most `limit` of them.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], WireError> {
        let len = self.len(limit)?;
        self.take(len)
    }

    /// Length-prefixed UTF-8, at most `limit` bytes.
    pub fn string(&mut self, limit: usize) -> Result<String, WireError> {
        let bytes = self.bytes(limit)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::Invalid("utf-8"))
    }

    /// A counted list of at most `limit` values. Memory grows with the bytes read, not with the count claimed.
    pub fn list<T: Wire>(&mut self, limit: usize) -> Result<Vec<T>, WireError> {
        let len = self.len(limit)?;
        let mut out = Vec::new();
        for _ in 0..len {
            out.push(T::decode(self)?);
        }
        Ok(out)
    }

    /// Asserts that everything was read.
    pub fn end(self) -> Result<(), WireError> {
        match self.bytes.len() {
            0 => Ok(()),
            n => Err(WireError::Trailing(n)),
        }
    }
}

/// Appends length-prefixed bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    u32::try_from(bytes.len()).expect("a field is shorter than 4 GiB").encode(out);
    out.extend_from_slice(bytes);
}

macro_rules! int {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(<$t>::from_le_bytes(input.array()?))
            }
        }
    )*};
}
int!(u8, u16, u32, u64, i64, u128);

impl Wire for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Invalid("bool")),
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(if bool::decode(input)? { Some(T::decode(input)?) } else { None })
    }
}

/// The most values a list may have that is decoded without a limit of its own.
const LIST_LIMIT: usize = 1 << 20;

impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a list is shorter than 2^32").encode(out);
        for value in self {
            value.encode(out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.list(LIST_LIMIT)
    }
}

impl<T: Wire> Wire for VecDeque<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a list is shorter than 2^32").encode(out);
        for value in self {
            value.encode(out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.list(LIST_LIMIT).map(Self::from)
    }
}

/// In the order of keys, each once.
impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a map has fewer than 2^32 entries").encode(out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        // Bounded by the bytes that are there.
        let list: Vec<(K, V)> = input.list(u32::MAX as usize)?;
        if list.is_sorted_by(|a, b| a.0 < b.0) {
            Ok(list.into_iter().collect())
        } else {
            Err(WireError::Invalid("order of keys"))
        }
    }
}

/// The longest string that is decoded without a limit of its own.
const STRING_LIMIT: usize = 1 << 16;

impl Wire for String {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.as_bytes());
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        input.string(STRING_LIMIT)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::decode(input)?, B::decode(input)?))
    }
}

/// Implements [`Wire`] for a struct as its fields in order.
#[macro_export]
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $($crate::Wire::encode(&self.$field, out);)*
            }
            fn decode(input: &mut $crate::Reader<'_>) -> Result<Self, $crate::WireError> {
                Ok(Self { $($field: $crate::Wire::decode(input)?),* })
            }
        }
    };
}

/// Implements [`Wire`] for an enum as a tag byte and the fields of its variant in order.
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident { $($field:ident),* $(,)? }),* $(,)? }) => {
        impl $crate::Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant { $($field),* } => {
                        out.push($tag);
                        $($crate::Wire::encode($field, out);)*
                    })*
                }
            }
            fn decode(input: &mut $crate::Reader<'_>) -> Result<Self, $crate::WireError> {
                match <u8 as $crate::Wire>::decode(input)? {
                    $($tag => Ok($name::$variant { $($field: $crate::Wire::decode(input)?),* }),)*
                    _ => Err($crate::WireError::Invalid(stringify!($name))),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(a: u64, b: Option<u32>, c: Vec<u16>, d: String) {
            let value = ((a, b), (c, d));
            prop_assert_eq!(Wire::from_bytes(&value.to_bytes()), Ok(value));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(value) = <(Vec<String>, Option<u64>)>::from_bytes(&bytes) {
                prop_assert_eq!(value.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn refusals_are_typed() {
        assert_eq!(u64::from_bytes(&[1]), Err(WireError::Truncated));
        assert_eq!(u8::from_bytes(&[1, 2]), Err(WireError::Trailing(1)));
        assert_eq!(bool::from_bytes(&[2]), Err(WireError::Invalid("bool")));
        assert_eq!(
            Vec::<u8>::from_bytes(&u32::MAX.to_le_bytes()),
            Err(WireError::TooLong { len: u64::from(u32::MAX), limit: LIST_LIMIT as u64 })
        );
    }
}
