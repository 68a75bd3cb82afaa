//! The virtual network: delay, loss, duplicates, partitions; the stream of blocks, submissions, fetches.

use super::{LOG, What, World};
use crate::report::Violation;
use base::{Hash, NodeId, Reject};
use swarm::{Candidate, Input, SignedWorkTx, WorkTx};

/// What is fetched.
pub(crate) enum Want {
    Update(Box<Candidate>),
    Weights(u64, Hash),
}

/// A fetch that goes from source to source.
pub(crate) struct Ask {
    pub want: Want,
    pub sources: Vec<usize>,
    pub next: usize,
    pub last: Reject,
}

/// A fetch asks at most so many sources.
const SOURCES_MAX: usize = 8;
/// A request without an answer is given up after so long.
const TIMEOUT_MS: u64 = 400;

impl World {
    /// The way of one message.
    pub fn delay(&mut self) -> u64 {
        let (low, high) = self.scenario.delay_ms;
        let now = self.now;
        let lags = self.scenario.faults.lags.iter().filter(|lag| (lag.from_ms..lag.to_ms).contains(&now));
        let extra: u64 = lags.map(|lag| lag.extra_ms).sum();
        self.watch.struck.late += u64::from(extra > 0);
        low + self.rng.below(high - low + 1) + extra
    }

    /// Whether a misfortune of this frequency happens now.
    fn strikes(&mut self, permille: u64) -> bool {
        self.stormy() && permille > 0 && self.rng.chance(permille, 1000)
    }

    /// Whether a message is lost.
    fn loses(&mut self, permille: u64) -> bool {
        let lost = self.strikes(permille);
        self.watch.struck.lost += u64::from(lost);
        lost
    }

    fn reaches(&mut self, a: usize, b: usize) -> bool {
        let now = self.now;
        let apart = |side: &[usize]| side.contains(&a) != side.contains(&b);
        let cut = self.scenario.faults.partitions.iter().any(|p| (p.from_ms..p.to_ms).contains(&now) && apart(&p.side));
        self.watch.struck.cut += u64::from(cut);
        !cut
    }

    /// Until when the log is absent.
    pub fn stalled(&self) -> Option<u64> {
        let now = self.now;
        let stall = self.scenario.faults.stalls.iter().find(|stall| (stall.from_ms..stall.to_ms).contains(&now));
        stall.map(|stall| stall.to_ms)
    }

    /// Signs and sends to the log.
    pub fn submit(&mut self, i: usize, tx: WorkTx) {
        let tx = self.nodes[i].sign(tx);
        self.send(i, tx, false);
    }

    /// Sends to the log what is signed already, or forged.
    pub fn send(&mut self, i: usize, tx: SignedWorkTx, forged: bool) {
        self.messages += 1;
        if self.loses(self.scenario.faults.loss_permille) {
            return;
        }
        if self.strikes(self.scenario.faults.duplicate_permille) {
            self.watch.struck.doubled += 1;
            let at = self.now + self.delay();
            self.at(at, LOG, What::Tx { from: i, tx: Box::new(tx.clone()), forged });
        }
        let at = self.now + self.delay();
        self.at(at, LOG, What::Tx { from: i, tx: Box::new(tx), forged });
    }

    /// A submission is at the log.
    pub fn arrives(&mut self, from: usize, tx: SignedWorkTx, forged: bool) -> Result<(), Violation> {
        if self.stalled().is_some() {
            self.watch.struck.absent += 1;
            return Ok(());
        }
        if !self.reaches(from, LOG) {
            return Ok(());
        }
        let copied = match &tx.value.tx {
            WorkTx::Commit { commit } => self.watch.copied.contains(&(from, commit.update)),
            _ => false,
        };
        match self.log.sequencer.submit(tx) {
            Ok(()) if forged => Err(self.fail(format!("a forged transaction of node {from} was taken"))),
            Ok(()) => {
                self.schedule_make();
                Ok(())
            }
            Err(reject) => {
                self.watch.refused.add(reject);
                self.watch.copies += u64::from(copied && reject == Reject::Duplicate);
                Ok(())
            }
        }
    }

    /// Sends a node the blocks that are not on their way to it.
    pub fn pump(&mut self, i: usize) {
        while self.nodes[i].streaming && self.nodes[i].stream_next <= self.log.blocks.len() as u64 {
            self.messages += 1;
            if !self.reaches(i, LOG) || self.loses(self.scenario.faults.loss_permille / 4) {
                return self.cut(i);
            }
            let arrival = (self.now + self.delay()).max(self.nodes[i].stream_ms);
            let node = &mut self.nodes[i];
            let (height, stream) = (node.stream_next, node.stream);
            node.stream_next += 1;
            node.stream_ms = arrival;
            self.after(arrival - self.now, i, What::Block { height, stream });
        }
    }

    fn cut(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.streaming = false;
        node.stream += 1;
        let stream = node.stream;
        let ms = 100 + self.rng.below(700);
        self.after(ms, i, What::Reconnect { stream });
    }

    pub fn reconnect(&mut self, i: usize, stream: u64) {
        if self.nodes[i].stream != stream {
            return;
        }
        let node = &mut self.nodes[i];
        node.streaming = true;
        node.stream_next = node.peer.state().height + 1;
        node.stream_ms = self.now;
        self.pump(i);
    }

