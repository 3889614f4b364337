//! One by one, and under random interleavings.

use proptest::prelude::*;

use super::*;

const fn at(millis: u64) -> Moment {
    Moment::from_millis(1_000_000 + millis)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn grant(life: u64, renewable: bool) -> Grant {
    Grant {
        life: Some(seconds(life)),
        renewable,
    }
}

fn unreachable() -> Failure {
    Failure::new(Class::Unreachable, "down", "wait")
}

fn denied() -> Failure {
    Failure::new(Class::NotAuthenticated, "no", "ask")
}

fn start<T: std::fmt::Debug>(need: Need<T>) -> Flight {
    match need {
        Need::Wait {
            start: Some(flight),
        } => flight,
        other => panic!("no errand: {other:?}"),
    }
}

fn lent(need: Need<u32>) -> (u32, u64) {
    match need {
        Need::Use(lent) => (lent.token, lent.generation),
        other => panic!("no token: {other:?}"),
    }
}

/// A login that holds token 1 since 0.
fn held(kind: Kind, grant: Grant) -> Login<u32> {
    let mut login = Login::new(kind, at(0));
    let flight = start(login.need(at(0)));
    assert_eq!(
        login.landed(at(0), flight, Landing::Obtained { token: 1, grant }, 1.0),
        None
    );
    login
}

#[test]
fn many_who_need_it_share_one_login() {
    let mut login = Login::<u32>::new(Kind::Minted, at(0));
    let flight = start(login.need(at(0)));
    for _ in 0..100 {
        assert_eq!(login.need(at(5)), Need::Wait { start: None });
    }
    let landing = Landing::Obtained {
        token: 7,
        grant: grant(60, true),
    };
    login.landed(at(10), flight, landing, 0.5);
    assert_eq!(lent(login.need(at(11))), (7, 1));
    assert_eq!(login.counters.logins, 1);
}

#[test]
fn renewed_at_two_thirds_until_it_gives_less_then_replaced() {
    let mut login = held(Kind::Minted, grant(60, true));
    assert_eq!(login.due(at(0)), Some(at(40_000)));
    assert_eq!(login.tick(at(39_000)), None);
    let flight = login.tick(at(40_000)).unwrap();
    assert_eq!(flight.errand, Errand::Renew);
    login.landed(at(40_100), flight, Landing::Renewed(grant(60, true)), 1.0);
    assert_eq!(login.counters.renewals, 1);
    let flight = login.tick(at(80_000)).unwrap();
    assert_eq!(flight.errand, Errand::Renew);
    login.landed(at(80_000), flight, Landing::Renewed(grant(15, true)), 1.0);
    let flight = login.tick(at(90_000)).unwrap();
    assert_eq!(flight.errand, Errand::LogIn, "renewal ends");
    let landing = Landing::Obtained {
        token: 2,
        grant: grant(60, true),
    };
    assert_eq!(login.landed(at(90_000), flight, landing, 1.0), Some(1));
    assert_eq!(lent(login.need(at(90_000))), (2, 2));
}

#[test]
fn a_refused_renewal_is_followed_by_a_login_at_once() {
    let mut login = held(Kind::Minted, grant(60, true));
    let flight = login.tick(at(40_000)).unwrap();
    login.landed(at(40_010), flight, Landing::Failed(denied()), 0.5);
    assert_eq!(lent(login.need(at(40_020))), (1, 1), "it still lives");
    let due = login.due(at(40_020)).unwrap();
    assert!(due <= at(40_300));
    assert_eq!(login.tick(due).unwrap().errand, Errand::LogIn);
}

#[test]
fn a_renewal_that_cannot_be_asked_for_is_tried_again_then_replaced() {
    let mut login = held(Kind::Minted, grant(60, true));
    let (mut now, mut errands) = (at(0), Vec::new());
    while login.view(at(0)).expires_in.is_some() {
        now = login.due(now).unwrap();
        if let Some(flight) = login.tick(now) {
            errands.push(flight.errand);
            login.landed(now, flight, Landing::Failed(unreachable()), 0.5);
        }
    }
    assert_eq!(errands.first(), Some(&Errand::Renew));
    assert_eq!(errands.last(), Some(&Errand::LogIn));
    assert!(errands.len() < 10, "{errands:?}");
}

#[test]
fn never_used_past_its_end() {
    let mut login = held(Kind::Minted, grant(10, false));
    assert_eq!(lent(login.need(at(8_900))), (1, 1));
    assert!(matches!(
        login.need(at(9_100)),
        Need::Wait { start: Some(_) }
    ));
}

#[test]
fn a_failed_login_is_remembered() {
    let mut login = Login::<u32>::new(Kind::Minted, at(0));
    let flight = start(login.need(at(0)));
    login.landed(at(1), flight, Landing::Failed(denied()), 0.5);
    assert_eq!(login.need(at(900)), Need::Fail(denied()));
    let flight = start(login.need(at(1_100)));
    login.landed(at(1_101), flight, Landing::Failed(denied()), 0.5);
    assert_eq!(login.need(at(2_900)), Need::Fail(denied()));
    login.forgive(at(2_900));
    start(login.need(at(2_900)));
}

#[test]
fn the_secret_manager_s_wish_is_heard() {
    let mut login = Login::<u32>::new(Kind::Minted, at(0));
    let flight = start(login.need(at(0)));
    let mut failure = Failure::new(Class::Throttled, "slowly", "wait");
    failure.retry_after = Some(seconds(20));
    login.landed(at(0), flight, Landing::Failed(failure.clone()), 0.5);
    assert_eq!(login.need(at(19_000)), Need::Fail(failure));
}

#[test]
fn a_denial_costs_one_login() {
    let mut login = held(Kind::Minted, grant(3600, true));
    let flight = start(login.doubt(at(100), 1, Doubt::Denied));
    assert_eq!(
        login.doubt(at(110), 1, Doubt::Denied),
        Need::Wait { start: None }
    );
    let landing = Landing::Obtained {
        token: 2,
        grant: grant(3600, true),
    };
    login.landed(at(120), flight, landing, 0.5);
    assert_eq!(lent(login.doubt(at(130), 1, Doubt::Denied)), (2, 2));
    assert_eq!(
        lent(login.doubt(at(140), 2, Doubt::Denied)),
        (2, 2),
        "it is the policy"
    );
    assert_eq!(lent(login.doubt(at(50_000), 2, Doubt::Denied)), (2, 2));
    assert_eq!(login.counters.logins, 2);
}

#[test]
fn a_login_that_fails_after_a_denial_leaves_the_token_to_others() {
    let mut login = held(Kind::Minted, grant(3600, true));
    let flight = start(login.doubt(at(100), 1, Doubt::Denied));
    login.landed(at(120), flight, Landing::Failed(denied()), 0.5);
    assert_eq!(login.doubt(at(130), 1, Doubt::Denied), Need::Fail(denied()));
    assert_eq!(lent(login.need(at(130))), (1, 1));
}

#[test]
fn a_revoked_token_that_had_served_is_replaced_at_once_each_time() {
    let mut login = held(Kind::Minted, grant(3600, true));
    for generation in 1..5 {
        let now = at(generation * 6_000);
        login.worked(generation);
        let flight = start(login.doubt(now, generation, Doubt::Dead));
        let landing = Landing::Obtained {
            token: 10 + u32::try_from(generation).unwrap(),
            grant: grant(3600, true),
        };
        assert_eq!(
            login.landed(now, flight, landing, 0.5),
            None,
            "it is dead already"
        );
    }
}

#[test]
fn a_given_token_is_renewed_and_never_replaced_or_given_back() {
    let mut login = held(Kind::Given, grant(60, true));
    let flight = login.tick(at(40_000)).unwrap();
    assert_eq!(flight.errand, Errand::Renew);
    login.landed(at(40_000), flight, Landing::Failed(denied()), 0.5);
    let mut now = at(40_000);
    while let Some(due) = login.due(now) {
        now = due;
        assert_eq!(login.tick(now), None);
    }
    assert_eq!(login.close(), None);
}

#[test]
fn a_given_token_that_is_dead_is_looked_at_again_in_its_file() {
    let mut login = held(Kind::Given, grant(3600, true));
    let flight = start(login.doubt(at(10), 1, Doubt::Dead));
    login.landed(at(20), flight, Landing::Failed(denied()), 0.5);
    assert_eq!(login.need(at(30)), Need::Fail(denied()));
    let flight = start(login.need(at(2_000)));
    let landing = Landing::Obtained {
        token: 2,
        grant: grant(60, true),
    };
    login.landed(at(2_000), flight, landing, 0.5);
    assert_eq!(lent(login.need(at(2_001))), (2, 2));
}

#[test]
fn what_lands_after_the_end_is_given_back() {
    let mut login = Login::<u32>::new(Kind::Minted, at(0));
    let flight = start(login.need(at(0)));
    assert_eq!(login.close(), None);
    let landing = Landing::Obtained {
        token: 9,
        grant: grant(60, true),
    };
    assert_eq!(login.landed(at(5), flight, landing, 0.5), Some(9));
    assert_eq!(login.need(at(6)), Need::Wait { start: None });
}

#[test]
fn an_unused_login_lapses() {
    let mut login = held(Kind::Minted, grant(60, true));
    let mut now = at(0);
    let mut turns = 0;
    while let Some(due) = login.due(now) {
        now = due;
        if let Some(flight) = login.tick(now) {
            turns += 1;
            login.landed(now, flight, Landing::Renewed(grant(60, true)), 0.5);
        }
    }
    assert!((20..30).contains(&turns), "{turns}");
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Need,
    Doubt(bool),
    Tick,
    Land {
        good: bool,
        life: u64,
        renewable: bool,
        transient: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..20_000).prop_map(Step::Pass),
        (0u64..300).prop_map(Step::Pass),
        Just(Step::Need),
        any::<bool>().prop_map(Step::Doubt),
        Just(Step::Tick),
        (any::<bool>(), 1u64..100, any::<bool>(), any::<bool>()).prop_map(
            |(good, life, renewable, transient)| Step::Land {
                good,
                life,
                renewable,
                transient
            }
        ),
    ]
}

