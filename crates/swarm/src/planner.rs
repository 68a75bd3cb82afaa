//! `talkoo train plan`: which kind of round suits these machines and links, and whether it pays at all.
//!
//! Each setting is judged by one number: the loss that more tokens buy less the loss that the
//! setting costs at equal tokens. Both come from measured runs (`docs/frontier.md`); the best one wins.

use crate::Mode;

/// A member, as the planner sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineProfile {
    /// Training speed.
    pub tokens_per_s: f64,
}

/// The slowest link that members have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkProfile {
    /// Upload, Mbit/s.
    pub up_mbit: f64,
    /// Download, Mbit/s.
    pub down_mbit: f64,
    /// Round trip, ms.
    pub rtt_ms: f64,
}

/// What is planned for.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanInput {
    /// Parameters of the model.
    pub params: u64,
    /// Tokens of all members together in one optimiser step.
    pub batch_tokens: u64,
    /// Who takes part.
    pub machines: Vec<MachineProfile>,
    /// How they are linked.
    pub link: LinkProfile,
    /// Wished length of a round in local mode.
    pub target_s: f64,
    /// The run's tokens: short runs from scratch bear no thin updates.
    pub tokens: u64,
}

/// What a setting is expected to give.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Gradients or local.
    pub mode: Mode,
    /// H.
    pub inner_steps: u32,
    /// One of 2^sparsity values.
    pub sparsity: u8,
    /// Bits per value.
    pub bits: u8,
    /// Rounds by which communication lags.
    pub delay: u8,
    /// Bits per parameter and update.
    pub bits_per_parameter: f64,
    /// Bytes that each member sends per round.
    pub bytes_up: f64,
    /// Length of a unit.
    pub train_s: f64,
    /// Time that bytes and the log take.
    pub exchange_s: f64,
    /// Part of the time in which members compute.
    pub utilisation: f64,
    /// Tokens per second of the group, after waiting.
    pub tokens_per_s: f64,
    /// The same, as a multiple of the fastest member alone.
    pub speedup: f64,
    /// Loss against one machine with the same batch at equal tokens, percent.
    pub penalty_pct: f64,
    /// Loss against the fastest member alone at equal wall-clock, percent; below zero is worse.
    pub gain_pct: f64,
}

impl Outlook {
    /// Whether the group is expected to beat its fastest member by a percent or more.
    pub fn worthwhile(&self) -> bool {
        self.gain_pct >= 1.0
    }
}

/// Loss falls by about so much per doubling of tokens. From the same runs as the penalties (one
/// member alone has a quarter of the tokens and 13.2 percent more loss): where more was learned
/// already both are smaller, and what counts is their ratio.
const PCT_PER_DOUBLING: f64 = 6.6;
/// Commit, attest and close take a log round trip each, and some computing.
const LOG_TRIPS: f64 = 3.0;
/// Fixed overhead of a round.
const OVERHEAD_S: f64 = 0.03;
/// Cost of letting communication lag one round.
const DELAY_PCT: f64 = 6.2;

/// Penalty at equal tokens of local rounds, percent: measured at ten inner steps by sparsity
/// (`docs/frontier.md`); more steps cost more, two and a half times as much at thirty. Fewer than six and more than
/// thirty were not measured and count as these.
fn local_penalty(sparsity: u8, inner_steps: u32) -> f64 {
    let at_ten = match sparsity {
        0 => 6.0,
        2 => 6.1,
        4 => 7.7,
        _ => 10.8,
    };
    at_ten * (f64::from(inner_steps) / 10.0).powf(0.83).clamp(0.65, 2.5)
}

/// All settings, best first. Empty only without machines.
pub fn plan(input: &PlanInput) -> Vec<Outlook> {
    let mut out = Vec::new();
    if input.machines.is_empty() {
        return out;
    }
    out.push(judge(input, Mode::Gradients, 0, 8, 0));
    for (sparsity, bits) in [(0, 8), (0, 2), (2, 2), (4, 2), (4, 1), (6, 1)] {
        for delay in [0, 1] {
            out.push(judge(input, Mode::Local, sparsity, bits, delay));
        }
    }
    out.sort_by(|a, b| b.gain_pct.total_cmp(&a.gain_pct));
    out
}

