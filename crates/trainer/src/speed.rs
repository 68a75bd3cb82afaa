//! How fast this machine trains.

use anyhow::Result;
use model::{Batch, ModelConfig, Trainer};
use std::time::Instant;

/// Training speed of this machine, tokens per second, from short steps of so many windows of so many tokens.
pub fn speed(config: &ModelConfig, (rows, seq_len): (usize, usize), threads: usize, device: &str) -> Result<f64> {
    let device = model::open(device)?;
    let ids = (0..rows * (seq_len + 1)).map(|i| (i * 7919 % config.vocab_size) as u32).collect();
    let batch = Batch { ids };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let best = pool.install(|| {
        let mut trainer = Trainer::new(config, &device);
        let step = |trainer: &mut Trainer| {
            let begun = Instant::now();
            let next = |_| Ok::<_, std::convert::Infallible>(batch.clone());
            let Ok(_) = trainer.gradient(0..1, seq_len, next);
            begun.elapsed().as_secs_f64()
        };
        // The best of several: what other programs take is not this machine's speed.
        let begun = Instant::now();
        let mut best = step(&mut trainer).min(step(&mut trainer));
        while begun.elapsed().as_secs_f64() < 0.3 {
            best = best.min(step(&mut trainer));
        }
        best
    });
    Ok((rows * seq_len) as f64 / best)
}
