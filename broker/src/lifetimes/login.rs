//! The life of a login: one identity's token at one secret manager.
//!
//! Every token comes from an errand, and there is one errand at a time: logging in (which for a
//! token that somebody gave means looking at what it is worth) or renewing what is held.

mod failing;
mod held;

use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;

use crate::errors::{Class, Failure};
use failing::Failing;
use held::Held;
pub(crate) use held::{Errand, Grant, Kind};

/// No two errands begin closer together than this, whatever happens.
const SPACING: Duration = Duration::from_millis(250);

/// A denial may be the token's fault or the policy's. It costs one new login; the next denial
/// within this time is taken for the policy's.
const DENIAL_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_DENIAL_PAUSE: Duration = Duration::from_secs(3600);

/// A token that dies sooner after the last one than this is not worth an unbudgeted login.
const DEAD_PAUSE: Duration = Duration::from_secs(5);

/// Tokens of a login that nobody has used for this long, or for twice their life, may lapse.
const UNUSED: Duration = Duration::from_secs(900);

/// A login's state; `T` is the token.
#[derive(Debug)]
pub(crate) struct Login<T> {
    kind: Kind,
    held: Option<Held<T>>,
    errand: Option<Errand>,
    failing: Option<Failing>,
    /// Somebody waits, but an errand would have come too early.
    wanted: bool,
    denials: u32,
    denial_at: Option<Moment>,
    dead_at: Option<Moment>,
    generation: u64,
    earliest: Moment,
    used_at: Moment,
    closed: bool,
    pub(crate) counters: Counters,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) logins: u64,
    pub(crate) renewals: u64,
}

/// The right to run one errand; it ends in [`Login::landed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) errand: Errand,
    /// Lives count from here: the answer was on its way for a while.
    began: Moment,
}

/// What a question for a token comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need<T> {
    Use(Lent<T>),
    /// An errand is under way, is to be started now (`start`), or comes with a later `tick`.
    Wait {
        start: Option<Flight>,
    },
    Fail(Failure),
}

/// A token, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lent<T> {
    pub(crate) token: T,
    pub(crate) generation: u64,
}

/// What is known about a token that did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The secret manager does not know it (any more).
    Dead,
    /// The secret manager said no, and not why.
    Denied,
    /// Where it came from there is another one now.
    Outdated,
}

/// What an errand brought.
#[derive(Debug)]
pub(crate) enum Landing<T> {
    Obtained { token: T, grant: Grant },
    Renewed(Grant),
    Failed(Failure),
}

/// What there is to report.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) state: &'static str,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) renewable: bool,
    pub(crate) failure: Option<&'a Failure>,
}

// === impl Login ===

impl<T: Clone + PartialEq> Login<T> {
    pub(crate) fn new(kind: Kind, now: Moment) -> Self {
        Self {
            kind,
            held: None,
            errand: None,
            failing: None,
            wanted: false,
            denials: 0,
            denial_at: None,
            dead_at: None,
            generation: 0,
            earliest: now,
            used_at: now,
            closed: false,
            counters: Counters::default(),
        }
    }

    /// Somebody needs a token.
    pub(crate) fn need(&mut self, now: Moment) -> Need<T> {
        self.used_at = now;
        self.wipe(now);
        if let Some(held) = &self.held {
            return Need::Use(Lent {
                token: held.token.clone(),
                generation: held.generation,
            });
        }
        if self.errand.is_none()
            && let Some(failing) = &self.failing
            && now < failing.retry_at
        {
            return Need::Fail(failing.failure.clone());
        }
        let start = self.take_off(now, Errand::LogIn);
        self.wanted = start.is_none() && self.errand.is_none();
        Need::Wait { start }
    }

