//! The shape of a pure protocol: one entry, closed inputs, closed outputs, time as an argument.

use crate::Millis;

/// A pure state machine. A driver (real or simulated) feeds it inputs and carries out what it asks.
pub trait Machine {
    /// Everything that can happen to it.
    type Input;
    /// Everything it can ask for. Results come back as inputs.
    type Output;

    /// Takes one input at time `now` and appends what is to be done, in order.
    fn step(&mut self, now: Millis, input: Self::Input, out: &mut Outbox<Self::Output>);
}

/// Outputs of one step, in the order in which they must be carried out.
#[derive(Debug)]
pub struct Outbox<T>(Vec<T>);

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Outbox<T> {
    /// Appends an output.
    pub fn push(&mut self, output: T) {
        self.0.push(output);
    }

    /// Takes all outputs out, first first.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.0.drain(..)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
