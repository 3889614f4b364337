//! The life of a source: one secret in one secret manager.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;

use crate::errors::Failure;

/// How long a client may reuse an answer: after a rotation every process has the new credential
/// within this time, or at its own first 401.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The life that an answer has left when it is given, as far as the credential's whole life
/// permits: MLflow sends one header up to seven times, with growing pauses.
const LIFE_LEFT: Duration = Duration::from_secs(60);

/// The bounds of a remembered failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A person may be mending it right now.
const LONGEST_FINAL_BACKOFF: Duration = Duration::from_secs(15);

/// When a rejected revision that did not change is looked at again. 403 is everyday life in
/// MLflow's basic-auth, and has a budget of its own so that it never starves a 401.
const RECHECK_401: Duration = Duration::from_secs(5);
const RECHECK_403: Duration = Duration::from_secs(60);

/// What a source obeys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// For how long a credential is fresh.
    pub(crate) ttl: Duration,
    /// For how long the last good one serves after that while refreshes fail transiently.
    pub(crate) grace: Duration,
}

/// A source's state; `C` is the credential.
#[derive(Debug)]
pub(crate) struct Source<C> {
    rules: Rules,
    held: Option<Held<C>>,
    /// One flight at a time, however many ask.
    flight: Option<Purpose>,
    failing: Option<Failing>,
    rejected: Option<Rejected>,
    revision: u64,
    /// Bumped by `flush`: what an older flight brings is not taken.
    epoch: u64,
    asked_at: Moment,
    pub(crate) counters: Counters,
}

#[derive(Debug)]
struct Held<C> {
    credential: C,
    revision: u64,
    /// When the secret manager last said that it is so.
    confirmed_at: Moment,
    fresh_until: Moment,
    refresh_at: Moment,
    /// Stated by the source; never served past it.
    expires_at: Option<Moment>,
}

#[derive(Debug)]
struct Failing {
    failure: Failure,
    count: u32,
    at: Moment,
    retry_at: Moment,
}

/// Why a flight is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// There is no credential, or one that ends.
    Refresh,
    /// A server rejected the one there is: who reports the same waits for what comes of it.
    Recheck,
}

/// What became of rejections of the held revision.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rejected {
    revision: u64,
    /// For 401, and for 403.
    budgets: [Budget; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Budget {
    refetches: u32,
    next_at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) hits: u64,
    pub(crate) fetches: u64,
    pub(crate) failures: u64,
}

/// What a question comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<C> {
    Serve(Served<C>),
    /// A flight is under way, or is to be started now (`start`); what it brings is the answer.
    /// `meanwhile` serves a caller whose patience ends first.
    Wait {
        start: Option<FlightId>,
        meanwhile: Option<Served<C>>,
    },
    Fail(Failure),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served<C> {
    pub(crate) credential: C,
    pub(crate) revision: u64,
    pub(crate) max_age: Duration,
}

/// The right to fetch once; every flight ends in [`Source::landed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightId {
    epoch: u64,
}

/// What a flight brought.
#[derive(Debug)]
pub(crate) enum Landing<C> {
    /// The secret as it is now.
    Fetched {
        credential: C,
        life: Life,
    },
    /// It has not changed since the last fetch.
    Unchanged {
        life: Life,
    },
    Failed(Failure),
}

/// What the secret manager states about a credential's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// It ends after this time, whatever the TTL.
    pub(crate) expires_in: Option<Duration>,
    /// It is cheap to look again after this time.
    pub(crate) recheck_in: Option<Duration>,
}

/// The state in a word, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    Fresh,
    Stale,
    Failing,
}

/// What there is to report.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) state: State,
    pub(crate) revision: u64,
    pub(crate) age: Option<Duration>,
    pub(crate) next_refresh: Option<Duration>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) stale_for: Option<Duration>,
    pub(crate) failure: Option<(&'a Failure, Duration)>,
}

// === impl Source ===

impl<C: Clone + PartialEq> Source<C> {
    /// An empty source. `seed` is where revisions start: above those of the broker's last life.
    pub(crate) fn new(rules: Rules, seed: u64, now: Moment) -> Self {
        Self {
            rules,
            held: None,
            flight: None,
            failing: None,
            rejected: None,
            revision: seed,
            epoch: 0,
            asked_at: now,
            counters: Counters::default(),
        }
    }

    /// Somebody wants the credential.
    pub(crate) fn ask(&mut self, now: Moment) -> Verdict<C> {
        self.asked_at = now;
        self.wipe(now);
        if let Some(held) = &self.held {
            let fresh = now < held.fresh_until;
            if fresh || self.backs_off(now) {
                self.counters.hits += 1;
                return self
                    .serve(now)
                    .map_or_else(|| self.refuse(now), Verdict::Serve);
            }
            let meanwhile = self.serve(now);
            return Verdict::Wait {
                start: self.take_off(Purpose::Refresh),
                meanwhile,
            };
        }
        self.refuse(now)
    }

