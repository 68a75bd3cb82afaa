//! The decisions, one by one: a row of inputs, each with what comes out.

use base::{Machine, Millis, Outbox};
use owner::{HOLD_MS, Idle, LocalTime, OwnerInput, OwnerOrder, Sample, Settings, WhenActive, Why};

const AWAY: Sample = Sample {
    input_idle_ms: Some(3_600_000),
    other_load_permille: Some(20),
    on_battery: Some(false),
    temperature_c: Some(50),
    metered: Some(false),
    memory_free_mb: Some(8_000),
    memory_over_mb: None,
    disk_free_mb: Some(90_000),
    gpu_in_use: Some(false),
    local: LocalTime { weekday: owner::Weekday::Wed, minute_of_day: 600 },
};

/// One machine and its clock.
struct Bench {
    idle: Idle,
    now: Millis,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        Self { idle: Idle::new(settings), now: Millis(1_000_000) }
    }

    /// Feeds an input a second after the last one; the outputs as text.
    fn feed(&mut self, input: OwnerInput) -> String {
        self.now = self.now.plus(1_000);
        let mut out = Outbox::default();
        self.idle.step(self.now, input, &mut out);
        let texts: Vec<String> = out.drain().map(text).collect();
        texts.join(" ")
    }

    fn sample(&mut self, sample: Sample) -> String {
        self.feed(OwnerInput::Sample(sample))
    }

    /// So many samples until something comes out.
    fn until(&mut self, sample: Sample, most: u32) -> (u32, String) {
        let found = (1..=most).map(|i| (i, self.sample(sample))).find(|(_, text)| !text.is_empty());
        found.unwrap_or((most, String::new()))
    }
}

fn text(output: OwnerOrder) -> String {
    match output {
        OwnerOrder::Start { share } => format!("start:{share}"),
        OwnerOrder::Background { share } => format!("background:{share}"),
        OwnerOrder::Pause(why) => format!("pause:{why}"),
        OwnerOrder::Stop(why) => format!("stop:{why}"),
        OwnerOrder::Drain => "drain".into(),
        OwnerOrder::Changed(why) => format!("({why})"),
    }
}

const STARTS: &str = "start:1000 (working)";

#[test]
fn each_reason_stops_a_machine_and_is_named() {
    let check = |change: fn(&mut Sample), expect: &str| {
        let mut bench = Bench::new(|settings| settings.quiet_hours = "sat 00:00-24:00".parse().expect("a schedule"));
        assert_eq!(bench.sample(AWAY), STARTS);
        assert_eq!(bench.sample(AWAY), "", "nothing new");
        let mut sample = AWAY;
        change(&mut sample);
        assert_eq!(bench.sample(sample), format!("pause:{expect} ({expect})"));
        assert_eq!((bench.sample(sample).as_str(), bench.idle.share()), ("", None));
        assert_eq!(bench.idle.why().code(), expect);
    };
    check(|s| s.input_idle_ms = Some(0), "owner_active");
    check(|s| s.input_idle_ms = Some(59_000), "owner_active");
    check(|s| s.input_idle_ms = Some(61_000), "settling");
    check(|s| s.on_battery = Some(true), "on_battery");
    check(|s| s.temperature_c = Some(86), "hot");
    check(|s| s.metered = Some(true), "metered");
    check(|s| s.memory_free_mb = Some(1_023), "low_memory");
    check(|s| s.memory_over_mb = Some(401), "over_memory");
    check(|s| s.disk_free_mb = Some(2_047), "low_disk");
    check(|s| s.gpu_in_use = Some(true), "gpu_in_use");
    check(|s| s.local.weekday = owner::Weekday::Sat, "quiet_hours");
}

#[test]
fn what_the_owner_allows_is_no_reason() {
    let check = |allow: fn(&mut Settings), change: fn(&mut Sample)| {
        let mut sample = AWAY;
        change(&mut sample);
        assert_eq!(Bench::new(allow).sample(sample), STARTS);
    };
    check(|s| s.on_battery = true, |s| s.on_battery = Some(true));
    check(|s| s.metered = true, |s| s.metered = Some(true));
    check(|s| s.temperature_max_c = 95, |s| s.temperature_c = Some(95));
    check(|s| s.idle_after_ms = 0, |s| s.input_idle_ms = Some(0));
    check(|s| s.other_load_permille_max = 600, |s| s.other_load_permille = Some(600));
    // A machine of which nothing can be known works.
    check(|_| (), |s| *s = Sample::default());
}

