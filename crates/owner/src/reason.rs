//! Why a machine works or does not: a closed vocabulary, one reason at a time.

use crate::LocalTime;
use base::Millis;
use std::fmt;

/// The reason for what a machine does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It works for others.
    Working,
    /// It works with a smaller share while the owner uses it.
    WorkingInBackground,
    /// The program was not running.
    Off,
    /// The owner is there.
    OwnerActive {
        /// Since the last key, click or touch.
        idle_ms: u64,
    },
    /// Other programs need the processor.
    BusyElsewhere {
        /// Their share of all cores.
        permille: u32,
    },
    /// It runs on battery.
    OnBattery,
    /// It is too hot.
    Hot {
        /// The hottest sensor.
        celsius: i32,
    },
    /// The connection is paid by volume.
    Metered,
    /// The owner wants quiet at this time of the week.
    QuietHours {
        /// When they end, `None` where they cover the whole week.
        until: Option<LocalTime>,
    },
    /// The owner said so.
    PausedByOwner {
        /// When it goes on by itself.
        until: Option<Millis>,
    },
    /// Other programs need the memory.
    LowMemory {
        /// What is left.
        free_mb: u64,
    },
    /// The disk is nearly full.
    LowDisk {
        /// What is left.
        free_mb: u64,
    },
    /// Another program uses the graphics card.
    GpuInUse,
    /// It started, or was in use, a short while ago.
    Settling {
        /// Until it may start, if nothing happens.
        left_ms: u64,
    },
    /// It finishes what is under way and takes nothing new.
    Draining,
    /// No run to train in.
    NoRun,
    /// The run has reached its end.
    RunEnded,
    /// Its weights contradict those of the others, and it is decided who is right.
    Dispute,
    /// Nobody asks anything.
    NoQuestions,
    /// No model to serve.
    NoModel,
    /// There is a model, but the owner offers it to nobody.
    NotOffered,
    /// No peer can be reached.
    NetworkUnreachable,
    /// It fetches the state of the run or the chain.
    CatchingUp,
    /// The run goes on with others until there is a place, or its turn.
    WaitingForTurn,
    /// The program itself has more memory than it may.
    OverMemory {
        /// What it has.
        own_mb: u64,
    },
}

impl Why {
    /// Every reason, measured values left at 0. A reason keeps its place for ever; new ones come last.
    pub const ALL: [Why; 25] = [
        Why::Working,
        Why::WorkingInBackground,
        Why::Off,
        Why::OwnerActive { idle_ms: 0 },
        Why::BusyElsewhere { permille: 0 },
        Why::OnBattery,
        Why::Hot { celsius: 0 },
        Why::Metered,
        Why::QuietHours { until: None },
        Why::PausedByOwner { until: None },
        Why::LowMemory { free_mb: 0 },
        Why::LowDisk { free_mb: 0 },
        Why::GpuInUse,
        Why::Settling { left_ms: 0 },
        Why::Draining,
        Why::NoRun,
        Why::RunEnded,
        Why::Dispute,
        Why::NoQuestions,
        Why::NoModel,
        Why::NotOffered,
        Why::NetworkUnreachable,
        Why::CatchingUp,
        Why::WaitingForTurn,
        Why::OverMemory { own_mb: 0 },
    ];

    /// Its place in [`Why::ALL`].
    pub fn number(self) -> u8 {
        self.row().0
    }