    /// A server rejected the headers of `revision` with 401 or 403.
    pub(crate) fn reject(&mut self, now: Moment, revision: u64, status: u16) -> Verdict<C> {
        self.asked_at = now;
        self.wipe(now);
        let Some(held) = &self.held else {
            return self.refuse(now);
        };
        if held.revision != revision {
            // Somebody else met it first, and this is what came of it.
            return self.ask(now);
        }
        let rejected = match &mut self.rejected {
            Some(rejected) if rejected.revision == revision => rejected,
            other => other.insert(Rejected {
                revision,
                budgets: Default::default(),
            }),
        };
        let (slot, recheck) = if status == 403 {
            (1, RECHECK_403)
        } else {
            (0, RECHECK_401)
        };
        let budget = &mut rejected.budgets[slot];
        let may_look = budget.next_at.is_none_or(|at| at <= now);
        if self.flight != Some(Purpose::Recheck) && !may_look {
            return self
                .serve(now)
                .map_or_else(|| self.refuse(now), Verdict::Serve);
        }
        if self.flight.is_none() {
            budget.next_at = Some(now + recheck.saturating_mul(1 << budget.refetches.min(6)));
            budget.refetches += 1;
        }
        Verdict::Wait {
            start: self.take_off(Purpose::Recheck),
            meanwhile: None,
        }
    }

    /// A flight has landed. Returns whether the credential changed.
    /// `jitter` is in 0..1 and spreads refreshes and retries.
    pub(crate) fn landed(
        &mut self,
        now: Moment,
        flight: FlightId,
        landing: Landing<C>,
        jitter: f64,
    ) -> bool {
        let current = flight.epoch == self.epoch;
        if current {
            self.flight = None;
        } else {
            // Flushed meanwhile; the waiters start another.
            return false;
        }
        match landing {
            Landing::Failed(failure) => {
                self.counters.failures += 1;
                self.fail(now, failure, jitter);
                false
            }
            Landing::Unchanged { life } => {
                self.failing = None;
                let Some(held) = self.held.take() else {
                    return false;
                };
                self.hold(now, held.credential, held.revision, life, jitter);
                false
            }
            Landing::Fetched { credential, life } => {
                self.counters.fetches += 1;
                self.failing = None;
                let same = self
                    .held
                    .as_ref()
                    .filter(|held| held.credential == credential)
                    .map(|held| held.revision);
                let changed = same.is_none();
                let revision = same.unwrap_or_else(|| {
                    self.revision += 1;
                    self.revision
                });
                if changed {
                    self.rejected = None;
                }
                self.hold(now, credential, revision, life, jitter);
                changed
            }
        }
    }

    /// Time has passed: what has ended is wiped, and a refresh that is due is started.
    pub(crate) fn tick(&mut self, now: Moment) -> Option<FlightId> {
        self.wipe(now);
        let due = self.next_start().is_some_and(|at| at <= now);
        if due && self.is_active(now) && self.flight.is_none() {
            self.take_off(Purpose::Refresh)
        } else {
            None
        }
    }

    /// When `tick` is to be called next; `None`: not before somebody asks.
    pub(crate) fn due(&self, now: Moment) -> Option<Moment> {
        let start = self
            .next_start()
            .filter(|_| self.flight.is_none() && self.is_active(now));
        let end = self.held.as_ref().map(|held| self.end_of(held));
        start.into_iter().chain(end).min()
    }

    /// A person has mended something: the next question is not answered with an old failure.
    pub(crate) fn forgive(&mut self, now: Moment) {
        if let Some(failing) = &mut self.failing {
            failing.retry_at = now;
        }
    }

    /// Forgets everything; what is on its way is not taken either.
    pub(crate) fn flush(&mut self) {
        self.held = None;
        self.failing = None;
        self.rejected = None;
        self.flight = None;
        self.epoch += 1;
    }

