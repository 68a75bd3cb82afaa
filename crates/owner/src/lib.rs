//! The owner comes first: when a machine may work for others, and why it does not: pure, no IO, no clock.
//!
//! A driver measures the machine about once a second and feeds each [`Sample`] to [`Idle`], which answers with what to
//! do and with the reason in force, a [`Why`]. [`Minutes`] gives every millisecond to exactly one reason, and
//! [`forecast()`] says what the next day is likely to earn and how wrong it was so far.
//!
//! *Goals*: the owner's return stops the work in the same step; nothing that cannot be measured counts against working;
//! no flapping; each minute explained in words. *Non-goals*: measuring, enforcing caps on threads or memory, money.
//!
//! ```
//! use base::{Machine, Millis, Outbox};
//! use owner::{Idle, OwnerInput, OwnerOrder, Sample, Settings, Why};
//! let (mut idle, mut out) = (Idle::new(Settings::default()), Outbox::default());
//! let away = Sample { input_idle_ms: Some(600_000), ..Sample::default() };
//! idle.step(Millis(1_000), OwnerInput::Sample(away), &mut out);
//! assert_eq!(out.drain().next(), Some(OwnerOrder::Start { share: 1_000 }));
//! let back = Sample { input_idle_ms: Some(20), ..Sample::default() };
//! idle.step(Millis(2_000), OwnerInput::Sample(back), &mut out);
//! assert_eq!(out.drain().next(), Some(OwnerOrder::Pause(Why::OwnerActive { idle_ms: 20 })));
//! assert_eq!(idle.why().text(), "The machine is in use.");
//! ```

mod forecast;
mod idle;
mod minutes;
mod reason;
mod sample;
mod schedule;
mod settings;
mod signal;
mod unpaid;

pub use forecast::{Day, Forecast, forecast};
pub use idle::{ACTIVE_MS, HOLD_MS, Idle, OwnerInput, OwnerOrder, SHARE_ALL};
pub use minutes::{DAY_MS, DAYS_MAX, Minutes};
pub use reason::Why;
pub use sample::{HEAT_MARGIN_C, Sample};
pub use schedule::{DAY_MINUTES, LocalTime, SPANS_MAX, ScheduleError, WEEK_MINUTES, WeekSchedule, Weekday};
pub use settings::{Settings, SettingsError, WhenActive};
pub use signal::OwnerSignal;
pub use unpaid::Unpaid;
