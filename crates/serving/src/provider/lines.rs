//! In which line a question stands: keys cost nothing, so whoever has nothing to lose stands in that of its network.

use base::{Hash, NodeId};
use market::{Allotted, CHUNK, Price};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Who asks, and what it costs to be somebody else.
pub(super) struct Asker {
    pub(super) by: NodeId,
    /// None: the owner.
    pub(super) origin: Option<net::Origin>,
    /// What its question takes until it was read.
    pub(super) room: Option<net::FrameRoom>,
}

/// Lines of those who come through relays. Nobody sees from where, so all of them together weigh as so many networks,
/// and whoever floods one of these lines leaves the others.
const RELAYED_LINES: u8 = 16;

/// Whether somebody's key is worth something here: it has set aside what a chunk costs, and does not take it back.
pub(super) fn is_backed(allotted: &Allotted, price: Price) -> bool {
    !allotted.closing && allotted.total >= price.of(0, CHUNK)
}

/// Under which name somebody stands in line: its own where that is worth something; else that of the network from which
/// it comes, for a key costs nothing. Keys behind relays are dealt out to a few lines.
pub(super) fn line_of(asker: &Asker, known: bool) -> NodeId {
    let name = match asker.origin {
        _ if known => return asker.by,
        None | Some(net::Origin::Near) => return asker.by,
        Some(net::Origin::Relayed) => format!("relayed {}", asker.by.0[0] % RELAYED_LINES),
        Some(origin) => format!("{origin:?}"),
    };
    NodeId(Hash::of("talkoo 2026 line v1", name.as_bytes()).0)
}

/// Under which name a stranger waits until it has paid. Those who come through relays have half of all places, and are
/// told apart by key: a flood of keys takes what is theirs, and nothing of others.
pub(super) fn stranger_of(asker: &Asker) -> Stranger {
    match asker.origin {
        Some(net::Origin::Relayed) => Stranger { relayed: true, name: asker.by },
        _ => Stranger { relayed: false, name: line_of(asker, false) },
    }
}

/// Somebody who has not paid yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stranger {
    relayed: bool,
    name: NodeId,
}

/// Places of which each line has a few.
pub(super) struct Lines {
    all: usize,
    each: usize,
    taken: Taken,
}

type Taken = Arc<Mutex<BTreeMap<Stranger, usize>>>;

/// One of them. Dropped, it is free.
pub(super) struct LinePlace {
    line: Stranger,
    taken: Taken,
}

impl Lines {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { all, each, taken: Arc::default() }
    }

    pub(super) fn enter(&self, line: Stranger) -> Option<LinePlace> {
        let mut taken = self.taken.lock().expect("nobody panics while holding it");
        let own = taken.get(&line).copied().unwrap_or(0);
        let relayed: usize = taken.iter().filter(|(line, _)| line.relayed).map(|(_, n)| n).sum();
        let full = taken.values().sum::<usize>() >= self.all || line.relayed && relayed >= self.all / 2;
        if own >= self.each || full {
            return None;
        }
        taken.insert(line, own + 1);
        Some(LinePlace { line, taken: self.taken.clone() })
    }
}

impl Drop for LinePlace {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().expect("nobody panics while holding it");
        if let Some(own) = taken.get_mut(&self.line) {
            *own -= 1;
        }
        taken.retain(|_, own| *own > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_key_for_each_question_stands_in_one_line() {
        let ask = |key: u8, ip: &str| {
            let origin = net::Origin::of(ip.parse().expect("an address"));
            line_of(&Asker { by: NodeId([key; 32]), origin: Some(origin), room: None }, false)
        };
        assert_eq!(ask(1, "8.8.8.8"), ask(2, "8.8.8.9"));
        assert_ne!(ask(1, "8.8.8.8"), ask(2, "8.8.4.4"));
        assert_ne!(ask(1, "192.168.1.2"), ask(2, "192.168.1.2"), "machines of one's own network are told apart");
        let paid = Asker { by: NodeId([7; 32]), origin: Some(net::Origin::Relayed), room: None };
        assert_eq!(line_of(&paid, true), NodeId([7; 32]));
        let relayed = |key: u8| Asker { by: NodeId([key; 32]), origin: Some(net::Origin::Relayed), room: None };
        let names: BTreeSet<NodeId> = (0..=255).map(|key| line_of(&relayed(key), false)).collect();
        assert_eq!(names.len(), 16, "keys behind relays weigh as so many networks");
    }

    #[test]
    fn strangers_that_have_not_paid_leave_room_for_others() {
        let from = |key: u8, origin| stranger_of(&Asker { by: NodeId([key; 32]), origin: Some(origin), room: None });
        let at = |key, ip: &str| from(key, net::Origin::of(ip.parse().expect("an address")));
        let lines = Lines::new(64, 4);
        let mut held: Vec<_> = (0..9).filter_map(|key| lines.enter(at(key, "8.8.8.8"))).collect();
        assert_eq!(held.len(), 4, "of one network");
        let relayed: Vec<_> = (0..=255).filter_map(|key| lines.enter(from(key, net::Origin::Relayed))).collect();
        assert_eq!(relayed.len(), 32, "all behind relays have half");
        assert!(lines.enter(at(1, "9.9.9.9")).is_some());
        held.pop();
        assert!(lines.enter(at(9, "8.8.8.1")).is_some());
        drop(relayed);
        let one: Vec<_> = (0..9).filter_map(|_| lines.enter(from(1, net::Origin::Relayed))).collect();
        assert_eq!(one.len(), 4, "of one key");
        assert!(lines.enter(from(2, net::Origin::Relayed)).is_some());
    }

    #[test]
    fn what_is_taken_back_or_too_little_is_worth_no_line() {
        let price = Price { input: ledger::Credits(0), output: ledger::Credits(1_000_000) };
        let chunk = price.of(0, CHUNK);
        let check = |total: u64, closing: bool, expect: bool| {
            let allotted = Allotted { serial: 1, total: ledger::Credits(total), closing };
            assert_eq!(is_backed(&allotted, price), expect, "{total} {closing}");
        };
        assert!(chunk.0 > 1);
        check(chunk.0, false, true);
        check(chunk.0 - 1, false, false);
        check(chunk.0, true, false);
    }
}
