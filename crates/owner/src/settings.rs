//! What the owner allows.

use crate::WeekSchedule;
use thiserror::Error;

/// Limits within which a machine may work for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The owner counts as gone so long after the last key, click or touch.
    pub idle_after_ms: u64,
    /// What other programs may use of all cores while it works.
    pub other_load_permille_max: u32,
    /// Whether it may work on battery.
    pub on_battery: bool,
    /// Whether it may work over a metered connection.
    pub metered: bool,
    /// It pauses above this.
    pub temperature_max_c: i32,
    /// Memory that stays free for others.
    pub memory_free_min_mb: u64,
    /// Disk that stays free.
    pub disk_free_min_mb: u64,
    /// What it does while the owner is there.
    pub when_active: WhenActive,
    /// When it never works.
    pub quiet_hours: WeekSchedule,
}

/// What a machine does while its owner uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenActive {
    /// Nothing for others.
    #[default]
    Pause,
    /// It goes on at low priority.
    Background {
        /// Of the threads that it may use at all.
        share_permille: u32,
    },
}

/// Why settings cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting} is {value}: expected {expected}")]
pub struct SettingsError {
    /// Which.
    pub setting: &'static str,
    /// What it says.
    pub value: i64,
    /// What it may say.
    pub expected: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_after_ms: 3 * 60_000,
            other_load_permille_max: 250,
            on_battery: false,
            metered: false,
            temperature_max_c: 85,
            memory_free_min_mb: 1024,
            disk_free_min_mb: 2048,
            when_active: WhenActive::Pause,
            quiet_hours: WeekSchedule::default(),
        }
    }
}

impl Settings {
    /// Refuses what would never work, or never stop.
    pub fn check(&self) -> Result<(), SettingsError> {
        let fail = |setting, value: i64, expected| Err(SettingsError { setting, value, expected });
        if self.idle_after_ms > IDLE_AFTER_MS_MAX {
            let value = i64::try_from(self.idle_after_ms).unwrap_or(i64::MAX);
            return fail("idle_after_ms", value, "at most a day, 86400000");
        }
        if !(1..=1000).contains(&self.other_load_permille_max) {
            return fail("other_load_permille_max", self.other_load_permille_max.into(), "1 to 1000");
        }
        if !(30..=110).contains(&self.temperature_max_c) {
            return fail("temperature_max_c", self.temperature_max_c.into(), "30 to 110");
        }
        match self.when_active {
            WhenActive::Background { share_permille } if !(1..=1000).contains(&share_permille) => {
                fail("share_permille", share_permille.into(), "1 to 1000")
            }
            _ => Ok(()),
        }
    }
}

/// A machine that waits for longer never works.
const IDLE_AFTER_MS_MAX: u64 = 24 * 60 * 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        let check = |change: fn(&mut Settings), expect: Option<&str>| {
            let mut settings = Settings::default();
            change(&mut settings);
            assert_eq!(settings.check().err().map(|error| error.to_string()).as_deref(), expect);
        };
        check(|_| (), None);
        check(|s| s.idle_after_ms = 0, None);
        check(|s| s.idle_after_ms = 1 << 40, Some("idle_after_ms is 1099511627776: expected at most a day, 86400000"));
        check(|s| s.other_load_permille_max = 1001, Some("other_load_permille_max is 1001: expected 1 to 1000"));
        check(|s| s.temperature_max_c = -5, Some("temperature_max_c is -5: expected 30 to 110"));
        check(|s| s.when_active = WhenActive::Background { share_permille: 250 }, None);
        check(
            |s| s.when_active = WhenActive::Background { share_permille: 0 },
            Some("share_permille is 0: expected 1 to 1000"),
        );
    }
}
