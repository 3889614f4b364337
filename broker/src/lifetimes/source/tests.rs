//! The life of a source, step by step.

use super::*;
use crate::errors::Class;

type Machine = Source<&'static str>;

const TTL: u64 = 300;

fn machine() -> Machine {
    Source::new(
        Rules {
            ttl: secs(TTL),
            grace: secs(3600),
        },
        0,
        at(0),
    )
}

fn at(seconds: u64) -> Moment {
    Moment::from_millis(seconds * 1000)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn failure(class: Class) -> Failure {
    Failure::new(class, "cause", "step")
}

/// A question that has to start a flight.
fn take_off(verdict: Verdict<&'static str>) -> FlightId {
    match verdict {
        Verdict::Wait {
            start: Some(flight),
            ..
        } => flight,
        other => panic!("{other:?}"),
    }
}

fn served(verdict: Verdict<&'static str>) -> (&'static str, u64) {
    match verdict {
        Verdict::Serve(served) => (served.credential, served.revision),
        other => panic!("{other:?}"),
    }
}

fn fetched(credential: &'static str) -> Landing<&'static str> {
    Landing::Fetched {
        credential,
        life: Life::default(),
    }
}

/// A machine that has fetched `credential` at `now`.
fn holding(credential: &'static str, now: Moment) -> Machine {
    let mut source = machine();
    let flight = take_off(source.ask(now));
    assert!(source.landed(now, flight, fetched(credential), 0.5));
    source
}

#[test]
fn one_flight_however_many_ask() {
    let mut source = machine();
    let flight = take_off(source.ask(at(1)));
    for _ in 0..100 {
        assert_eq!(
            source.ask(at(1)),
            Verdict::Wait {
                start: None,
                meanwhile: None
            }
        );
    }
    source.landed(at(2), flight, fetched("a"), 0.5);
    assert_eq!(served(source.ask(at(2))), ("a", 1));
    assert_eq!(source.counters.fetches, 1);
}

#[test]
fn a_warm_source_is_refreshed_ahead_and_nobody_waits() {
    let mut source = holding("a", at(0));
    let mut now = 0;
    let mut fetches = 1;
    // A thousand TTLs, a question every five seconds.
    while now < 1000 * TTL {
        now += 5;
        if let Some(flight) = source.tick(at(now)) {
            // It may take some seconds; questions are served meanwhile.
            assert_eq!(served(source.ask(at(now))), ("a", 1));
            source.landed(
                at(now),
                flight,
                fetched("a"),
                f64::from(fetches % 100) / 100.0,
            );
            fetches += 1;
        }
        assert_eq!(served(source.ask(at(now))), ("a", 1));
    }
    assert!((1100..1400).contains(&fetches), "{fetches}");
}

#[test]
fn nothing_is_refreshed_for_nobody() {
    let mut source = holding("a", at(0));
    assert!(source.due(at(100)).is_some());
    assert_eq!(source.tick(at(TTL * 10)), None);
    // What was not refreshed is fetched when somebody comes, and he need not wait for ever.
    match source.ask(at(TTL * 10)) {
        Verdict::Wait {
            start: Some(_),
            meanwhile: Some(meanwhile),
        } => assert_eq!(meanwhile.credential, "a"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stated_expiry_wins() {
    let mut source = machine();
    let flight = take_off(source.ask(at(0)));
    let life = Life {
        expires_in: Some(secs(90)),
        recheck_in: None,
    };
    source.landed(
        at(0),
        flight,
        Landing::Fetched {
            credential: "a",
            life,
        },
        1.0,
    );
    // A third of its life, at most a minute, is left when an answer is given.
    assert_eq!(served(source.ask(at(59))).0, "a");
    let flight = take_off(source.ask(at(60)));
    source.landed(
        at(61),
        flight,
        Landing::Failed(failure(Class::Unreachable)),
        0.5,
    );
    match source.ask(at(61)) {
        Verdict::Serve(served) => assert!(served.max_age <= secs(5)),
        other => panic!("{other:?}"),
    }
    match source.ask(at(90)) {
        Verdict::Serve(_) => panic!("served past its expiry"),
        _ => assert_eq!(source.view(at(90)).age, None, "wiped"),
    }
}

#[test]
fn transient_failures_serve_stale_within_a_bound() {
    let mut source = holding("a", at(0));
    let mut now = TTL;
    let flight = take_off(source.ask(at(now)));
    source.landed(
        at(now),
        flight,
        Landing::Failed(failure(Class::Sealed)),
        0.5,
    );
    let mut attempts = 1;
    while now < TTL + 3599 {
        now += 1;
        if let Some(flight) = source.tick(at(now)) {
            source.landed(
                at(now),
                flight,
                Landing::Failed(failure(Class::Sealed)),
                0.5,
            );
            attempts += 1;
        }
        assert_eq!(served(source.ask(at(now))).0, "a");
        assert_eq!(source.view(at(now)).state, State::Stale);
    }
    assert!(attempts < 75, "{attempts} attempts in an hour");
    match source.ask(at(TTL + 3600)) {
        Verdict::Serve(_) => panic!("immortal"),
        _ => assert_eq!(source.view(at(TTL + 3600)).state, State::Failing),
    }
}

#[test]
fn final_failures_end_it_at_once() {
    for class in [
        Class::NotPermitted,
        Class::NotFound,
        Class::BadSecret,
        Class::NotAuthenticated,
    ] {
        let mut source = holding("a", at(0));
        let flight = source
            .tick(at(TTL))
            .unwrap_or_else(|| take_off(source.ask(at(TTL))));
        source.landed(at(TTL), flight, Landing::Failed(failure(class)), 0.5);
        assert_eq!(source.ask(at(TTL)), Verdict::Fail(failure(class)));
    }
}

#[test]
fn failures_are_remembered_briefly_with_growing_pauses() {
    let mut source = machine();
    let mut now = at(0);
    let mut flight = take_off(source.ask(now));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        source.landed(
            now,
            flight,
            Landing::Failed(failure(Class::Unreachable)),
            0.5,
        );
        let from = now;
        flight = loop {
            match source.ask(now) {
                Verdict::Fail(_) => now = now + Duration::from_millis(100),
                verdict => break take_off(verdict),
            }
        };
        pauses.push(now.since(from).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn the_secret_manager_s_own_wish_is_honoured() {
    let mut source = machine();
    let flight = take_off(source.ask(at(0)));
    let wish = Failure {
        retry_after: Some(secs(30)),
        ..failure(Class::Throttled)
    };
    source.landed(at(0), flight, Landing::Failed(wish.clone()), 0.5);
    assert_eq!(source.ask(at(29)), Verdict::Fail(wish));
    take_off(source.ask(at(30)));
}

#[test]
fn fifty_rejections_are_one_refetch() {
    let mut source = holding("a", at(0));
    let flight = take_off(source.reject(at(10), 1, 401));
    for _ in 0..49 {
        assert_eq!(
            source.reject(at(10), 1, 401),
            Verdict::Wait {
                start: None,
                meanwhile: None
            }
        );
    }
    assert!(source.landed(at(11), flight, fetched("b"), 0.5));
    for _ in 0..50 {
        assert_eq!(served(source.ask(at(11))), ("b", 2));
    }
    // Who comes late with the old revision gets the new one without another fetch.
    assert_eq!(served(source.reject(at(12), 1, 401)), ("b", 2));
    assert_eq!(source.counters.fetches, 2);
}

#[test]
fn a_permanent_403_costs_one_refetch_and_never_starves_a_401() {
    let mut source = holding("a", at(0));
    let flight = take_off(source.reject(at(10), 1, 403));
    assert!(!source.landed(at(10), flight, fetched("a"), 0.5));
    for _ in 0..19 {
        assert_eq!(served(source.reject(at(11), 1, 403)), ("a", 1));
    }
    assert_eq!(source.counters.fetches, 2);
    take_off(source.reject(at(11), 1, 401));
}

#[test]
fn a_rotation_window_recovers_by_itself() {
    // The server has the new password already, the secret manager not yet.
    let mut source = holding("a", at(0));
    let flight = take_off(source.reject(at(1), 1, 401));
    source.landed(at(1), flight, fetched("a"), 0.5);
    assert_eq!(served(source.reject(at(2), 1, 401)), ("a", 1));
    let flight = take_off(source.reject(at(6), 1, 401));
    assert!(source.landed(at(6), flight, fetched("b"), 0.5));
    assert_eq!(served(source.ask(at(6))), ("b", 2));
}

#[test]
fn what_was_under_way_at_a_flush_is_not_taken() {
    let mut source = machine();
    let old = take_off(source.ask(at(0)));
    source.flush();
    let new = take_off(source.ask(at(1)));
    assert!(!source.landed(at(2), old, fetched("old"), 0.5));
    assert_eq!(
        source.ask(at(2)),
        Verdict::Wait {
            start: None,
            meanwhile: None
        }
    );
    source.landed(at(3), new, fetched("new"), 0.5);
    assert_eq!(served(source.ask(at(3))).0, "new");
}

#[test]
fn a_suspend_ages_nothing_beyond_what_it_is_and_makes_nothing_immortal() {
    let mut source = holding("a", at(0));
    // Eight hours later: neither served as fresh nor as stale.
    match source.ask(at(8 * 3600)) {
        Verdict::Wait {
            start: Some(_),
            meanwhile: None,
        } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn unchanged_keeps_the_revision_and_the_credential() {
    let mut source = holding("a", at(0));
    let flight = take_off(source.ask(at(TTL)));
    assert!(!source.landed(
        at(TTL),
        flight,
        Landing::Unchanged {
            life: Life::default()
        },
        0.5
    ));
    assert_eq!(served(source.ask(at(TTL + 1))), ("a", 1));
    assert_eq!(source.counters.fetches, 1);
}