#[test]
fn the_first_reason_is_the_one_that_lasts() {
    let mut bench = Bench::new(|settings| settings.quiet_hours = "wed 10:00-11:30".parse().expect("a schedule"));
    let mut sample = Sample { input_idle_ms: Some(5), on_battery: Some(true), gpu_in_use: Some(true), ..AWAY };
    assert_eq!(bench.sample(sample), "(quiet_hours)");
    assert_eq!(bench.idle.why().text(), "Quiet hours until Wed 11:30.");
    sample.local.minute_of_day = 690;
    assert_eq!(bench.sample(sample), "(owner_active)");
    sample.input_idle_ms = None;
    assert_eq!(bench.until(sample, 100), (60, "(on_battery)".into()), "which says more than that it settles");
}

#[test]
fn after_the_owner_it_waits_until_it_was_quiet_for_long_enough() {
    let mut bench = Bench::new(|_| ());
    assert_eq!(bench.sample(Sample { input_idle_ms: Some(0), ..AWAY }), "(owner_active)");
    let mut seen = Vec::new();
    for second in 1..=181 {
        let sample = Sample { input_idle_ms: Some(second * 1000), ..AWAY };
        let text = bench.sample(sample);
        if !text.is_empty() {
            seen.push((second, text));
        }
    }
    assert_eq!(seen, [(60, "(settling)".to_string()), (180, STARTS.to_string())]);
    // A desktop that goes away does not take the owner with it.
    assert_eq!(bench.sample(Sample { input_idle_ms: Some(10), ..AWAY }), "pause:owner_active (owner_active)");
    let blind = Sample { input_idle_ms: None, ..AWAY };
    assert_eq!(bench.until(blind, 300), (60, "(settling)".into()));
    assert_eq!(bench.until(blind, 300), (120, STARTS.into()));
}

#[test]
fn other_load_has_to_last_and_so_has_its_end() {
    let mut bench = Bench::new(|_| ());
    let load = |permille| Sample { other_load_permille: Some(permille), ..AWAY };
    assert_eq!(bench.sample(load(900)), "(busy_elsewhere)", "no start under load, be it a blink");
    assert_eq!(bench.sample(load(0)), STARTS);
    assert_eq!(bench.sample(load(900)), "");
    assert_eq!(bench.sample(load(0)), "");
    assert_eq!(bench.sample(load(900)), "");
    assert_eq!(bench.sample(load(900)), "pause:busy_elsewhere (busy_elsewhere)");
    assert_eq!(bench.idle.why(), Why::BusyElsewhere { permille: 900 });
    assert_eq!(bench.until(load(200), 100), (100, String::new()), "between the limits it stays");
    assert_eq!(bench.until(load(0), 100), (3, STARTS.into()));
}

#[test]
fn a_pause_by_the_machine_is_held() {
    let mut bench = Bench::new(|_| ());
    let hot = Sample { temperature_c: Some(90), ..AWAY };
    let holds: Vec<u32> = (0..4)
        .map(|_| {
            bench.until(AWAY, 400);
            bench.sample(hot);
            assert_eq!(bench.sample(AWAY), "(settling)");
            let (seconds, text) = bench.until(AWAY, 400);
            assert_eq!(text, STARTS);
            bench.sample(hot);
            assert_eq!(bench.sample(AWAY), "(settling)");
            1 + seconds
        })
        .collect();
    // Whom its own work stops tries less and less often, but never less than if the owner came by.
    assert_eq!(holds, [HOLD_MS as u32 / 1000, 120, 180, 180]);
    // Work that lasted makes good for it.
    bench.until(AWAY, 400);
    assert_eq!(bench.until(AWAY, 301), (301, String::new()));
    bench.sample(hot);
    bench.sample(AWAY);
    assert_eq!(bench.until(AWAY, 400), (29, STARTS.into()));
}

#[test]
fn the_owners_word_beats_all_until_it_is_taken_back() {
    let mut bench = Bench::new(|_| ());
    bench.sample(AWAY);
    assert_eq!(bench.feed(OwnerInput::Pause { until: None }), "pause:paused_by_owner (paused_by_owner)");
    assert_eq!(bench.until(AWAY, 10_000).1, "");
    assert_eq!(bench.feed(OwnerInput::Resume), "(settling)");
    assert_eq!(bench.sample(AWAY), STARTS);
    let until = Some(bench.now.plus(60_000));
    assert_eq!(bench.feed(OwnerInput::Pause { until }), "pause:paused_by_owner (paused_by_owner)");
    assert_eq!(bench.idle.why().until(), until);
    assert_eq!(bench.feed(OwnerInput::Pause { until }), "");
    assert_eq!(
        bench.feed(OwnerInput::Pause { until: Some(bench.now.plus(9_000)) }),
        "(paused_by_owner)",
        "another time"
    );
    assert_eq!(bench.until(AWAY, 100), (8, STARTS.into()));
    assert_eq!(bench.feed(OwnerInput::Resume), "", "nothing to take back");
    bench.sample(Sample { gpu_in_use: Some(true), ..AWAY });
    assert_eq!(bench.sample(AWAY), "(settling)");
    assert_eq!(bench.feed(OwnerInput::Resume), "");
    assert_eq!(bench.sample(AWAY), STARTS, "who says so does not wait");
}

