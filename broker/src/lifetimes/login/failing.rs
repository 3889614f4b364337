//! A failure as long as it is remembered: nobody is asked again before it is time.

use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;

use crate::errors::Failure;

/// The bounds of a remembered failure. The first pause is short where it may be a hiccup.
const FIRST_BACKOFF: Duration = Duration::from_millis(150);
const FIRST_FINAL_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Failing {
    pub(super) failure: Failure,
    /// In a row.
    pub(super) count: u32,
    pub(super) retry_at: Moment,
}

// === impl Failing ===

impl Failing {
    /// After `count` others. `last` is the moment by which it must be tried again, unless the
    /// secret manager wishes otherwise.
    pub(super) fn new(
        now: Moment,
        failure: Failure,
        count: u32,
        last: Option<Moment>,
        jitter: f64,
    ) -> Self {
        let first = if failure.class.is_transient() {
            FIRST_BACKOFF
        } else {
            FIRST_FINAL_BACKOFF
        };
        let pause = first
            .saturating_mul(1 << count.min(10))
            .min(LONGEST_BACKOFF)
            .mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0));
        let retry_at = match (failure.retry_after, last) {
            (Some(wish), _) => now + pause.max(wish.min(LONGEST_BACKOFF)),
            (None, Some(last)) if now < last => last.min(now + pause),
            _ => now + pause,
        };
        Self {
            failure,
            count: count + 1,
            retry_at,
        }
    }
}