fn judge(input: &PlanInput, mode: Mode, sparsity: u8, bits: u8, delay: u8) -> Outlook {
    let n = input.machines.len() as f64;
    let speeds = || input.machines.iter().map(|m| m.tokens_per_s);
    let (sum, best) = (speeds().sum::<f64>(), speeds().fold(0.0, f64::max));
    let step_s = input.batch_tokens as f64 / sum;
    let inner_steps = match mode {
        Mode::Gradients => 1,
        Mode::Local => ((input.target_s / step_s).round() as u32).clamp(2, 500),
    };
    let train_s = step_s * f64::from(inner_steps);
    let bits_per_parameter = bits_per_parameter(sparsity, bits);
    let bytes_up = (n - 1.0) * bits_per_parameter * input.params as f64 / 8.0;
    let mbit = bytes_up * 8.0 / 1e6;
    let wire_s = mbit / input.link.up_mbit.min(input.link.down_mbit);
    let exchange_s = if n > 1.0 { wire_s + LOG_TRIPS * input.link.rtt_ms / 1e3 + OVERHEAD_S } else { 0.0 };
    let waiting = if delay == 0 { exchange_s } else { (exchange_s - train_s).max(0.0) };
    let utilisation = train_s / (train_s + waiting);
    let tokens_per_s = sum * utilisation;
    // Rounds enough for error feedback to send everything many times over make thin updates cheaper.
    let rounds = input.tokens as f64 / (input.batch_tokens as f64 * f64::from(inner_steps));
    let warm = (rounds / 2000.0).clamp(0.0, 1.0);
    let penalty_pct = match mode {
        Mode::Gradients => 0.2,
        Mode::Local if n == 1.0 => 0.0,
        Mode::Local => local_penalty(sparsity, inner_steps) * (1.0 - 0.5 * warm) + f64::from(delay) * DELAY_PCT,
    };
    let speedup = tokens_per_s / best;
    Outlook {
        mode,
        inner_steps,
        sparsity,
        bits,
        delay,
        bits_per_parameter,
        bytes_up,
        train_s,
        exchange_s,
        utilisation,
        tokens_per_s,
        speedup,
        penalty_pct,
        gain_pct: PCT_PER_DOUBLING * speedup.log2() - penalty_pct,
    }
}

/// Values and Rice-coded indices, as the codec writes them.
fn bits_per_parameter(sparsity: u8, bits: u8) -> f64 {
    if sparsity == 0 {
        return f64::from(bits);
    }
    let gap = f64::from(1u32 << sparsity);
    let rice = f64::from(sparsity.saturating_sub(1));
    let quotient = 1.0 / ((rice.exp2() / gap).exp() - 1.0);
    (f64::from(bits) + rice + 1.0 + quotient) / gap
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(mbit: f64, params: u64, speed: f64) -> PlanInput {
        PlanInput {
            params,
            batch_tokens: 8192,
            machines: vec![MachineProfile { tokens_per_s: speed }; 4],
            link: LinkProfile { up_mbit: mbit, down_mbit: mbit, rtt_ms: 20.0 },
            target_s: 60.0,
            tokens: 100_000_000,
        }
    }

    #[test]
    fn fast_links_take_gradients_slow_links_take_thin_updates() {
        let fast = &plan(&input(10_000.0, 1_000_000, 1_000.0))[0];
        assert_eq!((fast.mode, fast.bits), (Mode::Gradients, 8));
        assert!(fast.worthwhile());
        let long =
            |mbit, params, target_s| PlanInput { tokens: 2_000_000_000, target_s, ..input(mbit, params, 10_000.0) };
        let slow = &plan(&long(20.0, 20_000_000, 6.0))[0];
        assert_eq!(slow.mode, Mode::Local);
        assert!(slow.sparsity > 0 && slow.worthwhile(), "{slow:?}");
        // Slower still, rounds are longer than was measured, and nothing says that they pay.
        let slower = &plan(&long(5.0, 100_000_000, 60.0))[0];
        assert!(slower.mode == Mode::Local && slower.sparsity > 0 && !slower.worthwhile(), "{slower:?}");
    }

    #[test]
    fn a_group_that_does_not_pay_is_reported() {
        let hopeless = &plan(&input(0.1, 1_000_000_000, 10_000.0))[0];
        assert!(!hopeless.worthwhile());
        assert!(plan(&PlanInput { machines: vec![], ..input(1.0, 1, 1.0) }).is_empty());
    }
}
