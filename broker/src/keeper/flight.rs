//! One flight: from a source to its secret manager and back, with retries and a time-out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Jitter, Kept};
use crate::credential::{self, Credential};
use crate::errors::{Class, Failure};
use crate::lifetimes::source::{Landing, Life};
use crate::providers::{Answer, Stamp};

/// How long a flight may take with all its retries. Below the 15 s that a caller waits by
/// default, so that the secret manager's own error comes before "not in time".
const LONGEST: Duration = Duration::from_secs(12);

/// The first pause between two attempts; the next ones double.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

pub(super) type Landed = Landing<Arc<Credential>>;

/// Flies until there is an answer, a failure that does not pass, or no time.
pub(super) async fn fly(
    kept: &Kept,
    previous: Option<Stamp>,
    jitter: &Jitter,
) -> (Landed, Option<Stamp>) {
    let deadline = Instant::now() + LONGEST;
    let mut pause = FIRST_PAUSE;
    let mut failures = 0;
    let mut last = None;
    loop {
        let attempt = tokio::time::timeout_at(deadline, attempt(kept, previous)).await;
        let failure = match attempt {
            Ok(Ok((landed, stamp))) => return (landed, stamp),
            Ok(Err(failure)) => failure,
            // What an earlier attempt met says more than that the time is over.
            Err(_) => {
                let failure = last.unwrap_or_else(|| too_late(&kept.reader.source()));
                return (Landing::Failed(failure), None);
            }
        };
        failures += 1;
        // A wish is a lower bound; without one the pause spreads both ways.
        let wait = match failure.retry_after {
            Some(wish) => wish.mul_f64(1.0 + 0.1 * jitter.next()),
            None => pause.mul_f64(0.5 + jitter.next()),
        };
        // Nothing is gained by trying a bad certificate or a sealed vault twice.
        let again = matches!(failure.class, Class::Unreachable | Class::Throttled);
        if !again || failures > kept.key.retries || Instant::now() + wait >= deadline {
            return (Landing::Failed(failure), None);
        }
        tracing::debug!(source = %kept.reader.source(), class = %failure.class, "retrying");
        last = Some(failure);
        tokio::time::sleep(wait).await;
        pause *= 2;
    }
}

fn too_late(source: &str) -> Failure {
    Failure::new(
        Class::Unreachable,
        format!("{source} did not answer within {} s", LONGEST.as_secs()),
        "Check that it is up and reachable from here",
    )
}

/// What a flight brings that ended in a panic.
pub(super) fn crashed(kept: &Kept) -> (Landed, Option<Stamp>) {
    let failure = Failure::new(
        Class::Unreachable,
        format!("reading {} crashed", kept.reader.source()),
        "Please report it, with the output of `mlflow-secrets-auth serve`",
    );
    (Landing::Failed(failure), None)
}

async fn attempt(kept: &Kept, previous: Option<Stamp>) -> Result<(Landed, Option<Stamp>), Failure> {
    let source = kept.reader.source();
    let answer = kept.reader.read(previous).await?;
    match answer {
        Answer::Unchanged { life } => Ok((Landing::Unchanged { life }, previous)),
        Answer::Secret { text, life, stamp } => {
            let credential = Credential::parse(&text, &kept.key.shape, &source)?;
            let unix_now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let own = credential::jwt_life(&credential, unix_now, &source)?;
            let expires_in = [life.expires_in, own].into_iter().flatten().min();
            Ok((
                Landing::Fetched {
                    credential: Arc::new(credential),
                    life: Life { expires_in, ..life },
                },
                stamp,
            ))
        }
    }
}

/// One line per event.
pub(super) fn log(kept: &Kept, landing: &Landed) {
    let source = kept.reader.source();
    match landing {
        Landing::Fetched { life, .. } => {
            tracing::info!(%source, expires_in_s = life.expires_in.map(|d| d.as_secs()), "fetched");
        }
        Landing::Unchanged { .. } => tracing::trace!(%source, "unchanged"),
        Landing::Failed(failure) => {
            tracing::warn!(%source, class = %failure.class, cause = %failure.cause, next_step = %failure.next_step, "fetch failed");
        }
    }
}
