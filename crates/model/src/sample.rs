//! Text from a model, one id at a time.

use crate::Trainer;
use base::Rng;

/// How the next id is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleSettings {
    /// 0 = the likeliest id always.
    pub temperature: f32,
    /// Only the likeliest so many are drawn from; 0 = all.
    pub top_k: usize,
    /// Of the generator.
    pub seed: u64,
}

/// Continues `prompt` by up to `n` ids, stopping after `stop`. The weights are those set in `trainer`.
/// The whole context is computed anew for each id: simple, and fast enough for a sample.
pub fn sample(trainer: &mut Trainer, prompt: &[u32], n: usize, stop: u32, sampling: SampleSettings) -> Vec<u32> {
    let context = trainer.config().max_position_embeddings;
    let mut ids = prompt.to_vec();
    let mut rng = Rng::new(sampling.seed);
    for _ in 0..n {
        let window = &ids[ids.len().saturating_sub(context)..];
        let id = draw(trainer.next_logits(window), sampling, &mut rng);
        if id == stop {
            break;
        }
        ids.push(id);
    }
    ids.split_off(prompt.len())
}

fn draw(logits: Vec<f32>, sampling: SampleSettings, rng: &mut Rng) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    if sampling.temperature <= 0.0 {
        return order[0];
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let max = logits[order[0] as usize];
    let weight = |&id: &u32| f64::from((logits[id as usize] - max) / sampling.temperature).exp();
    let total: f64 = order.iter().map(weight).sum();
    let mut at = total * (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    for id in &order {
        at -= weight(id);
        if at < 0.0 {
            return *id;
        }
    }
    order[order.len() - 1]
}