    /// A token did not do. To be asked again after every wait, until it answers with another
    /// generation, or with the same where none better can be had: then it is the policy that denies.
    pub(crate) fn doubt(&mut self, now: Moment, generation: u64, doubt: Doubt) -> Need<T> {
        self.used_at = now;
        self.wipe(now);
        let Some(held) = &self.held else {
            return self.need(now);
        };
        if self.errand.is_some() {
            return Need::Wait { start: None };
        }
        if held.generation != generation {
            return self.need(now);
        }
        // One that has served and is unknown now was revoked, and nobody can use it any more.
        let often = self.dead_at.is_some_and(|at| now.since(at) < DEAD_PAUSE);
        if doubt == Doubt::Dead && held.worked && !often {
            self.dead_at = Some(now);
            self.held = None;
            return self.need(now);
        }
        if let Some(failing) = &self.failing
            && now < failing.retry_at
        {
            return Need::Fail(failing.failure.clone());
        }
        let permitted = match doubt {
            Doubt::Outdated => now >= self.earliest,
            Doubt::Dead | Doubt::Denied => self.may_doubt(now),
        };
        if !permitted {
            return self.need(now);
        }
        // A denial has a budget of its own, and follows a login closely when it is the first.
        self.earliest = self.earliest.min(now);
        Need::Wait {
            start: self.take_off(now, Errand::LogIn),
        }
    }

    /// Whether a denial is worth a new login; takes it from the budget.
    fn may_doubt(&mut self, now: Moment) -> bool {
        let pause = DENIAL_PAUSE
            .saturating_mul(1 << self.denials.saturating_sub(1).min(10))
            .min(LONGEST_DENIAL_PAUSE);
        match self.denial_at.map(|at| now.since(at)) {
            Some(span) if span < pause => return false,
            Some(span) if span > pause * 2 => self.denials = 0,
            _ => {}
        }
        self.denials += 1;
        self.denial_at = Some(now);
        true
    }

    /// The token that is to be renewed.
    pub(crate) fn held(&self) -> Option<T> {
        self.held.as_ref().map(|held| held.token.clone())
    }

    /// The secret manager answered a question with that token.
    pub(crate) fn worked(&mut self, generation: u64) {
        if let Some(held) = &mut self.held
            && held.generation == generation
        {
            held.worked = true;
        }
    }

    /// An errand has landed. Returns the token that nobody needs any more.
    /// `jitter` is in 0..1 and spreads turns and retries.
    pub(crate) fn landed(
        &mut self,
        now: Moment,
        flight: Flight,
        landing: Landing<T>,
        jitter: f64,
    ) -> Option<T> {
        self.errand = None;
        match landing {
            Landing::Failed(failure) => {
                self.fail(now, flight.errand, failure, jitter);
                None
            }
            Landing::Renewed(grant) => {
                self.failing = None;
                self.counters.renewals += 1;
                if let Some(held) = &mut self.held {
                    // Near the longest life renewals give less and less.
                    let less = match (grant.life, held.longest) {
                        (Some(now), Some(most)) => now < most.mul_f64(2.0 / 3.0),
                        _ => false,
                    };
                    held.renewals_over = less || !grant.renewable;
                    held.grant(flight.began, grant, jitter);
                }
                None
            }
            Landing::Obtained { token, .. } if self.closed => Some(token),
            Landing::Obtained { token, grant } => {
                self.failing = None;
                self.wanted = false;
                let old = self.held.take();
                let same = old.as_ref().filter(|old| old.token == token);
                let generation = same.map_or(self.generation + 1, |old| old.generation);
                let mut held = Held::new(token, generation);
                held.worked = same.is_some_and(|old| old.worked);
                held.grant(flight.began, grant, jitter);
                if generation != self.generation {
                    self.counters.logins += 1;
                }
                self.generation = generation;
                let retired = old.filter(|old| old.generation != generation);
                self.held = Some(held);
                retired.map(|old| old.token)
            }
        }
    }

