//! Places at a model, handed out by a [`FairQueue`].

use base::NodeId;
use market::{FairQueue, PlaceTurn};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// The door of a model, and those who wait before it.
pub(super) struct Gate(Mutex<Inner>);

struct Inner {
    door: FairQueue,
    waiting: BTreeMap<u64, oneshot::Sender<bool>>,
}

/// A place, or the wait for one. Dropped, it is free for the next.
pub(super) struct Place {
    gate: Arc<Gate>,
    ticket: u64,
    turn: oneshot::Receiver<bool>,
}

impl Gate {
    /// So many write at a time, and one for four of them stands ready in the engine: between two answers it would idle.
    pub(super) fn new(places: usize) -> Self {
        let door = FairQueue::new(places, places.div_ceil(4));
        Self(Mutex::new(Inner { door, waiting: BTreeMap::new() }))
    }

    /// A place in the row; none where all are taken by those who had no more. `firm`: it is kept until its turn.
    pub(super) fn knock(self: &Arc<Self>, who: NodeId, firm: bool) -> Option<Place> {
        let mut inner = self.inner();
        let (ticket, turns) = inner.door.knock(crate::clock::clock(), who, firm);
        let (told, turn) = oneshot::channel();
        inner.waiting.extend(ticket.map(|ticket| (ticket, told)));
        inner.tell(turns);
        ticket.map(|ticket| Place { gate: self.clone(), ticket, turn })
    }

    /// Whether somebody who knocked now would be let wait.
    pub(super) fn has_room(&self, who: &NodeId) -> bool {
        self.inner().door.has_room(crate::clock::clock(), who)
    }

    /// When somebody who found no place should come back.
    pub(super) fn again_ms(&self) -> u64 {
        self.inner().door.again_ms()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

impl Inner {
    fn tell(&mut self, turns: Vec<PlaceTurn>) {
        for turn in turns {
            let (PlaceTurn::In(ticket) | PlaceTurn::Out(ticket)) = turn;
            if let Some(told) = self.waiting.remove(&ticket) {
                // Who is gone leaves by itself.
                let _ = told.send(matches!(turn, PlaceTurn::In(_)));
            }
        }
    }
}

impl Place {
    /// Waits for its turn; whether it came, or somebody who had less has this place now.
    pub(super) async fn turn(&mut self) -> bool {
        (&mut self.turn).await.unwrap_or(false)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.gate.inner();
        inner.waiting.remove(&self.ticket);
        let turns = inner.door.leave(crate::clock::clock(), self.ticket);
        inner.tell(turns);
    }
}
