//! What holds however ticks, failures, rotations, rejections and flushes are interleaved.

use proptest::prelude::*;

use super::*;
use crate::errors::Class;

/// The world around a source: a secret that rotates, and a secret manager with its moods.
#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Ask,
    Reject { stale_by: u64, status: u16 },
    Rotate,
    Land(Mood),
    Flush,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    Good,
    Expiring(u64),
    Transient,
    Final,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let mood = prop_oneof![
        4 => Just(Mood::Good),
        2 => (1..600u64).prop_map(Mood::Expiring),
        2 => Just(Mood::Transient),
        1 => Just(Mood::Final),
    ];
    let event = prop_oneof![
        4 => prop_oneof![1..2_000u64, 1_000..400_000u64, Just(4_000_000u64)].prop_map(Event::Pass),
        6 => Just(Event::Ask),
        2 => (0..3u64, prop_oneof![Just(401u16), Just(403u16)]).prop_map(|(stale_by, status)| Event::Reject { stale_by, status }),
        1 => Just(Event::Rotate),
        4 => mood.prop_map(Event::Land),
        1 => Just(Event::Flush),
    ];
    prop::collection::vec(event, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants(events in events(), jitter in 0.0..1.0f64) {
        let rules = Rules { ttl: Duration::from_secs(300), grace: Duration::from_secs(3600) };
        let mut now = Moment::from_millis(1);
        let mut source = Source::<u64>::new(rules, 0, now);
        let mut secret = 0u64;
        let mut flight: Option<FlightId> = None;
        let mut under_way = 0u32;
        let mut last_revision = 0u64;
        // When the held credential was confirmed, and its stated end.
        let mut confirmed = now;
        let mut expires: Option<Moment> = None;
        let mut starts: Vec<Moment> = Vec::new();
        let mut refetch_rights = 0u32;

        for event in events {
            let mut verdict = None;
            match event {
                Event::Pass(millis) => {
                    now = now + Duration::from_millis(millis);
                    if let Some(id) = source.tick(now) {
                        under_way += 1;
                        flight = Some(id);
                        starts.push(now);
                    }
                }
                Event::Ask => verdict = Some(source.ask(now)),
                Event::Reject { stale_by, status } => {
                    refetch_rights += 1;
                    verdict = Some(source.reject(now, last_revision.saturating_sub(stale_by), status));
                }
                Event::Rotate => secret += 1,
                Event::Flush => {
                    source.flush();
                    refetch_rights += 1;
                    // The old flight is still in the air, and no longer the source's.
                    under_way = 0;
                    flight = None;
                }
                Event::Land(mood) => {
                    let Some(id) = flight.take() else { continue };
                    under_way = 0;
                    let landing = match mood {
                        Mood::Good => Landing::Fetched { credential: secret, life: Life::default() },
                        Mood::Expiring(s) => Landing::Fetched {
                            credential: secret,
                            life: Life { expires_in: Some(Duration::from_secs(s)), recheck_in: None },
                        },
                        Mood::Transient => Landing::Failed(Failure::new(Class::Unreachable, "", "")),
                        Mood::Final => Landing::Failed(Failure::new(Class::NotPermitted, "", "")),
                    };
                    if let Mood::Good | Mood::Expiring(_) = mood {
                        confirmed = now;
                        expires = match mood {
                            Mood::Expiring(s) => Some(now + Duration::from_secs(s)),
                            _ => None,
                        };
                    }
                    source.landed(now, id, landing, jitter);
                    if let Mood::Final = mood {
                        prop_assert!(!source.holds(), "a final failure ends it at once");
                    }
                }
            }
            match verdict {
                Some(Verdict::Serve(served)) => {
                    // Never past a stated expiry, nor past the grace.
                    if let Some(end) = expires {
                        prop_assert!(now + served.max_age <= end);
                    }
                    prop_assert!(now < confirmed + rules.ttl + rules.grace);
                    prop_assert!(served.max_age <= MAX_AGE);
                    prop_assert!(served.revision >= last_revision, "a revision only grows");
                    last_revision = served.revision;
                }
                Some(Verdict::Wait { start, meanwhile }) => {
                    if let Some(id) = start {
                        under_way += 1;
                        flight = Some(id);
                        starts.push(now);
                    }
                    // Waiting for nothing would be waiting for ever.
                    prop_assert!(under_way > 0);
                    if let (Some(meanwhile), Some(end)) = (&meanwhile, expires) {
                        prop_assert!(now + meanwhile.max_age <= end);
                    }
                }
                Some(Verdict::Fail(_)) => prop_assert!(!source.holds()),
                None => {}
            }
            prop_assert!(under_way <= 1, "one flight at a time");
        }

        // Bounded attempts: what reports and flushes may add is theirs, the rest is paced.
        let span = starts.last().map_or(0, |last| last.since(starts[0]).as_millis());
        let paced = span / 700 + 2;
        prop_assert!(
            u128::from(u32::try_from(starts.len()).unwrap_or(u32::MAX)) <= paced + u128::from(refetch_rights),
            "{} starts in {span} ms", starts.len()
        );
    }
}
