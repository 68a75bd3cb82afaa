//! Bytes as hexadecimal text.

use crate::WireError;
use std::fmt;

/// Writes two lower-case digits per byte.
pub fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Two digits per byte, as text.
pub fn to_hex(bytes: &[u8]) -> String {
    struct Hex<'a>(&'a [u8]);
    impl fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write_hex(f, self.0)
        }
    }
    Hex(bytes).to_string()
}

/// Reads what [`to_hex`] wrote, in either case.
pub fn from_hex(text: &str) -> Result<Vec<u8>, WireError> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8).ok_or(WireError::Invalid("hex digit"));
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(WireError::Invalid("hex: an odd number of digits"));
    }
    pairs.iter().map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?)).collect()
}