    /// A block is at a node. The one place where blocks enter a peer.
    pub fn block(&mut self, i: usize, height: u64, stream: u64) -> Result<(), Violation> {
        if self.nodes[i].stream != stream {
            return Ok(());
        }
        if !self.reaches(i, LOG) {
            self.cut(i);
            return Ok(());
        }
        if let Some((state, events)) = self.log.applied.get(&height).cloned() {
            return self.step(i, Input::Applied { state, events });
        }
        let block = self.log.blocks[height as usize - 1].clone();
        self.step(i, Input::Block(block))?;
        self.same_state(i)
    }

    /// Starts a fetch.
    pub fn fetch(&mut self, i: usize, want: Want, sources: &[NodeId]) {
        let mut sources: Vec<usize> = sources.iter().filter_map(|id| self.index.get(id).copied()).collect();
        if sources.len() > SOURCES_MAX {
            let by = self.rng.below(sources.len() as u64 - 1) as usize;
            sources[1..].rotate_left(by);
            sources.truncate(SOURCES_MAX);
        }
        let ask = Box::new(Ask { want, sources, next: 0, last: Reject::NotHeld });
        if self.has(i, &ask.want) {
            return self.after(1, i, What::Got(ask));
        }
        self.ask(i, ask);
    }

    /// Asks the next source.
    pub fn ask(&mut self, i: usize, mut ask: Box<Ask>) {
        if ask.next >= ask.sources.len() {
            return self.after(1, i, What::Missed(ask));
        }
        self.messages += 1;
        let source = ask.sources[ask.next];
        let lost = !self.nodes[source].up || !self.reaches(i, source);
        if lost || self.loses(self.scenario.faults.loss_permille) {
            ask.next += 1;
            return self.after(TIMEOUT_MS, i, What::Ask(ask));
        }
        let ms = self.delay();
        self.after(ms, i, What::Serve(ask));
    }

    /// A request of `i` is at its source.
    pub fn serve(&mut self, i: usize, mut ask: Box<Ask>) {
        self.messages += 1;
        let source = ask.sources[ask.next];
        if let Err(reject) = self.serves(source, &ask.want) {
            if let Want::Update(candidate) = &ask.want {
                self.watch.lies += u64::from(self.withholds(source, candidate).is_some());
            }
            ask.last = reject;
            ask.next += 1;
            let ms = self.delay();
            return self.after(ms, i, What::Ask(ask));
        }
        let mut ms = match ask.want {
            Want::Update(_) => self.transfer(source, i),
            Want::Weights(..) => self.delay() + self.scenario.costs.sync_ms,
        };
        if self.strikes(self.scenario.faults.slow_permille) {
            ms += self.scenario.faults.slow_ms;
            self.watch.struck.slow += 1;
        }
        self.after(ms, i, What::Got(ask));
    }

    fn has(&self, i: usize, want: &Want) -> bool {
        let node = &self.nodes[i];
        match want {
            Want::Update(candidate) => node.disk.updates.contains(&candidate.update),
            // Version 0 is published, or made from the seed, by everybody.
            Want::Weights(0, root) if *root == self.first => true,
            Want::Weights(_, root) => node.has_weights(root),
        }
    }

    /// Whether `source` gives away what is wanted. No byte of an update moves before the commits are closed.
    fn serves(&self, source: usize, want: &Want) -> Result<(), Reject> {
        let node = &self.nodes[source];
        if !node.up {
            return Err(Reject::NotHeld);
        }
        if let Want::Update(candidate) = want {
            let run = node.peer.state().runs.get(&self.run).ok_or(Reject::NotHeld)?;
            let early = candidate.round >= run.next
                || run.open.iter().any(|open| open.round == candidate.round && open.is_training());
            if early {
                return Err(Reject::NotHeld);
            }
            if let Some(lie) = self.withholds(source, candidate) {
                return Err(lie);
            }
        }
        if self.has(source, want) { Ok(()) } else { Err(Reject::NotHeld) }
    }

    /// How long an update takes: it waits for the sender's link, then for the receiver's, then for its processor.
    fn transfer(&mut self, from: usize, to: usize) -> u64 {
        let latency = self.delay();
        let costs = self.scenario.costs;
        let bits = costs.update_bytes * 8 * 1000;
        let wire_ms = bits.checked_div(costs.bits_per_s).unwrap_or(0);
        let sent = self.nodes[from].up_ms.max(self.now) + wire_ms;
        self.nodes[from].up_ms = sent;
        let node = &mut self.nodes[to];
        let received = (sent + latency).max(node.down_ms + wire_ms);
        node.down_ms = received;
        let verified = received.max(node.verify_ms) + costs.verify_ms;
        node.verify_ms = verified;
        self.computes(to, costs.verify_ms);
        verified - self.now
    }

    /// A fetch succeeded.
    pub fn got(&mut self, i: usize, ask: Ask) -> Result<(), Violation> {
        match ask.want {
            Want::Update(candidate) => {
                let (run, update) = (self.run, candidate.update);
                let result = self.tensors.as_ref().map_or(Ok(()), |tensors| tensors.verify(&candidate));
                if result.is_ok() {
                    self.nodes[i].disk.updates.insert(update);
                }
                self.step(i, Input::Fetched { run, update, result })
            }
            Want::Weights(version, root) => self.weights(i, Some((version, root))),
        }
    }

    /// A fetch failed at all its sources.
    pub fn missed(&mut self, i: usize, ask: Ask) -> Result<(), Violation> {
        let run = self.run;
        match ask.want {
            Want::Update(candidate) => {
                self.step(i, Input::Fetched { run, update: candidate.update, result: Err(ask.last) })
            }
            Want::Weights(..) => {
                let result = self.nodes[i].held.back().copied();
                self.step(i, Input::Weights { run, result })
            }
        }
    }
}
