//! What training takes of memory, and of that of a graphics device.

use anyhow::{Result, ensure};
use swarm::{Mode, Run, Spec};

/// Versions of the weights that are kept. A unit trains from one that is up to a round behind, a dispute needs the
/// one before; and a newcomer fetches one that a quorum reported, which is one or two behind, while further rounds
/// close: with fewer it would find its version gone.
pub(crate) const VERSIONS_KEPT: usize = 4;

/// Whether training on `device` fits into what the owner gives of the memory of a graphics device: weights and gradient of so
/// many parameters, and the bytes that a step takes beside them; `limit_mb` = 0: no limit.
pub fn on_device(limit_mb: u64, device: &str, params: u64, step: u64) -> Result<()> {
    let need_mb = params.saturating_mul(2 * 4).saturating_add(step) >> 20;
    ensure!(
        limit_mb == 0 || device.starts_with("cpu") || need_mb <= limit_mb,
        "training takes {need_mb} MB of {device}, talkoo.toml allows {limit_mb} (vram_mb)"
    );
    Ok(())
}

/// Bytes of memory that training in a run takes beside those of a step, in a round of as many members as it takes.
pub fn training(spec: &Spec) -> u64 {
    let gradients = spec.mode == Mode::Gradients;
    // Bytes for each parameter. In gradients mode the moments belong to the weights, in local mode to each member.
    let (weights, private) = if gradients { (3 * 4, 2) } else { (4, 2 + 2) };
    let held = (VERSIONS_KEPT as u64 + 1) * weights;
    // Weights that are fetched or exported: as bytes and as values. Private states in the same way.
    let moving = 2 * weights + 2 * private;
    // The stage that trains and its gradient, the stage that measures, and the mean of a set.
    let stages = 4 + 4 + 4 + 4;
    // θ where a unit began and where it is, two moments in full precision, and the difference.
    let unit = if gradients { 0 } else { 5 * 4 };
    let pending = if spec.delay > 0 { 4 } else { 0 };
    let values = spec.params.saturating_mul(held + moving + stages + unit + pending);
    // A set is applied whole while another update is checked.
    let members = u64::from(spec.slots).min(spec.micro_batches.into());
    values.saturating_add(update(spec).saturating_mul(members + 1))
}

/// What a step of a run takes beside the weights; more than there is where its model cannot be told.
pub fn step_bytes(run: &Run) -> u64 {
    let spec = &run.spec;
    let config = model::ModelConfig::from_json(spec.config.as_bytes());
    config.map_or(u64::MAX, |config| config.step_bytes(spec.micro_batch.into(), spec.seq_len.into()))
}

/// Bytes of an update, as they are expected.
fn update(spec: &Spec) -> u64 {
    let format = model::update::Format::new(spec.sparsity, spec.bits);
    // A format that the codec does not have is no run that can be trained in.
    format.map_or(u64::MAX, |format| (format.bits_per_parameter() / 8.0 * spec.params as f64).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_training_is_what_is_held_by_mode_format_and_members() {
        let params: u64 = 1 << 20;
        let spec = |mode, sparsity, bits, slots| Spec {
            mode,
            sparsity,
            bits,
            slots,
            micro_batches: 64,
            ..Spec::plain("memory", String::new(), params, base::Hash::default())
        };
        let check = |mode, bits, slots, per_parameter: f64| {
            let bytes = training(&spec(mode, 0, bits, slots));
            assert_eq!(bytes as f64, per_parameter * params as f64, "{mode:?}, {bits} bits, {slots} members");
        };
        // A scale of two bytes for each 4,096 values beside their 8 bits.
        let dense = 1.0 + 2.0 / 4096.0;
        check(Mode::Gradients, 8, 4, 104.0 + 5.0 * dense);
        check(Mode::Gradients, 8, 32, 104.0 + 33.0 * dense);
        check(Mode::Gradients, 8, 1000, 104.0 + 65.0 * dense);
        check(Mode::Local, 8, 4, 72.0 + 5.0 * dense);
        check(Mode::Local, 2, 4, 72.0 + 5.0 / 4.0);
        check(Mode::Local, 1, 32, 72.0 + 33.0 / 8.0);
        let thin = training(&spec(Mode::Local, 6, 1, 32));
        assert!((72 * params..73 * params).contains(&thin), "signs of one value in 64 hardly count: {thin}");
        let behind = Spec { delay: 1, ..spec(Mode::Local, 0, 2, 4) };
        assert_eq!(training(&behind) - training(&spec(Mode::Local, 0, 2, 4)), 4 * params, "an update that is pending");
        assert_eq!(training(&spec(Mode::Local, 3, 2, 4)), u64::MAX, "no such format");
    }

    #[test]
    fn graphics_memory_is_for_graphics_devices() {
        let fits = |limit, device: &str, params| on_device(limit, device, params, 1 << 20).map_err(|e| e.to_string());
        assert_eq!(fits(0, "vulkan", u64::MAX), Ok(()), "no limit");
        assert_eq!(fits(17, "cpu", u64::MAX), Ok(()));
        assert_eq!(fits(17, "vulkan", 2 << 20), Ok(()));
        let refused = "training takes 25 MB of vulkan, talkoo.toml allows 17 (vram_mb)";
        assert_eq!(fits(17, "vulkan", 3 << 20), Err(refused.into()));
    }
}