    /// Whether there is a credential, fresh or stale.
    pub(crate) fn holds(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn view(&self, now: Moment) -> View<'_> {
        let stale = self.held.as_ref().filter(|held| now >= held.fresh_until);
        View {
            state: match (&self.held, stale, &self.failing) {
                (None, _, Some(_)) => State::Failing,
                (None, _, None) => State::Empty,
                (Some(_), Some(_), Some(_)) => State::Stale,
                // Not asked for lately, so not refreshed: nothing is wrong with it.
                (Some(_), ..) => State::Fresh,
            },
            revision: self.held.as_ref().map_or(0, |held| held.revision),
            age: self.held.as_ref().map(|held| now.since(held.confirmed_at)),
            next_refresh: self
                .next_start()
                .filter(|_| self.is_active(now))
                .map(|at| at.since(now)),
            expires_in: self
                .held
                .as_ref()
                .and_then(|held| held.expires_at)
                .map(|at| at.since(now)),
            stale_for: stale
                .filter(|_| self.failing.is_some())
                .map(|held| now.since(held.fresh_until)),
            failure: self.failing.as_ref().map(|f| (&f.failure, now.since(f.at))),
        }
    }

    // --- transitions ---

    fn hold(&mut self, now: Moment, credential: C, revision: u64, life: Life, jitter: f64) {
        let mut span = self.rules.ttl;
        if let Some(recheck) = life.recheck_in {
            span = span.min(recheck);
        }
        if let Some(expires) = life.expires_in {
            span = span.min(expires.saturating_sub(LIFE_LEFT.min(expires / 3)));
        }
        self.held = Some(Held {
            credential,
            revision,
            confirmed_at: now,
            fresh_until: now + span,
            // Between three quarters and nine tenths: ahead of the end, and not all at once.
            refresh_at: now + span.mul_f64(0.75 + 0.15 * jitter.clamp(0.0, 1.0)),
            expires_at: life.expires_in.map(|life| now + life),
        });
    }

    fn fail(&mut self, now: Moment, failure: Failure, jitter: f64) {
        let count = self.failing.as_ref().map_or(0, |f| f.count) + 1;
        let longest = if failure.class.is_transient() {
            LONGEST_BACKOFF
        } else {
            LONGEST_FINAL_BACKOFF
        };
        let backoff = FIRST_BACKOFF
            .saturating_mul(1 << (count - 1).min(10))
            .min(longest);
        let pause = backoff.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0));
        let pause = failure
            .retry_after
            .map_or(pause, |wish| pause.max(wish.min(LONGEST_BACKOFF)));
        if !failure.class.is_transient() {
            self.held = None;
        }
        self.failing = Some(Failing {
            failure,
            count,
            at: now,
            retry_at: now + pause,
        });
    }

    fn take_off(&mut self, purpose: Purpose) -> Option<FlightId> {
        if self.flight.is_some() {
            return None;
        }
        self.flight = Some(purpose);
        Some(FlightId { epoch: self.epoch })
    }

    /// Drops what may not be served any more.
    fn wipe(&mut self, now: Moment) {
        if self
            .held
            .as_ref()
            .is_some_and(|held| now >= self.end_of(held))
        {
            self.held = None;
        }
    }

    // --- questions ---

    /// Without a credential: fail while failures are remembered, else wait for a flight.
    fn refuse(&mut self, now: Moment) -> Verdict<C> {
        match &self.failing {
            Some(failing) if now < failing.retry_at && self.flight.is_none() => {
                Verdict::Fail(failing.failure.clone())
            }
            _ => Verdict::Wait {
                start: self.take_off(Purpose::Refresh),
                meanwhile: None,
            },
        }
    }

    fn serve(&self, now: Moment) -> Option<Served<C>> {
        let held = self.held.as_ref()?;
        let end = if now < held.fresh_until {
            held.fresh_until
        } else {
            self.end_of(held)
        };
        let left = held.expires_at.map_or(end, |at| at.min(end)).since(now);
        Some(Served {
            credential: held.credential.clone(),
            revision: held.revision,
            max_age: left.min(MAX_AGE),
        })
    }

    fn backs_off(&self, now: Moment) -> bool {
        self.failing.as_ref().is_some_and(|f| now < f.retry_at)
    }

    /// The moment past which a credential is never served.
    fn end_of(&self, held: &Held<C>) -> Moment {
        let grace = held.fresh_until + self.rules.grace;
        held.expires_at.map_or(grace, |at| at.min(grace))
    }

    fn next_start(&self) -> Option<Moment> {
        match (&self.failing, &self.held) {
            (Some(failing), Some(_)) => Some(failing.retry_at),
            (None, Some(held)) => Some(held.refresh_at),
            // Nobody waits for a background attempt where there is nothing to keep alive.
            (_, None) => None,
        }
    }

    /// Whether anybody has asked lately; the background works for nobody else.
    fn is_active(&self, now: Moment) -> bool {
        let span = self
            .held
            .as_ref()
            .map_or(Duration::ZERO, |h| h.fresh_until.since(h.confirmed_at));
        now.since(self.asked_at)
            < (span * 2).clamp(Duration::from_secs(60), Duration::from_secs(900))
    }
}
