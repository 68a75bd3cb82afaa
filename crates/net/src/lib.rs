//! The peer network: one key, one endpoint, one protocol per ALPN.
//!
//! * `talkoo/bulk/1` moves content by hash in verified chunks, from several peers and over several
//!   connections to each (on lossy links streams share one congestion window; connections do not).
//! * `talkoo/log/3` follows a log and submits to it.
//! * `talkoo/chain/1` carries frames between validators.
//! * `talkoo/gossip/3` tells everybody in a topic where each of them is, and what it has to say.
//! * `talkoo/ask/3` carries a question and its answer.
//!
//! *Goals*: works offline at once (loopback, LAN by mDNS, static tickets); every buffer that a peer
//! can fill is bounded; wrong bytes are refused by hash and counted. *Non-goals*: what the bytes
//! mean. There is no relay, DNS or discovery service of anybody's unless the owner names one;
//! [`Relay`] is one to name.

mod accept;
mod alpn;
mod bulk;
mod check;
mod endpoint;
mod frame;
mod gossip;
mod links;
mod log;
mod overlay;
mod peer_error;
mod pool;
mod rate;
mod reach;
mod relay;
mod seats;
mod serving;
mod talk;
mod ticket;

pub use bulk::{Content, FetchError, Fetched, Place};
pub use check::{Around, local_addresses, look_around};
pub use endpoint::{More, Net, NetConfig, NetError, PeerInfo};
pub use gossip::{Hears, Topic};
pub use links::{Link, Listener};
pub use log::{BoxFuture, Events, Follow, LogClient, LogEvent, LogService, submitted};
pub use peer_error::PeerError;
pub use relay::{Relay, RelayAddr, RelayAddrError, RelayError, RelayKey};
pub use seats::Origin;
pub use talk::{Answerer, FrameRoom, FrameSender, Hear, Talk};
pub use ticket::{Address, TICKET_PREFIX, Ticket, TicketError, ticket_bytes, ticket_text};
