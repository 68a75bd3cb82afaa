//! Initial weights from a seed, equal on every machine.

use crate::{Layout, Param};
use base::Rng;
use rayon::prelude::*;

/// Standard deviation of every matrix (GPT-2's), except those below.
const STD: f32 = 0.02;

/// Weights for `layout` from `seed`. Each tensor has a generator of its own, keyed by its name, so a
/// stage draws the same values whether or not it is part of a longer chain. Matrices that write
/// into the residual stream are scaled by 1/√(2·blocks), as in GPT-2.
pub fn init(layout: &Layout, blocks: usize, seed: u64) -> Vec<f32> {
    let mut out = vec![0.0; layout.len];
    let residual = STD / ((2 * blocks.max(1)) as f32).sqrt();
    let mut rest = out.as_mut_slice();
    let mut slices = Vec::new();
    for param in &layout.params {
        let (head, tail) = rest.split_at_mut(param.len());
        slices.push((param, head));
        rest = tail;
    }
    slices.into_par_iter().for_each(|(param, values)| fill(param, values, residual, seed));
    out
}

fn fill(param: &Param, values: &mut [f32], residual: f32, seed: u64) {
    if !param.is_matrix() {
        values.fill(1.0);
        return;
    }
    let writes_residual = param.name.contains("o_proj") || param.name.contains("down_proj");
    let std = if writes_residual { residual } else { STD };
    let key = base::Hash::of("talkoo 2026 init v1", param.name.as_bytes()).seed();
    let mut rng = Rng::keyed(seed, key);
    for value in values {
        *value = rng.normal() * std;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, Part};

    #[test]
    fn parts_draw_what_the_whole_draws() {
        let config = ModelConfig::preset("nano", 64, 64).expect("nano");
        let whole_layout = Layout::new(&config, &Part::whole(&config));
        let whole = init(&whole_layout, 2, 7);
        let parts: Vec<f32> =
            Part::split(&config, 2).iter().flat_map(|part| init(&Layout::new(&config, part), 2, 7)).collect();
        assert_eq!(whole, parts);
        assert_ne!(whole, init(&whole_layout, 2, 8));
    }
}
