//! AdamW, clipping and learning-rate schedules on flat vectors. Only +, −, ×, ÷ and √, each rounded
//! as IEEE 754 says and never fused: the same bits on every machine.

use crate::Layout;
use crate::simd::wide;
use rayon::prelude::*;

/// AdamW (Loshchilov and Hutter, 2019) with decoupled decay on matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// λ, per unit of learning rate.
    pub weight_decay: f32,
}

impl AdamW {
    /// The usual values for language models: β = (0.9, 0.95), ε = 1e-8.
    pub fn new(weight_decay: f32) -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay }
    }

    /// Step number `step` (from 1): updates weights and moments in place from `grad`.
    pub fn step(
        &self,
        layout: &Layout,
        weights: &mut [f32],
        moments: (&mut [f32], &mut [f32]),
        grad: &[f32],
        lr: f32,
        step: u64,
    ) {
        let (correct1, correct2) = (1.0 - powi(self.beta1, step), 1.0 - powi(self.beta2, step));
        let (m, v) = moments;
        for param in &layout.params {
            let keep = if param.is_matrix() { 1.0 - lr * self.weight_decay } else { 1.0 };
            let range = param.range();
            let parts = weights[range.clone()].par_chunks_mut(BLOCK).zip(grad[range.clone()].par_chunks(BLOCK));
            let moments = m[range.clone()].par_chunks_mut(BLOCK).zip(v[range].par_chunks_mut(BLOCK));
            parts.zip(moments).for_each(|((w, g), (m, v))| {
                wide(
                    #[inline(always)]
                    || {
                        for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
                            *v = self.beta2 * *v + (1.0 - self.beta2) * (g * g);
                            let direction = (*m / correct1) / ((*v / correct2).sqrt() + self.eps);
                            *w = *w * keep - lr * direction;
                        }
                    },
                );
            });
        }
    }
}

/// Elements that one task takes.
const BLOCK: usize = 1 << 15;

/// x to the power n by repeated multiplication (exact order of operations, so equal everywhere).
fn powi(x: f32, n: u64) -> f32 {
    let (mut base, mut n, mut out) = (f64::from(x), n, 1.0f64);
    while n > 0 {
        if n & 1 == 1 {
            out *= base;
        }
        base *= base;
        n >>= 1;
    }
    out as f32
}

/// Scales `grad` to the Euclidean norm `max` when it is longer; gives the norm before.
pub fn clip_norm(grad: &mut [f32], max: f32) -> f64 {
    // Eight running sums per block and blocks in order: a fixed pattern, fast, and independent of
    // threads and vector width.
    let square = |block: &[f32]| {
        wide(
            #[inline(always)]
            || {
                let mut sums = [0.0f64; 8];
                let (rows, rest) = block.as_chunks::<8>();
                for row in rows {
                    sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
                }
                sums.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
                sums.iter().sum::<f64>()
            },
        )
    };
    let blocks: Vec<f64> = grad.par_chunks(BLOCK).map(square).collect();
    let norm = blocks.iter().sum::<f64>().sqrt();
    if norm > f64::from(max) {
        let scale = (f64::from(max) / norm) as f32;
        grad.par_iter_mut().with_min_len(BLOCK).for_each(|x| *x *= scale);
    }
    norm
}

/// How the learning rate moves with the tokens that were applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Warm-up, stable, linear decay over the last fifth.
    Wsd,
    /// Warm-up, then linear to a tenth at the end.
    Linear,
    /// Warm-up, then constant.
    Constant,
}

impl Schedule {
    /// By name, as in the run file.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "wsd" => Some(Self::Wsd),
            "linear" => Some(Self::Linear),
            "constant" => Some(Self::Constant),
            _ => None,
        }
    }

    /// Learning rate when `tokens` of `total` were applied, `next` more are about to be, and the
    /// first `warmup` tokens warm up.
    pub fn lr(self, peak: f32, tokens: u64, next: u64, total: u64, warmup: u64) -> f32 {
        let (at, total) = ((tokens + next) as f64, total.max(1) as f64);
        let warm = (at / warmup.max(1) as f64).min(1.0);
        let done = (tokens as f64 / total).min(1.0);
        let shape = match self {
            Self::Wsd => 1.0 - ((done - 0.8) / 0.2).max(0.0) * 0.9,
            Self::Linear => 1.0 - done * 0.9,
            Self::Constant => 1.0,
        };
        (f64::from(peak) * warm * shape) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, Part};

    #[test]
    fn the_schedule_warms_up_stays_and_decays() {
        let lr = |tokens| Schedule::Wsd.lr(1.0, tokens, 10, 1000, 100);
        assert!((lr(0) - 0.1).abs() < 1e-6);
        assert_eq!(lr(100), 1.0);
        assert_eq!(lr(800), 1.0);
        assert!((lr(900) - 0.55).abs() < 1e-6);
        assert!((lr(5000) - 0.1).abs() < 1e-6);
    }

    #[test]
    fn clipping_shortens_and_keeps_direction() {
        let mut grad = vec![3.0; 16];
        assert_eq!(clip_norm(&mut grad, 6.0), 12.0);
        assert_eq!(grad, vec![1.5; 16]);
        assert_eq!(clip_norm(&mut grad, 6.0), 6.0);
    }

    #[test]
    fn a_first_step_moves_by_the_learning_rate() {
        let config = ModelConfig::preset("nano", 64, 64).expect("nano");
        let layout = Layout::new(&config, &Part::whole(&config));
        let (mut w, mut m, mut v) = (vec![1.0; layout.len], vec![0.0; layout.len], vec![0.0; layout.len]);
        let grad: Vec<f32> = (0..layout.len).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        AdamW::new(0.0).step(&layout, &mut w, (&mut m, &mut v), &grad, 0.1, 1);
        assert!((w[0] - 0.9).abs() < 1e-5 && (w[1] - 1.1).abs() < 1e-5);
    }
}
