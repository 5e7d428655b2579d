use super::schedule::{Days, MinuteOfDay};
use super::*;

const NOON: u64 = 12 * 3_600;

fn now() -> LocalTime {
    LocalTime::at(NOON, 0)
}

fn rate(limits: &Limits, peer: &str, lane: Lane) -> Option<u64> {
    limits.in_force(peer, now()).lanes[lane as usize].bytes_per_second
}

fn rule(peer: Option<&str>, lane: Option<Lane>, rate: u64) -> LimitRule {
    LimitRule { peer: peer.map(str::to_string), lane, bytes_per_second: Some(rate) }
}

fn at_noon(action: Action) -> Schedule {
    let hour = |hour| MinuteOfDay::new(hour, 0).expect("a time");
    Schedule { lane: Lane::Bulk, from: hour(11), to: hour(13), days: Days::ALL, action }
}

#[test]
fn in_a_configuration_what_names_a_peer_goes_before_what_does_not() {
    let rules = [rule(Some("beta"), Some(Lane::Bulk), 1), rule(None, Some(Lane::Bulk), 2), rule(None, None, 3)];
    let limits = Limits::new(&rules, &[]);
    assert_eq!((rate(&limits, "beta", Lane::Bulk), rate(&limits, "gamma", Lane::Bulk)), (Some(1), Some(2)));
    assert_eq!(limits.in_force("beta", now()).overall, Some(3));
    assert_eq!(rate(&limits, "beta", Lane::Normal), None);
}

#[test]
fn the_last_word_wins() {
    let mut limits = Limits::default();
    limits.set(Some("beta"), Some(Lane::Bulk), Some(5));
    limits.set(None, Some(Lane::Bulk), Some(7));
    assert_eq!(rate(&limits, "beta", Lane::Bulk), Some(7));
    limits.set(Some("beta"), Some(Lane::Bulk), None);
    assert_eq!((rate(&limits, "beta", Lane::Bulk), rate(&limits, "gamma", Lane::Bulk)), (None, Some(7)));

    let paused = |limits: &Limits, peer| limits.in_force(peer, now()).lanes.map(|lane| lane.paused);
    limits.pause(None, None, true);
    limits.pause(Some("beta"), Some(Lane::High), false);
    assert_eq!(paused(&limits, "beta"), [true, false, true, true]);
    limits.pause(None, None, false);
    assert_eq!(paused(&limits, "beta"), [false; 4]);
    limits.pause(Some("beta"), Some(Lane::High), true);
    limits.pause(None, Some(Lane::Bulk), true);
    assert_eq!(
        (paused(&limits, "beta"), paused(&limits, "gamma")),
        ([false, true, false, true], [false, false, false, true])
    );
}

#[test]
fn a_schedule_holds_beside_what_was_said_and_the_lower_rate_counts() {
    let mut limits = Limits::new(&[], &[at_noon(Action::Limit { bytes_per_second: 10 })]);
    let bulk = |limits: &Limits, at| limits.in_force("beta", LocalTime::at(at, 0)).lanes[Lane::Bulk as usize];
    assert_eq!(bulk(&limits, NOON), LaneLimit { bytes_per_second: Some(10), paused: false, scheduled: true });
    assert_eq!(bulk(&limits, NOON + 3_600), LaneLimit::default());
    limits.set(Some("beta"), Some(Lane::Bulk), Some(4));
    assert_eq!(bulk(&limits, NOON), LaneLimit { bytes_per_second: Some(4), paused: false, scheduled: false });

    let mut limits = Limits::new(&[], &[at_noon(Action::Pause)]);
    limits.pause(None, None, false);
    assert_eq!(bulk(&limits, NOON), LaneLimit { bytes_per_second: None, paused: true, scheduled: true });
    limits.pause(None, None, true);
    assert!(!bulk(&limits, NOON).scheduled && bulk(&limits, NOON).paused);
}
