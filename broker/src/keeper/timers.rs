//! When which source is to be looked at next.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;
use tokio::sync::Notify;

use super::Kept;

/// The longest sleep: timers stand still in suspend, so the clock is looked at now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The alarms of all sources; each has one that counts, its earliest.
pub(super) struct Timers {
    alarms: Mutex<BinaryHeap<Alarm>>,
    /// An alarm was set that is earlier than the sleeper knows.
    sooner: Notify,
}

/// The moment of the one alarm of a source that counts.
pub(super) struct Scheduled(AtomicU64);

struct Alarm {
    at: Moment,
    kept: Weak<Kept>,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self {
            alarms: Mutex::default(),
            sooner: Notify::new(),
        }
    }

    /// Sets a source's alarm, unless it has an earlier one.
    pub(super) fn set(&self, kept: &Arc<Kept>, due: Option<Moment>) {
        let Some(at) = due.filter(|at| at.as_millis() < kept.scheduled.0.load(Relaxed)) else {
            return;
        };
        kept.scheduled.0.store(at.as_millis(), Relaxed);
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let first = alarms.peek().is_none_or(|next| at < next.at);
        alarms.push(Alarm {
            at,
            kept: Arc::downgrade(kept),
        });
        drop(alarms);
        if first {
            self.sooner.notify_one();
        }
    }

    /// Forgets the alarms of sources that are gone: each holds on to the place of its source.
    pub(super) fn prune(&self) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.retain(|alarm| alarm.kept.strong_count() > 0);
        alarms.shrink_to_fit();
    }

    /// Waits for the next alarm; then the sources whose time has come.
    pub(super) async fn next(&self) -> Vec<Arc<Kept>> {
        let pause = {
            let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
            alarms
                .peek()
                .map_or(LONGEST_SLEEP, |next| next.at.since(Moment::now()))
        };
        if !pause.is_zero() {
            let _ = tokio::time::timeout(pause.min(LONGEST_SLEEP), self.sooner.notified()).await;
        }
        let now = Moment::now();
        let mut due = Vec::new();
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        while alarms.peek().is_some_and(|next| next.at <= now) {
            let Some(alarm) = alarms.pop() else { break };
            let Some(kept) = alarm.kept.upgrade() else {
                continue;
            };
            // An alarm that an earlier one has overtaken counts no more.
            if kept.scheduled.0.load(Relaxed) == alarm.at.as_millis() {
                kept.scheduled.0.store(u64::MAX, Relaxed);
                due.push(kept);
            }
        }
        due
    }
}

impl Scheduled {
    /// No alarm.
    pub(super) fn none() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

// The earliest first; the heap has the greatest on top.
impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}