proptest! {
    /// One errand at a time, never two within the spacing except for a budgeted denial, and no
    /// token past its end.
    #[test]
    fn interleavings(
        steps in prop::collection::vec(step(), 1..400),
        minted in any::<bool>(),
        jitter in 0.0f64..1.0,
    ) {
        let kind = if minted { Kind::Minted } else { Kind::Given };
        let mut login = Login::<u32>::new(kind, at(0));
        let (mut now, mut token) = (at(0), 0);
        let mut flying: Option<Flight> = None;
        let mut starts: Vec<Moment> = Vec::new();
        let mut ends: std::collections::HashMap<u32, Moment> = Default::default();
        let (mut current, mut denials) = (0, 0);
        for step in steps {
            let mut begun = None;
            let mut seen = None;
            match step {
                Step::Pass(millis) => now = now + Duration::from_millis(millis),
                Step::Tick => begun = login.tick(now),
                Step::Need | Step::Doubt(_) => {
                    let need = match step {
                        Step::Doubt(true) => { denials += 1; login.doubt(now, current, Doubt::Denied) }
                        Step::Doubt(false) => { denials += 1; login.doubt(now, current, Doubt::Dead) }
                        _ => login.need(now),
                    };
                    match need {
                        Need::Use(lent) => seen = Some(lent),
                        Need::Wait { start } => begun = start,
                        Need::Fail(_) => {}
                    }
                }
                Step::Land { good, life, renewable, transient } => {
                    let Some(flight) = flying.take() else { continue };
                    let landing = match (good, flight.errand) {
                        (false, _) => Landing::Failed(if transient { unreachable() } else { denied() }),
                        (true, Errand::LogIn) => {
                            token += 1;
                            ends.insert(token, flight.began + seconds(life));
                            Landing::Obtained { token, grant: grant(life, renewable) }
                        }
                        (true, Errand::Renew) => {
                            ends.insert(token, flight.began + seconds(life));
                            Landing::Renewed(grant(life, renewable))
                        }
                    };
                    login.landed(now, flight, landing, jitter);
                }
            }
            if let Some(lent) = seen {
                prop_assert!(now < ends[&lent.token], "past its end");
                current = lent.generation;
                login.worked(current);
            }
            if let Some(flight) = begun {
                prop_assert!(flying.is_none(), "two errands at once");
                flying = Some(flight);
                starts.push(now);
            }
        }
        let close = starts.windows(2).filter(|w| w[1].since(w[0]) < SPACING).count();
        prop_assert!(close <= denials.min(12), "{close} errands too close together");
    }

    /// However often it is asked, a secret manager that always says no hears little of it.
    #[test]
    fn no_hammering(gap in 1u64..500, transient in any::<bool>(), jitter in 0.0f64..1.0) {
        let mut login = Login::<u32>::new(Kind::Minted, at(0));
        let (mut now, mut errands) = (at(0), 0);
        while now < at(600_000) {
            let flight = match login.need(now) {
                Need::Wait { start } => start,
                _ => login.tick(now),
            };
            if let Some(flight) = flight {
                errands += 1;
                let failure = if transient { unreachable() } else { denied() };
                login.landed(now, flight, Landing::Failed(failure), jitter);
            }
            now = now + Duration::from_millis(gap);
        }
        prop_assert!(errands <= 28, "{errands} errands in ten minutes");
    }

    /// A policy that denies for an hour costs a handful of logins.
    #[test]
    fn denials_are_budgeted(gap in 10u64..5_000, dead in any::<bool>()) {
        let mut login = held(Kind::Minted, grant(100_000, true));
        let doubt = if dead { Doubt::Dead } else { Doubt::Denied };
        let (mut now, mut current, mut token) = (at(0), 1, 1);
        while now < at(3_600_000) {
            match login.doubt(now, current, doubt) {
                Need::Wait { start: Some(flight) } => {
                    token += 1;
                    let landing = Landing::Obtained { token, grant: grant(100_000, true) };
                    login.landed(now, flight, landing, 0.5);
                }
                Need::Use(lent) => current = lent.generation,
                _ => {}
            }
            now = now + Duration::from_millis(gap);
        }
        prop_assert!(login.counters.logins <= 9, "{}", login.counters.logins);
    }
}
