//! What a driver shows of its runs.

use crate::driver::{Driver, Run};
use crate::status::{MemberStatus, RunStatus, RunWait};
use base::plain;
use owner::Why;
use std::sync::atomic::Ordering;
use swarm::{Mode, RunId, Waiting};

impl Driver {
    pub(crate) fn show(&self) {
        let shown = self.runs.iter().map(|(id, run)| self.run_status(id, run)).collect();
        self.status.send_replace(shown);
    }

    fn run_status(&self, id: &RunId, run: &Run) -> RunStatus {
        let mut status = RunStatus {
            run: id.to_string(),
            ticket: self.log.fresh(&run.ticket).to_string(),
            chain: self.log.chain().to_string(),
            trouble: run.trouble.clone().or_else(|| self.log.trouble()),
            rounds: run.rounds.clone(),
            heldout: run.heldout.clone(),
            waiting: match &run.fetching {
                Some(fetched) => RunWait::Fetching(fetched.clone()),
                None if run.preparing => RunWait::Preparing,
                None => RunWait::Rules(self.peer.waiting(id)),
            },
            lacks: match run.fetching.is_some() || run.preparing {
                true => Some(Why::CatchingUp),
                false => lacks(self.peer.waiting(id)),
            },
            ..RunStatus::default()
        };
        let rejects = self.peer.state().rejects.iter();
        status.refused = rejects.map(|(reject, n)| (reject.name().to_owned(), n)).collect();
        let Some(state) = self.peer.state().runs.get(id) else { return status };
        status.name = plain(&state.spec.name);
        status.mode = if state.spec.mode == Mode::Gradients { "gradients".into() } else { "local".into() };
        status.params = state.spec.params;
        status.version = state.version();
        status.root = self.peer.weights(id).map(|(version, root)| (version, root.to_string()));
        status.tokens = (state.tokens, state.spec.tokens);
        status.ended = state.ended;
        let recent = &run.rounds[run.rounds.len().saturating_sub(20)..];
        let (tokens, ms) = recent.iter().fold((0, 0), |(t, ms), line| (t + line.tokens, ms + line.took_ms));
        status.tokens_per_s = tokens as f64 * 1000.0 / ms.max(1) as f64;
        if let Some(workers) = &run.work {
            let meter = &workers.work.meter;
            let busy = meter.busy_ms.load(Ordering::Relaxed) as f64;
            status.busy_ms = busy as u64;
            status.utilisation = 100.0 * busy / run.begun.elapsed().as_millis().max(1) as f64;
        }
        let own = run.rounds.iter().rev().find(|line| line.update_bytes > 0);
        let bits = own.map_or(0.0, |line| line.update_bytes as f64 * 8.0);
        status.bits_per_parameter = bits / state.spec.params as f64;
        status.agreed = state.roots.last_key_value().map(|(version, root)| (*version, root.to_string()));
        let newest = state.open.back();
        status.members = (state.members.iter())
            .map(|(member, m)| MemberStatus {
                node: member.to_string(),
                status: m.status,
                speed: m.rate as f64 / 1000.0,
                planned: newest.and_then(|round| round.slot(member)).map_or(0, |slot| slot.micro_batches),
                units: m.units,
                tokens: m.tokens,
                missed: m.missed,
                faults: m.faults,
                aside_until: state.aside(member).map(|round| round.0),
                loss: m.loss_micro as f64 / 1e6,
            })
            .collect();
        status
    }
}

/// Why a member that waits so is no part of a round.
fn lacks(waiting: Waiting) -> Option<Why> {
    match waiting {
        Waiting::UnknownRun | Waiting::Joining | Waiting::Weights | Waiting::CatchingUp => Some(Why::CatchingUp),
        Waiting::Place | Waiting::Turn | Waiting::Aside => Some(Why::WaitingForTurn),
        Waiting::NotInvited => Some(Why::NoRun),
        Waiting::No | Waiting::OthersTrain | Waiting::Exchange => None,
        Waiting::Dispute => Some(Why::Dispute),
        Waiting::Ended | Waiting::Resting | Waiting::Pausing => None,
    }
}