#[test]
fn the_owner_who_resumes_is_still_there() {
    let mut bench = Bench::new(|_| ());
    bench.feed(OwnerInput::Pause { until: None });
    bench.feed(OwnerInput::Resume);
    assert_eq!(bench.sample(Sample { input_idle_ms: Some(100), ..AWAY }), "(owner_active)");
}

#[test]
fn in_the_background_it_goes_on_with_a_smaller_share() {
    let mut bench = Bench::new(|s| s.when_active = WhenActive::Background { share_permille: 250 });
    let back = Sample { input_idle_ms: Some(0), ..AWAY };
    let background = "background:250 (working_in_background)";
    assert_eq!(bench.sample(back), background);
    assert_eq!(bench.idle.share(), Some(250));
    assert_eq!(bench.sample(Sample { input_idle_ms: Some(1000), ..AWAY }), "");
    assert_eq!(bench.until(Sample { input_idle_ms: None, ..AWAY }, 300), (179, STARTS.into()));
    assert_eq!(bench.sample(back), background, "in the same step");
    let busy = Sample { other_load_permille: Some(400), ..back };
    assert_eq!(bench.sample(busy), "");
    assert_eq!(bench.sample(busy), "pause:busy_elsewhere (busy_elsewhere)");
    assert_eq!(bench.until(back, 100), (3, "(settling)".into()));
    assert_eq!(bench.until(back, 100), (27, background.into()));
    let mut settings = bench.idle.settings().clone();
    settings.when_active = WhenActive::Background { share_permille: 100 };
    bench.idle.adopt(settings);
    assert_eq!(bench.sample(back), "background:100");
    bench.idle.adopt(Settings::default());
    assert_eq!(bench.sample(back), "pause:owner_active (owner_active)");
}

#[test]
fn what_is_under_way_is_finished_and_nothing_new_begun() {
    let mut bench = Bench::new(|_| ());
    bench.sample(AWAY);
    assert_eq!(bench.feed(OwnerInput::Finish), "drain (draining)");
    assert_eq!(bench.feed(OwnerInput::Finish), "");
    let back = Sample { input_idle_ms: Some(0), ..AWAY };
    assert_eq!(bench.sample(back), "pause:owner_active (owner_active)", "the owner still comes first");
    bench.until(Sample { input_idle_ms: None, ..AWAY }, 60);
    assert_eq!(bench.until(Sample { input_idle_ms: None, ..AWAY }, 300).1, "start:1000 drain (draining)");
    assert_eq!(bench.feed(OwnerInput::Resume), "start:1000 (working)");
    bench.feed(OwnerInput::Finish);
    assert_eq!(bench.feed(OwnerInput::Down), "stop:draining (off)");
    assert_eq!(bench.sample(AWAY), "", "nothing comes after it");
    assert_eq!(bench.feed(OwnerInput::Resume), "");
}

#[test]
fn down_is_off() {
    let mut bench = Bench::new(|_| ());
    bench.sample(AWAY);
    assert_eq!(bench.feed(OwnerInput::Down), "stop:off (off)");
    assert_eq!((bench.idle.share(), bench.idle.why()), (None, Why::Off));
}

#[test]
fn a_clock_that_is_set_changes_nothing() {
    let mut bench = Bench::new(|_| ());
    bench.sample(AWAY);
    bench.sample(Sample { temperature_c: Some(90), ..AWAY });
    assert_eq!(bench.until(AWAY, 10), (1, "(settling)".into()));
    bench.now = Millis(0);
    assert_eq!(bench.until(AWAY, 100), (30, STARTS.into()), "one step is lost");
    bench.sample(Sample { input_idle_ms: Some(0), ..AWAY });
    bench.now = Millis(1 << 50);
    assert_eq!(bench.sample(Sample { input_idle_ms: Some(2_000), ..AWAY }), "", "the owner is still there");
}
