//! Token ids in messages.

use crate::limits::TOKENS_MAX;
use base::{Reader, Wire, WireError};

/// Each in four bytes.
pub(crate) fn put_ids(ids: &[i32], out: &mut Vec<u8>) {
    (ids.len() as u32).encode(out);
    ids.iter().for_each(|id| (*id as u32).encode(out));
}

pub(crate) fn ids(input: &mut Reader<'_>) -> Result<Vec<i32>, WireError> {
    Ok(input.list::<u32>(TOKENS_MAX)?.into_iter().map(|id| id as i32).collect())
}
