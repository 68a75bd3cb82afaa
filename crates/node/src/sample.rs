//! What the machine that decides when a node works is told of a reading.

use crate::config::When;
use host::Reading;
use owner::{LocalTime, Sample, Settings};

/// A reading as it counts for an owner who wants work done `when`, in at most `memory_mb` of memory (0 = no limit).
pub(crate) fn of(reading: &Reading, settings: &Settings, when: When, memory_mb: u64) -> Sample {
    let offset = chrono::Local::now().offset().local_minus_utc() / 60;
    let local = LocalTime::at(replica::clock(), offset);
    // What this process has it could give back.
    let memory = reading.memory_free_mb.map(|free| free + reading.memory_own_mb.unwrap_or(0));
    let over = reading.memory_own_mb.filter(|own| memory_mb > 0 && *own > memory_mb);
    let disk = reading.disk_free_mb;
    match when {
        When::Idle => Sample {
            input_idle_ms: reading.input_idle_ms,
            other_load_permille: reading.other_load_permille,
            on_battery: reading.on_battery,
            temperature_c: reading.temperature_c,
            metered: reading.metered,
            memory_free_mb: memory,
            memory_over_mb: over,
            disk_free_mb: disk,
            gpu_in_use: reading
                .gpu_busy_percent
                .filter(|_| !computes_there())
                .map(|busy| u32::from(busy) * 10 > settings.other_load_permille_max),
            local,
        },
        // What could harm the machine counts even so.
        When::Always => Sample {
            temperature_c: reading.temperature_c.filter(|celsius| *celsius > settings.temperature_max_c + 10),
            memory_over_mb: over,
            disk_free_mb: disk,
            local,
            ..Sample::default()
        },
    }
}

/// Whether this program itself may compute on a graphics device: what keeps it busy is not known then.
fn computes_there() -> bool {
    #[cfg(feature = "serve")]
    let serves = serving::ON_GRAPHICS;
    #[cfg(not(feature = "serve"))]
    let serves = false;
    serves || cfg!(any(feature = "vulkan", feature = "metal", feature = "cuda"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READING: Reading = Reading {
        input_idle_ms: Some(5),
        other_load_permille: Some(900),
        on_battery: Some(true),
        battery_percent: Some(40),
        temperature_c: Some(90),
        gpu_busy_percent: Some(26),
        metered: Some(true),
        memory_free_mb: Some(100),
        memory_own_mb: Some(30),
        disk_free_mb: Some(7),
        own_cpu_permille: Some(0),
    };

    #[test]
    fn idle_counts_everything() {
        let settings = Settings::default();
        let sample = of(&READING, &settings, When::Idle, 0);
        assert_eq!((sample.input_idle_ms, sample.memory_free_mb), (Some(5), Some(130)), "what it has counts as free");
        assert_eq!((sample.on_battery, sample.metered), (Some(true), Some(true)));
        let busy = |percent| of(&Reading { gpu_busy_percent: percent, ..READING }, &settings, When::Idle, 0).gpu_in_use;
        let known = |used| (!computes_there()).then_some(used);
        assert_eq!((busy(Some(26)), busy(Some(25)), busy(None)), (known(true), known(false), None));
    }

    #[test]
    fn always_counts_what_could_harm() {
        let settings = Settings::default();
        let local = |celsius| {
            let sample = of(&Reading { temperature_c: Some(celsius), ..READING }, &settings, When::Always, 0);
            Sample { local: LocalTime::default(), ..sample }
        };
        let quiet = Sample { disk_free_mb: Some(7), ..Sample::default() };
        assert_eq!(local(90), quiet);
        assert_eq!(local(96), Sample { temperature_c: Some(96), ..quiet });
    }

    #[test]
    fn its_own_memory_counts_always() {
        let over = |when, most| of(&READING, &Settings::default(), when, most).memory_over_mb;
        for when in [When::Idle, When::Always] {
            assert_eq!([0, 29, 30].map(|most| over(when, most)), [None, Some(30), None]);
        }
    }
}