    /// Its stable name.
    pub fn code(self) -> &'static str {
        self.row().1
    }

    /// What the owner could do about it, where there is anything.
    pub fn mend(self) -> Option<&'static str> {
        self.row().2
    }

    /// One plain sentence for the owner.
    pub fn text(self) -> String {
        match self {
            Why::Working => "It works for others.".into(),
            Why::WorkingInBackground => "It works in the background while the machine is in use.".into(),
            Why::Off => "The program was not running.".into(),
            Why::OwnerActive { .. } => "The machine is in use.".into(),
            Why::BusyElsewhere { permille } => {
                format!("Other programs use {} % of the processor.", permille.div_ceil(10))
            }
            Why::OnBattery => "The machine runs on battery.".into(),
            Why::Hot { celsius } => format!("The machine is hot: {celsius} °C."),
            Why::Metered => "The connection is metered.".into(),
            Why::QuietHours { until: Some(until) } => format!("Quiet hours until {until}."),
            Why::QuietHours { until: None } => "Quiet hours cover the whole week.".into(),
            Why::PausedByOwner { until: Some(_) } => "You paused it for a while; it goes on by itself.".into(),
            Why::PausedByOwner { until: None } => "You paused it.".into(),
            Why::LowMemory { free_mb } => format!("Only {free_mb} MB of memory are free."),
            Why::LowDisk { free_mb } => format!("Only {free_mb} MB of disk are free."),
            Why::GpuInUse => "Another program uses the graphics card.".into(),
            Why::Settling { left_ms } => {
                format!("It waits until the machine has been quiet for long enough, {} s more.", left_ms.div_ceil(1000))
            }
            Why::Draining => "It takes nothing new; what is under way is finished first.".into(),
            Why::NoRun => "There is no run to train in, or none that pays and has a place free.".into(),
            Why::RunEnded => "The run has ended.".into(),
            Why::Dispute => "Its weights differ from the others'; it is being decided who is right.".into(),
            Why::NoQuestions => "Nobody asks anything at the moment.".into(),
            Why::NoModel => "There is no model to serve.".into(),
            Why::NotOffered => "The model is not offered to others.".into(),
            Why::NetworkUnreachable => "No other machine can be reached.".into(),
            Why::CatchingUp => "It fetches what it needs to take part.".into(),
            Why::WaitingForTurn => "The run goes on with others until it is this machine's turn.".into(),
            Why::OverMemory { own_mb } => format!("It has {own_mb} MB of memory itself, more than memory_mb allows."),
        }
    }

    /// When it is known to end, on the clock of the machine.
    pub fn until(self) -> Option<Millis> {
        if let Why::PausedByOwner { until } = self { until } else { None }
    }

    /// Whether the machine may work.
    pub fn works(self) -> bool {
        matches!(self, Why::Working | Why::WorkingInBackground)
    }

    /// Whether the owner, being there or having said so, keeps the machine from work, and not the machine itself.
    pub fn by_owner(self) -> bool {
        matches!(
            self,
            Why::OwnerActive { .. } | Why::Settling { .. } | Why::PausedByOwner { .. } | Why::QuietHours { .. }
        )
    }

    /// The reason of a machine that may or may not work, of which it is known why it has no work.
    pub fn or_no_work(self, no_work: Option<Why>) -> Why {
        if self.works() { no_work.unwrap_or(self) } else { self }
    }

    /// Number, code, and what could be done.
    fn row(self) -> (u8, &'static str, Option<&'static str>) {
        match self {
            Why::Working => (0, "working", None),
            Why::WorkingInBackground => (1, "working_in_background", None),
            Why::Off => (2, "off", Some("Install it as a service, so that it runs after each start of the machine.")),
            Why::OwnerActive { .. } => {
                (3, "owner_active", Some("Let it go on in the background (when_active), or leave it alone."))
            }
            Why::BusyElsewhere { .. } => {
                (4, "busy_elsewhere", Some("Close what is not needed, or raise other_load_percent."))
            }
            Why::OnBattery => (5, "on_battery", Some("Plug it in, or set on_battery.")),
            Why::Hot { .. } => (6, "hot", Some("Give it air, or raise temperature_max_c.")),
            Why::Metered => (7, "metered", Some("Use another connection, or set metered.")),
            Why::QuietHours { .. } => (8, "quiet_hours", Some("Change the quiet hours.")),
            Why::PausedByOwner { .. } => (9, "paused_by_owner", Some("Say `talkoo resume`.")),
            Why::LowMemory { .. } => (10, "low_memory", Some("Close what is not needed, or lower memory_free_min_mb.")),
            Why::LowDisk { .. } => (11, "low_disk", Some("Delete what is not needed, or lower disk_free_min_mb.")),
            Why::GpuInUse => (12, "gpu_in_use", Some("Close the program that uses the graphics card.")),
            Why::Settling { .. } => (13, "settling", Some("Wait, or lower idle_minutes.")),
            Why::Draining => (14, "draining", Some("Say `talkoo resume` to take new work.")),
            Why::NoRun => (15, "no_run", Some("Start a run, or join one.")),
            Why::RunEnded => (16, "run_ended", Some("Join another run.")),
            Why::Dispute => (17, "dispute", Some("If it comes again, check the memory of the machine.")),
            Why::NoQuestions => (18, "no_questions", None),
            Why::NoModel => (19, "no_model", Some("Fetch a model, or train one.")),
            Why::NotOffered => (20, "not_offered", Some("Offer the model to others.")),
            Why::NetworkUnreachable => (21, "network_unreachable", Some("Look at the connection of the machine.")),
            Why::CatchingUp => (22, "catching_up", None),
            Why::WaitingForTurn => (23, "waiting_for_turn", None),
            Why::OverMemory { .. } => (24, "over_memory", Some("Raise memory_mb, or serve a smaller model.")),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_codes_are_unique_and_in_order() {
        let mut codes = BTreeSet::new();
        for (at, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(why.number()), at, "{why}");
            assert!(codes.insert(why.code()), "{why} twice");
            assert!(why.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{why}");
        }
    }

    #[test]
    fn every_reason_is_one_plain_sentence() {
        for why in Why::ALL {
            for text in std::iter::once(why.text()).chain(why.mend().map(String::from)) {
                assert!(text.starts_with(char::is_uppercase) && text.ends_with('.'), "{text}");
                assert!(text.matches(". ").count() == 0 && text.len() <= 90, "{text}");
            }
        }
    }

    #[test]
    fn measured_values_show() {
        let check = |why: Why, expect: &str| assert_eq!(why.text(), expect);
        check(Why::BusyElsewhere { permille: 401 }, "Other programs use 41 % of the processor.");
        check(Why::Hot { celsius: 91 }, "The machine is hot: 91 °C.");
        check(Why::LowMemory { free_mb: 12 }, "Only 12 MB of memory are free.");
        let until = LocalTime::of_week(17 * 60);
        check(Why::QuietHours { until: Some(until) }, "Quiet hours until Mon 17:00.");
        assert_eq!(Why::PausedByOwner { until: Some(Millis(5)) }.until(), Some(Millis(5)));
    }

    #[test]
    fn what_stops_the_machine_goes_before_what_it_lacks() {
        let check = |why: Why, no_work, expect| assert_eq!(why.or_no_work(no_work), expect);
        check(Why::Working, None, Why::Working);
        check(Why::Working, Some(Why::NoRun), Why::NoRun);
        check(Why::WorkingInBackground, Some(Why::NoQuestions), Why::NoQuestions);
        check(Why::OnBattery, Some(Why::NoRun), Why::OnBattery);
    }
}
