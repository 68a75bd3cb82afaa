//! The figure: how busy trainers are when many machines of unlike speed share one large model over home links.

use crate::report::{Report, Violation};
use crate::scenario::{Part, Scenario};
use crate::world::run;
use swarm::Mode;

/// What the figure is drawn for.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Of the simulation.
    pub seed: u64,
    /// Machines.
    pub members: usize,
    /// Their speeds, one after the other and again from the first.
    pub speeds: Vec<u64>,
    /// Parameters of the model.
    pub params: u64,
    /// One of so many values is sent.
    pub density: u64,
    /// Bits per parameter that an update takes.
    pub bits_per_parameter: f64,
    /// Each machine's link, up and down alike.
    pub mbit_per_s: u64,
    /// One way of a message.
    pub latency_ms: u64,
    /// Length of a unit.
    pub round_s: u64,
    /// Micro-batches of all machines together in one inner step, as a run of this size has them: shares are whole, so few of
    /// them cost waiting (1,024 instead of 4,096 cost seven percent of the trainers' time).
    pub micro_batches: u32,
    /// H.
    pub inner_steps: u32,
    /// Rounds by which communication may lag.
    pub delay: u8,
    /// Parameters that are compressed in a second; decoding costs this for each value that was sent.
    pub encode_decode_rate: f64,
    /// Parameters of which a decoded set is summed and applied in a second.
    pub apply_rate: f64,
    /// Bytes of weights that are hashed in a second.
    pub root_rate: f64,
    /// Rounds before the measurement: shares follow measured speed, which is believed step by step.
    pub warm_rounds: u64,
    /// Rounds of the measurement.
    pub rounds: u64,
}

impl Default for Figure {
    /// 32 machines of speeds 1:4:16, a billion parameters at density 1/64, 50 Mbit/s, 50 ms, 10-minute rounds.
    fn default() -> Self {
        Self {
            seed: 1,
            members: 32,
            speeds: vec![1, 4, 16],
            params: 1_000_000_000,
            density: 64,
            bits_per_parameter: 0.138,
            mbit_per_s: 50,
            latency_ms: 50,
            round_s: 600,
            micro_batches: 1024,
            inner_steps: 48,
            delay: 1,
            encode_decode_rate: 2e8,
            apply_rate: 1.5e8,
            root_rate: 2e9,
            warm_rounds: 10,
            rounds: 6,
        }
    }
}

/// Bytes of one parameter of the agreed weights.
const PARAM_BYTES: f64 = 4.0;

/// Simulates the figure; [`Report::utilisation`] is trainer time over wall time in the steady state, mean over
/// members. Checking and applying take their time from the trainers, and weights come to newcomers over their links.
pub fn utilisation(figure: &Figure) -> Result<Report, Violation> {
    run(&scenario(figure))
}

fn scenario(figure: &Figure) -> Scenario {
    let mut scenario = Scenario::calm(figure.seed, figure.members);
    let speed = |i: usize| figure.speeds[i % figure.speeds.len()];
    let sum: u64 = (0..figure.members).map(speed).sum();
    // All together do the work of a round in its time: micro-batches per 1,000 s, by share of speed.
    let work = u64::from(figure.micro_batches) * u64::from(figure.inner_steps) * 1000 / figure.round_s;
    scenario.members = (0..figure.members).map(|i| Part::honest((work * speed(i) / sum).max(1))).collect();
    scenario.mode = Mode::Local;
    scenario.delay = figure.delay;
    scenario.micro_batches = figure.micro_batches;
    scenario.inner_steps = figure.inner_steps;
    scenario.params = figure.params;
    let round_ms = figure.round_s * 1000;
    scenario.train_window_ms = 4 * round_ms;
    scenario.exchange_ms = (round_ms / 10, 2 * round_ms);
    scenario.delay_ms = (figure.latency_ms, figure.latency_ms);
    scenario.warm_rounds = figure.warm_rounds;
    scenario.rounds = figure.warm_rounds + figure.rounds;
    let params = figure.params as f64;
    let ms = |seconds: f64| (seconds * 1000.0) as u64;
    let encode_s = params / figure.encode_decode_rate;
    let decode_s = encode_s / figure.density as f64;
    let root_s = params * PARAM_BYTES / figure.root_rate;
    scenario.costs.encode_ms = ms(encode_s);
    scenario.costs.verify_ms = ms(decode_s);
    scenario.costs.apply_ms = ms(decode_s * figure.members as f64 + params / figure.apply_rate + root_s);
    scenario.costs.sync_ms = ms(params * PARAM_BYTES * 8.0 / (figure.mbit_per_s as f64 * 1e6) + root_s);
    scenario.costs.one_processor = true;
    scenario.costs.update_bytes = (params * figure.bits_per_parameter / 8.0) as u64;
    scenario.costs.bits_per_s = figure.mbit_per_s * 1_000_000;
    scenario
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applying_takes_its_time_from_the_trainers() {
        let busy = |apply_rate: f64| {
            // Equal ones: none waits for another whose part could not be larger.
            let speeds = vec![1];
            let figure =
                Figure { members: 4, speeds, micro_batches: 256, inner_steps: 12, apply_rate, ..Figure::default() };
            utilisation(&figure).unwrap_or_else(|violation| panic!("{violation}")).utilisation
        };
        // Of rounds of 600 s it takes 1 s, and 133.
        let (quick, slow) = (busy(1e9), busy(7.5e6));
        assert!(slow < quick - 0.1, "{slow} {quick}");
    }
}
