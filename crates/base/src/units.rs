//! Newtypes for what must not be mixed up.

use crate::{Reader, Wire, WireError};
use std::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $suffix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// `self + n`; overflow is a broken invariant, not an input.
            pub fn plus(self, n: u64) -> Self {
                Self(self.0.checked_add(n).expect("a counter of 64 bits does not overflow"))
            }

            /// `self − earlier`, 0 when `earlier` is later.
            pub fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }

        impl Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
            fn decode(input: &mut Reader<'_>) -> Result<Self, WireError> {
                u64::decode(input).map(Self)
            }
        }
    };
}

unit!(
    /// Milliseconds: of the log where peers must agree, of a monotonic clock inside one node.
    Millis,
    " ms"
);
unit!(
    /// The number of a training round, from 0.
    Round,
    ""
);
unit!(
    /// Tokens that bear loss.
    Tokens,
    ""
);
