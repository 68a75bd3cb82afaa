//! What is measured, and what a row of measurements says together.

use crate::{LocalTime, Settings, Why};

/// A machine that was too hot goes on when it is cooler by so much than its limit.
pub const HEAT_MARGIN_C: i32 = 5;

/// One look at the machine. `None` is what cannot be known here, and never a reason to pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Since the last key, click or touch; `None` on a machine without input devices or desktop.
    pub input_idle_ms: Option<u64>,
    /// Share of all cores that other programs use: what the program itself uses is not in it.
    pub other_load_permille: Option<u32>,
    /// Whether it runs on battery.
    pub on_battery: Option<bool>,
    /// The hottest sensor.
    pub temperature_c: Option<i32>,
    /// Whether the connection is paid by volume.
    pub metered: Option<bool>,
    /// Memory that is free or held by the program itself: otherwise its own work would stop it.
    pub memory_free_mb: Option<u64>,
    /// Memory that the program itself has, where that is more than it may.
    pub memory_over_mb: Option<u64>,
    /// Free where the program keeps its data.
    pub disk_free_mb: Option<u64>,
    /// Whether another program uses the graphics card.
    pub gpu_in_use: Option<bool>,
    /// The time of the week.
    pub local: LocalTime,
}

/// What is remembered of earlier samples.
#[derive(Debug, Clone, Default)]
pub(crate) struct Senses {
    /// Since the owner was there, as far as is known.
    pub(crate) quiet_ms: Option<u64>,
    /// Other programs need the processor.
    busy: bool,
    /// It is too hot, or was and has not cooled down.
    hot: bool,
    over: u32,
    under: u32,
}

/// So many samples in a row are above the limit before other load counts: one is a blink.
const OVER: u32 = 2;
/// So many in a row are below three quarters of it before it counts as gone.
const UNDER: u32 = 3;

impl Senses {
    /// Time passes.
    pub(crate) fn pass(&mut self, elapsed_ms: u64) {
        self.quiet_ms = self.quiet_ms.map(|quiet_ms| quiet_ms.saturating_add(elapsed_ms));
    }

    /// Takes a sample.
    pub(crate) fn take(&mut self, sample: &Sample, settings: &Settings) {
        // The owner who was seen stays seen, where the next sample knows nothing of input or disagrees.
        self.quiet_ms = [self.quiet_ms, sample.input_idle_ms].into_iter().flatten().min();
        self.hot = sample.temperature_c.is_some_and(|celsius| {
            let margin = if self.hot { HEAT_MARGIN_C } else { 0 };
            celsius > settings.temperature_max_c - margin
        });
        self.load(sample.other_load_permille, settings.other_load_permille_max);
    }

    /// What the machine itself has against working, or against starting to work where it is `at_rest`.
    pub(crate) fn objection(&self, sample: &Sample, settings: &Settings, at_rest: bool) -> Option<Why> {
        let below = |free: Option<u64>, min: u64| free.filter(|free_mb| *free_mb < min);
        if sample.on_battery == Some(true) && !settings.on_battery {
            return Some(Why::OnBattery);
        }
        if sample.metered == Some(true) && !settings.metered {
            return Some(Why::Metered);
        }
        if sample.gpu_in_use == Some(true) {
            return Some(Why::GpuInUse);
        }
        if let Some(own_mb) = sample.memory_over_mb {
            return Some(Why::OverMemory { own_mb });
        }
        if let Some(free_mb) = below(sample.memory_free_mb, settings.memory_free_min_mb) {
            return Some(Why::LowMemory { free_mb });
        }
        if let Some(free_mb) = below(sample.disk_free_mb, settings.disk_free_min_mb) {
            return Some(Why::LowDisk { free_mb });
        }
        if let Some(celsius) = sample.temperature_c.filter(|_| self.hot) {
            return Some(Why::Hot { celsius });
        }
        // At work one sample above the limit may be a blink; it is no time to start either.
        let busy = self.busy || (at_rest && self.over > 0);
        sample.other_load_permille.filter(|_| busy).map(|permille| Why::BusyElsewhere { permille })
    }

    fn load(&mut self, permille: Option<u32>, limit: u32) {
        let Some(permille) = permille else {
            (self.busy, self.over, self.under) = (false, 0, 0);
            return;
        };
        self.over = if permille > limit { (self.over + 1).min(OVER) } else { 0 };
        let low = u64::from(permille) * 4 < u64::from(limit) * 3;
        self.under = if low { (self.under + 1).min(UNDER) } else { 0 };
        self.busy = self.over == OVER || (self.busy && self.under < UNDER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(samples: impl IntoIterator<Item = Sample>, read: fn(&Senses) -> bool) -> String {
        let (mut senses, settings) = (Senses::default(), Settings::default());
        let mut seen = String::new();
        for sample in samples {
            senses.take(&sample, &settings);
            seen.push(if read(&senses) { 'x' } else { '.' });
        }
        seen
    }

    #[test]
    fn load_counts_after_two_samples_and_is_gone_after_three() {
        let check = |loads: &[u32], expect: &str| {
            let samples = loads.iter().map(|&load| Sample { other_load_permille: Some(load), ..Sample::default() });
            assert_eq!(run(samples, |senses| senses.busy), expect, "{loads:?}");
        };
        check(&[250, 250, 250], "...");
        check(&[251, 0, 251, 0], "....");
        check(&[251, 251, 187, 187, 187, 0], ".xxx..");
        check(&[251, 251, 188, 188, 188, 188], ".xxxxx");
        check(&[900, 900, 0, 0, 200, 0, 0, 0], ".xxxxxx.");
    }

    #[test]
    fn heat_counts_at_once_and_is_gone_with_a_margin() {
        let check = |celsius: &[i32], expect: &str| {
            let samples = celsius.iter().map(|&c| Sample { temperature_c: Some(c), ..Sample::default() });
            assert_eq!(run(samples, |senses| senses.hot), expect, "{celsius:?}");
        };
        check(&[85, 86, 85, 81, 80, 81, 85], ".xxx...");
    }

    #[test]
    fn what_cannot_be_known_is_no_reason() {
        let hot = Sample { other_load_permille: Some(999), temperature_c: Some(99), ..Sample::default() };
        let samples = [hot, hot, Sample::default()];
        assert_eq!(run(samples, |senses| senses.busy), ".x.");
        assert_eq!(run(samples, |senses| senses.hot), "xx.");
    }

    #[test]
    fn the_owner_who_was_seen_stays_seen() {
        let (mut senses, settings) = (Senses::default(), Settings::default());
        let mut check = |input_idle_ms, expect| {
            senses.pass(1_000);
            senses.take(&Sample { input_idle_ms, ..Sample::default() }, &settings);
            assert_eq!(senses.quiet_ms, expect);
        };
        check(None, None);
        check(Some(500_000), Some(500_000));
        check(Some(40), Some(40));
        check(None, Some(1_040));
        check(Some(900_000), Some(2_040));
        check(Some(3_030), Some(3_030));
    }
}
