//! Keeps sources alive: runs their state machines, their flights and their timers.
//!
//! moka stores the sources and evicts those that nobody asks for; what a source does, and when,
//! is decided in `lifetimes/`.

mod flight;
mod timers;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mlflow_secrets_auth_core::clock::Moment;
use mlflow_secrets_auth_core::variables::{Role, Settings};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::bounded;
use crate::credential::{Credential, Shape};
use crate::errors::{Class, Failure};
use crate::lifetimes::source::{FlightId, Rules, Served, Source, Verdict};
use crate::providers::{self, Reader, Stamp};
use timers::{Scheduled, Timers};

/// How long a caller waits for a refresh while there is a good credential to go on with.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sources that nobody asked for in this time are dropped and wiped.
const UNUSED: Duration = Duration::from_secs(1800);

/// More sources than this are never kept; those that were asked for longest ago go first.
const MOST_SOURCES: u64 = 1_000;

/// How long giving back what was minted may take in all.
const LONGEST_CLOSE: Duration = Duration::from_secs(3);

/// For how long the last good credential serves while refreshes fail transiently.
const GRACE: Duration = Duration::from_secs(3600);

/// Equal keys are the same source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SourceKey {
    pub(crate) provider: &'static str,
    pub(crate) settings: Settings,
    pub(crate) shape: Shape,
    pub(crate) ttl: Duration,
    pub(crate) retries: u32,
}

/// A source and what runs it.
pub(crate) struct Kept {
    pub(crate) key: Arc<SourceKey>,
    pub(crate) reader: Arc<dyn Reader>,
    state: Mutex<Inner>,
    landed: Notify,
    scheduled: Scheduled,
}

struct Inner {
    source: Source<Arc<Credential>>,
    /// Of the reading that is held.
    stamp: Option<Stamp>,
    /// Whose last rejection it was, and what was sent.
    rejection: Option<Rejection>,
}

/// The last time that a server said no.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    pub(crate) origin: String,
    pub(crate) status: u16,
    pub(crate) revision: u64,
    pub(crate) at: Moment,
    pub(crate) outcome: &'static str,
}

/// All sources.
pub(crate) struct Keeper {
    sources: moka::sync::Cache<Arc<SourceKey>, Arc<Kept>>,
    timers: Timers,
    jitter: Jitter,
}

/// A rejected revision.
pub(crate) struct Report<'a> {
    pub(crate) origin: &'a str,
    pub(crate) revision: u64,
    pub(crate) status: u16,
}

// === impl Keeper ===

