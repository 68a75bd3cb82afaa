//! The state in bytes: how it travels, is kept, and goes on under other validators.

use super::{Entry, State};
use crate::genesis::Genesis;
use crate::pay::reference_flops;
use base::{Hash, Reader, Reject, Wire, WireError};

impl State {
    /// The state in bytes.
    pub fn to_snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_snapshot(&mut out);
        out
    }

    fn encode_snapshot(&self, out: &mut Vec<u8>) {
        ((self.height, self.time), self.tip).encode(out);
        (self.runs.runs.clone(), self.runs.seqs.clone()).encode(out);
        self.money.encode(out);
        self.epoch.encode(out);
        (self.votes.clone(), self.vote_seqs.clone()).encode(out);
    }

    /// A state from bytes, as yet believed by nobody: compare its [`root`](Self::root).
    pub fn from_snapshot(genesis: &Genesis, bytes: &[u8]) -> Result<Self, Reject> {
        let mut input = Reader::new(bytes);
        let decoded = Self::decode_snapshot(genesis, &mut input);
        let state = decoded.and_then(|state| input.end().map(|()| state));
        let state = state.map_err(|_| Reject::Malformed)?;
        let params = ledger::Params { chain: state.chain, ..genesis.money.clone() };
        if *state.money.params() == params { Ok(state) } else { Err(Reject::WrongChain) }
    }

    fn decode_snapshot(genesis: &Genesis, input: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut state = Self::new(genesis);
        ((state.height, state.time), state.tip) = Wire::decode(input)?;
        (state.runs.height, state.runs.time) = (state.height, state.time);
        (state.runs.runs, state.runs.seqs) = Wire::decode(input)?;
        state.money = Wire::decode(input)?;
        state.epoch = Wire::decode(input)?;
        (state.votes, state.vote_seqs) = Wire::decode(input)?;
        let flops = |run: &swarm::Run| reference_flops(&run.spec.config, run.spec.seq_len).unwrap_or(0);
        state.flops = state.runs.runs.iter().map(|(id, run)| (*id, flops(run))).collect();
        state.touched.extend(state.runs.runs.keys().map(|run| Entry::Run(*run)));
        state.touched.extend(state.runs.seqs.keys().map(|by| Entry::Signer(*by)));
        state.touched.extend(state.votes.keys().map(|run| Entry::Votes(*run)));
        state.touched.extend(state.vote_seqs.keys().map(|by| Entry::Voter(*by)));
        Ok(state)
    }

    /// What block this state is behind, by the word of the next one.
    pub(crate) fn stand_behind(&mut self, tip: Hash) {
        self.tip = tip;
    }

    /// The state with which a network goes on whose validators are gone: everything that was, on a chain of
    /// its own, with the validators of `genesis`, whose owners bond anew.
    pub fn recovered(&self, genesis: &Genesis) -> Result<Self, Reject> {
        let mut state = Self::new(genesis);
        let chain = state.chain;
        state.money = self.money.clone();
        state.money.begin_anew(chain);
        for founder in &genesis.validators {
            state.money.found_seat(founder.key, founder.owner, founder.node)?;
        }
        state.runs = swarm::RunsState { chain, height: 0, ..self.runs.clone() };
        (state.flops, state.vote_seqs) = (self.flops.clone(), self.vote_seqs.clone());
        // All of it is entered anew.
        let bytes = state.to_snapshot();
        Self::from_snapshot(genesis, &bytes)
    }
}
