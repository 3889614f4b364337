//! A token as long as it lives: when it ends, when it is renewed or replaced.

use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;

/// Where the tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// We log in: any token can be replaced, and is given back at the end.
    Minted,
    /// Somebody gave it: renewed where it can be, never replaced by us, never revoked.
    Given,
}

/// What an errand is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    LogIn,
    Renew,
}

/// What the secret manager grants a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// `None`: it does not end.
    pub(crate) life: Option<Duration>,
    pub(crate) renewable: bool,
}

/// A token and what is known about it.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) token: T,
    pub(super) generation: u64,
    pub(super) renewable: bool,
    /// What was granted last, and the most that ever was.
    pub(super) life: Option<Duration>,
    pub(super) longest: Option<Duration>,
    pub(super) expires_at: Option<Moment>,
    /// When it is renewed or replaced.
    pub(super) turn_at: Option<Moment>,
    /// A renewal was refused, or gave too little: the next turn is a new login.
    pub(super) renewals_over: bool,
    /// The secret manager has answered a question with it.
    pub(super) worked: bool,
}

// === impl Held ===

impl<T> Held<T> {
    pub(super) fn new(token: T, generation: u64) -> Self {
        Self {
            token,
            generation,
            renewable: false,
            life: None,
            longest: None,
            expires_at: None,
            turn_at: None,
            renewals_over: false,
            worked: false,
        }
    }

    pub(super) fn grant(&mut self, from: Moment, grant: Grant, jitter: f64) {
        self.life = grant.life;
        self.longest = self.longest.max(grant.life);
        self.renewable = grant.renewable;
        self.expires_at = grant.life.map(|life| from + life);
        // A little before two thirds, so that many brokers do not come at once.
        self.turn_at = grant
            .life
            .map(|life| from + life.mul_f64(2.0 / 3.0 * (0.9 + 0.1 * jitter.clamp(0.0, 1.0))));
    }

    pub(super) fn usable_until(&self) -> Option<Moment> {
        let margin = self.life?.div_f64(10.0).min(Duration::from_secs(1));
        self.expires_at.map(|at| at - margin)
    }

    /// From here on a renewal that keeps failing gives way to a login.
    pub(super) fn last_turn(&self) -> Option<Moment> {
        Some(self.expires_at? - self.life? / 6)
    }

    /// What is done at its turn.
    pub(super) fn errand(&self, kind: Kind, now: Moment) -> Option<Errand> {
        let late = self.last_turn().is_some_and(|at| now >= at);
        let renews = self.renewable && !self.renewals_over;
        match kind {
            Kind::Given => renews.then_some(Errand::Renew),
            Kind::Minted if renews && !late => Some(Errand::Renew),
            Kind::Minted => Some(Errand::LogIn),
        }
    }
}