    /// Time has passed: what has ended is wiped, and what is due is started.
    pub(crate) fn tick(&mut self, now: Moment) -> Option<Flight> {
        self.wipe(now);
        let (at, errand) = self.next(now)?;
        if now < at {
            return None;
        }
        self.take_off(now, errand)
    }

    /// When `tick` is to be called next; `None`: not before somebody asks.
    pub(crate) fn due(&self, now: Moment) -> Option<Moment> {
        let end = self.held.as_ref().and_then(Held::usable_until);
        self.next(now)
            .map(|(at, _)| at)
            .into_iter()
            .chain(end)
            .min()
    }

    /// A person has mended something: the next need is not answered with an old failure.
    pub(crate) fn forgive(&mut self, now: Moment) {
        if let Some(failing) = &mut self.failing {
            failing.retry_at = failing.retry_at.min(now);
        }
    }

    /// The end. Returns the token that is to be given back: only one that we minted.
    pub(crate) fn close(&mut self) -> Option<T> {
        self.closed = true;
        let held = self.held.take()?;
        (self.kind == Kind::Minted).then_some(held.token)
    }

    pub(crate) fn view(&self, now: Moment) -> View<'_> {
        let failure = self.failing.as_ref().map(|f| &f.failure);
        View {
            state: match (self.errand, &self.held, failure) {
                (Some(Errand::LogIn), None, _) => "logging in",
                (_, Some(_), None) => "logged in",
                (_, Some(_), Some(_)) => "logged in, failing to renew",
                (_, None, Some(_)) => "failing",
                (_, None, None) => "not logged in",
            },
            expires_in: self
                .held
                .as_ref()
                .and_then(|held| held.expires_at)
                .map(|at| at.since(now)),
            renewable: self
                .held
                .as_ref()
                .is_some_and(|held| held.renewable && !held.renewals_over),
            failure,
        }
    }

    // --- transitions ---

    fn fail(&mut self, now: Moment, errand: Errand, failure: Failure, jitter: f64) {
        if errand == Errand::Renew
            && !failure.class.is_transient()
            && let Some(held) = &mut self.held
        {
            held.renewals_over = true;
            if self.kind == Kind::Minted {
                // Not a failure of the login: that is what comes next, at once.
                held.turn_at = Some(now);
                return;
            }
        }
        if self.kind == Kind::Given && failure.class == Class::NotAuthenticated {
            self.held = None;
        }
        // A wait is never so long that no time is left for a login before the token ends.
        let last = self.held.as_ref().and_then(Held::last_turn);
        let count = self.failing.as_ref().map_or(0, |failing| failing.count);
        self.failing = Some(Failing::new(now, failure, count, last, jitter));
    }

    fn take_off(&mut self, now: Moment, errand: Errand) -> Option<Flight> {
        if self.errand.is_some() || self.closed || now < self.earliest {
            return None;
        }
        self.errand = Some(errand);
        self.wanted = false;
        self.earliest = now + SPACING;
        Some(Flight { errand, began: now })
    }

    /// A token near its end is not used: it would end on the way.
    fn wipe(&mut self, now: Moment) {
        let ended = |held: &Held<T>| held.usable_until().is_some_and(|at| now >= at);
        if self.held.as_ref().is_some_and(ended) {
            self.held = None;
        }
    }

    // --- questions ---

    fn next(&self, now: Moment) -> Option<(Moment, Errand)> {
        if self.errand.is_some() || self.closed {
            return None;
        }
        let not_before = self
            .failing
            .as_ref()
            .map_or(self.earliest, |f| f.retry_at.max(self.earliest));
        let Some(held) = &self.held else {
            return self.wanted.then_some((not_before, Errand::LogIn));
        };
        let idle = held.life.map_or(UNUSED, |life| UNUSED.max(life * 2));
        let at = held.turn_at.filter(|_| now.since(self.used_at) < idle)?;
        Some((at.max(not_before), held.errand(self.kind, now)?))
    }
}

#[cfg(test)]
mod tests;