impl Keeper {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            sources: bounded::cache(MOST_SOURCES, UNUSED),
            timers: Timers::new(),
            jitter: Jitter::new(),
        })
    }

    /// The source of a key; made at the first question.
    ///
    /// # Errors
    /// The settings make no sense to the provider.
    pub(crate) fn source(&self, key: &Arc<SourceKey>) -> Result<Arc<Kept>, Failure> {
        if let Some(kept) = self.sources.get(key) {
            return Ok(kept);
        }
        let reader = providers::named(key.provider)?.plan(&key.settings)?;
        Ok(self.sources.get_with_by_ref(key, || {
            let rules = Rules {
                ttl: key.ttl,
                grace: GRACE,
            };
            // Above those of this broker's predecessors, so that none is taken for another.
            let seed = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |t| t.as_millis());
            let source = Source::new(rules, u64::try_from(seed).unwrap_or(0), Moment::now());
            Arc::new(Kept {
                key: Arc::clone(key),
                reader,
                state: Mutex::new(Inner {
                    source,
                    stamp: None,
                    rejection: None,
                }),
                landed: Notify::new(),
                scheduled: Scheduled::none(),
            })
        }))
    }

    /// The credential of a source; waits for a flight if it must, and no longer than until `deadline`.
    /// `fresh`: a remembered failure is no answer.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        kept: &Arc<Kept>,
        fresh: bool,
        deadline: Instant,
    ) -> Result<Served<Arc<Credential>>, Failure> {
        if fresh {
            kept.lock().source.forgive(Moment::now());
            kept.reader.forgive();
        }
        self.settle(kept, deadline, |source, now| source.ask(now))
            .await
    }

    /// What to send instead of a rejected revision; the same revision where there is nothing newer.
    pub(crate) async fn rejected(
        self: &Arc<Self>,
        kept: &Arc<Kept>,
        report: Report<'_>,
        deadline: Instant,
    ) -> Result<Served<Arc<Credential>>, Failure> {
        let mut first = true;
        let result = self
            .settle(kept, deadline, |source, now| {
                if std::mem::take(&mut first) {
                    source.reject(now, report.revision, report.status)
                } else {
                    source.ask(now)
                }
            })
            .await;
        let outcome = match &result {
            Ok(served) if served.revision != report.revision => "a newer credential was given",
            Ok(_) => "the secret has not changed",
            Err(_) => "the secret could not be read again",
        };
        tracing::info!(source = %kept.reader.source(), origin = report.origin, status = report.status, revision = report.revision, outcome, "rejected");
        kept.lock().rejection = Some(Rejection {
            origin: report.origin.to_owned(),
            status: report.status,
            revision: report.revision,
            at: Moment::now(),
            outcome,
        });
        result
    }

    async fn settle(
        self: &Arc<Self>,
        kept: &Arc<Kept>,
        deadline: Instant,
        mut question: impl FnMut(&mut Source<Arc<Credential>>, Moment) -> Verdict<Arc<Credential>>,
    ) -> Result<Served<Arc<Credential>>, Failure> {
        loop {
            // Registered before the question, so that a landing between the two is not missed.
            let landed = kept.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            let (verdict, due) = {
                let now = Moment::now();
                let mut inner = kept.lock();
                (question(&mut inner.source, now), inner.source.due(now))
            };
            self.timers.set(kept, due);
            let (start, meanwhile) = match verdict {
                Verdict::Serve(served) => return Ok(served),
                Verdict::Fail(failure) => return Err(failure),
                Verdict::Wait { start, meanwhile } => (start, meanwhile),
            };
            if let Some(flight) = start {
                self.take_off(kept, flight);
            }
            let until = if meanwhile.is_some() {
                deadline.min(Instant::now() + PATIENCE)
            } else {
                deadline
            };
            if timeout_at(until, landed).await.is_err() {
                return meanwhile.ok_or_else(|| {
                    Failure::new(
                        Class::Unreachable,
                        format!("{} has not answered in time", kept.reader.source()),
                        "Try again; `mlflow-secrets-auth status` shows what it waits for, MLFLOW_SECRETS_AUTH_TIMEOUT is how long a request may wait",
                    )
                });
            }
        }
    }

    fn take_off(self: &Arc<Self>, kept: &Arc<Kept>, flight: FlightId) {
        let (keeper, kept) = (Arc::clone(self), Arc::clone(kept));
        tokio::spawn(async move {
            let previous = {
                let inner = kept.lock();
                inner.stamp.filter(|_| inner.source.holds())
            };
            let flying = {
                let (keeper, kept) = (Arc::clone(&keeper), Arc::clone(&kept));
                tokio::spawn(async move { flight::fly(&kept, previous, &keeper.jitter).await })
            };
            // Every flight lands, one that panics too: who waits for it would wait for ever.
            let (landing, stamp) = flying.await.unwrap_or_else(|_| flight::crashed(&kept));
            keeper.land(&kept, flight, landing, stamp);
        });
    }

    fn land(
        &self,
        kept: &Arc<Kept>,
        flight: FlightId,
        landing: flight::Landed,
        stamp: Option<Stamp>,
    ) {
        flight::log(kept, &landing);
        let mut inner = kept.lock();
        let fetched = matches!(landing, flight::Landed::Fetched { .. });
        let changed = inner
            .source
            .landed(Moment::now(), flight, landing, self.jitter.next());
        if fetched {
            inner.stamp = stamp;
        }
        if changed {
            let revision = inner.source.view(Moment::now()).revision;
            tracing::info!(source = %kept.reader.source(), revision, "new revision");
        }
        let due = inner.source.due(Moment::now());
        drop(inner);
        kept.landed.notify_waiters();
        self.timers.set(kept, due);
    }

    /// Runs the timers: refreshes ahead of expiry, wipes what has ended.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            for kept in self.timers.next().await {
                let now = Moment::now();
                let (flight, due) = {
                    let mut inner = kept.lock();
                    (inner.source.tick(now), inner.source.due(now))
                };
                if let Some(flight) = flight {
                    self.take_off(&kept, flight);
                }
                self.timers.set(&kept, due);
            }
        }
    }

    /// Forgets every credential and login; returns how many sources there were.
    pub(crate) fn flush(&self) -> usize {
        let mut count = 0;
        for (_, kept) in &self.sources {
            let mut inner = kept.lock();
            inner.source.flush();
            inner.stamp = None;
            drop(inner);
            // Who waits asks again, and starts a flight that sees what is there now.
            kept.landed.notify_waiters();
            count += 1;
        }
        // With its last source a login goes too.
        self.sources.invalidate_all();
        self.sweep();
        count
    }

    /// Drops what nobody has asked for in long; moka does it on its own only when it is used.
    pub(crate) fn sweep(&self) {
        bounded::settle(&self.sources);
        self.timers.prune();
    }

    /// Gives back what the logins minted; nobody is asked any more.
    pub(crate) async fn close(&self) {
        let mut closing = tokio::task::JoinSet::new();
        for kept in self.all() {
            closing.spawn(async move { kept.reader.close().await });
        }
        // A secret manager that stalls must not keep anybody from stopping.
        let _ = tokio::time::timeout(LONGEST_CLOSE, closing.join_all()).await;
    }

    /// Every source there is.
    pub(crate) fn all(&self) -> Vec<Arc<Kept>> {
        let mut all: Vec<_> = self.sources.iter().map(|(_, kept)| kept).collect();
        all.sort_by_key(|kept| kept.reader.source());
        all
    }
}

// === impl Kept ===

impl Kept {
    /// Every critical section leaves the state whole, so a panic in one poisons nothing.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the state without asking.
    pub(crate) fn look<T>(
        &self,
        see: impl FnOnce(&Source<Arc<Credential>>, Option<&Rejection>) -> T,
    ) -> T {
        let inner = self.lock();
        see(&inner.source, inner.rejection.as_ref())
    }
}

impl SourceKey {
    /// What of a caller's settings identifies a source of this provider.
    pub(crate) fn settings_of(settings: &Settings, provider: &str) -> Settings {
        settings.restricted(|v| {
            matches!(v.role, Role::Login | Role::Place)
                && (v.provider == provider || (v.provider.is_empty() && provider != "file"))
        })
    }
}

/// Random numbers for spreading; not for secrets.
pub(crate) struct Jitter {
    seed: RandomState,
    count: std::sync::atomic::AtomicU64,
}

impl Jitter {
    fn new() -> Self {
        Self {
            seed: RandomState::new(),
            count: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// The next number in 0..1.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn next(&self) -> f64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(
            self.count
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        );
        (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
    }
}
