//! A login at work: runs the errands that its state machine decides on, and its timer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mlflow_secrets_auth_core::clock::Moment;
use mlflow_secrets_auth_core::contract::LoginStatus;
use mlflow_secrets_auth_core::secret::Secret;
use tokio::sync::Notify;

use super::plan::{Auth, Plan};
use super::wire::Wire;
use super::{files, tokens};
use crate::errors::{Class, Failure};
use crate::lifetimes::login::{Doubt, Errand, Flight, Kind, Landing, Lent, Login, Need};
use crate::providers::Stamp;

/// The longest sleep: timers stand still in suspend, so the clock is looked at now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// One identity at one Vault, shared by every source under it.
pub(super) struct Session {
    plan: Plan,
    wire: Mutex<Option<Arc<Wire>>>,
    state: Mutex<Login<Secret>>,
    /// Of the token file, when it was read last.
    stamp: Mutex<Option<Stamp>>,
    landed: Notify,
    /// Something may be due earlier than the timer thinks.
    sooner: Arc<Notify>,
    timed: AtomicBool,
}

// === impl Session ===

impl Session {
    /// Talks to nobody yet.
    pub(super) fn new(plan: Plan) -> Self {
        let state = Login::new(plan.kind(), Moment::now());
        Self {
            plan,
            wire: Mutex::default(),
            state: Mutex::new(state),
            stamp: Mutex::default(),
            landed: Notify::new(),
            sooner: Arc::default(),
            timed: AtomicBool::new(false),
        }
    }

    /// A token to ask with.
    pub(super) async fn token(self: &Arc<Self>) -> Result<Lent<Secret>, Failure> {
        self.start_timer();
        let lent = self.settle(|state, now| state.need(now)).await?;
        if self.has_changed().await {
            let generation = lent.generation;
            return self
                .settle(|state, now| state.doubt(now, generation, Doubt::Outdated))
                .await
                .or(Ok(lent));
        }
        Ok(lent)
    }

    /// What to ask with instead of a token that did not do; the same where there is no better.
    pub(super) async fn doubt(
        self: &Arc<Self>,
        generation: u64,
        doubt: Doubt,
    ) -> Result<Lent<Secret>, Failure> {
        self.settle(|state, now| state.doubt(now, generation, doubt))
            .await
    }

    pub(super) fn worked(&self, generation: u64) {
        self.state().worked(generation);
    }

    /// The way to Vault; made anew after a failure of TLS, because files may have been replaced.
    pub(super) async fn wire(self: &Arc<Self>) -> Result<Arc<Wire>, Failure> {
        if let Some(wire) = &*lock(&self.wire) {
            return Ok(Arc::clone(wire));
        }
        let session = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || Wire::new(&session.plan)).await;
        let wire = made.map_err(|_| {
            Failure::new(
                Class::Unreachable,
                "no HTTP client can be made",
                "Try again",
            )
        })??;
        Ok(Arc::clone(lock(&self.wire).get_or_insert(wire)))
    }

    /// Looks at a failure that a request ended in.
    pub(super) fn heed(&self, failure: &Failure) {
        if failure.class == Class::Tls {
            *lock(&self.wire) = None;
        }
    }

    pub(super) fn forgive(&self) {
        self.state().forgive(Moment::now());
    }

    /// Gives back what we minted. Nobody asks any more.
    pub(super) async fn close(self: &Arc<Self>) {
        let token = self.state().close();
        self.sooner.notify_one();
        if let Some(token) = token
            && let Ok(wire) = self.wire().await
        {
            tokens::revoke(&wire, &token, &self.plan.identity()).await;
        }
    }

    pub(super) fn status(&self, now: Moment) -> LoginStatus {
        let mut warnings = self.plan.warnings();
        let state = self.state();
        let view = state.view(now);
        if self.plan.kind() == Kind::Given
            && let Some(left) = view.expires_in
            && !view.renewable
        {
            warnings.push(format!(
                "{} ends in {} s and cannot be renewed. Use VAULT_ROLE_ID and VAULT_SECRET_ID, which the broker logs in with by itself",
                self.plan.identity(),
                left.as_secs()
            ));
        }
        LoginStatus {
            provider: "vault".to_owned(),
            identity: self.plan.identity(),
            state: view.state.to_owned(),
            expires_in_ms: view
                .expires_in
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            logins: state.counters.logins,
            renewals: state.counters.renewals,
            last_error: view.failure.map(Failure::to_problem),
            warnings,
        }
    }

    // --- the state machine's hands ---

    async fn settle(
        self: &Arc<Self>,
        mut question: impl FnMut(&mut Login<Secret>, Moment) -> Need<Secret>,
    ) -> Result<Lent<Secret>, Failure> {
        loop {
            // Registered before the question, so that a landing between the two is not missed.
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            let need = question(&mut self.state(), Moment::now());
            match need {
                Need::Use(lent) => return Ok(lent),
                Need::Fail(failure) => return Err(failure),
                Need::Wait { start } => match start {
                    Some(flight) => self.take_off(flight),
                    None => self.sooner.notify_one(),
                },
            }
            landed.await;
        }
    }

    /// In a task of its own: who waits may give up, and others wait too.
    fn take_off(self: &Arc<Self>, flight: Flight) {
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let landing = session.run(flight.errand).await;
            session.log(flight.errand, &landing);
            let retired = session
                .state()
                .landed(Moment::now(), flight, landing, jitter());
            session.landed.notify_waiters();
            session.sooner.notify_one();
            if let Some(token) = retired
                && session.plan.kind() == Kind::Minted
                && let Ok(wire) = session.wire().await
            {
                tokens::revoke(&wire, &token, &session.plan.identity()).await;
            }
        });
    }

    async fn run(self: &Arc<Self>, errand: Errand) -> Landing<Secret> {
        let result = async {
            let wire = self.wire().await?;
            match errand {
                Errand::Renew => {
                    let token = self.state().held();
                    tokens::renew(&wire, &token.ok_or_else(tokens::ended)?).await
                }
                Errand::LogIn => {
                    if let Auth::TokenFile { path, .. } = &self.plan.auth {
                        *lock(&self.stamp) = files::stamp(path.clone()).await;
                    }
                    tokens::obtain(&wire, &self.plan.auth).await
                }
            }
        };
        result.await.unwrap_or_else(|failure| {
            self.heed(&failure);
            Landing::Failed(failure)
        })
    }

    /// Whether another token lies in the token file than the one that is held.
    async fn has_changed(&self) -> bool {
        let Auth::TokenFile { path, .. } = &self.plan.auth else {
            return false;
        };
        let now = files::stamp(path.clone()).await;
        now.is_some() && *lock(&self.stamp) != now
    }

    fn log(&self, errand: Errand, landing: &Landing<Secret>) {
        let login = self.plan.identity();
        let what = match errand {
            Errand::LogIn => "login",
            Errand::Renew => "renewal",
        };
        match landing {
            Landing::Obtained { grant, .. } | Landing::Renewed(grant) => {
                let life_s = grant.life.map(|life| life.as_secs());
                tracing::info!(%login, life_s, renewable = grant.renewable, "{what}");
            }
            Landing::Failed(failure) => {
                tracing::warn!(%login, class = %failure.class, cause = %failure.cause, next_step = %failure.next_step, "{what} failed");
            }
        }
    }

    fn start_timer(self: &Arc<Self>) {
        if !self.timed.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_alive(Arc::downgrade(self), Arc::clone(&self.sooner)));
        }
    }

    fn state(&self) -> MutexGuard<'_, Login<Secret>> {
        lock(&self.state)
    }
}

impl Drop for Session {
    /// The last source under it is gone.
    fn drop(&mut self) {
        super::VAULT.forget_unused();
        self.sooner.notify_one();
        let token = self.state().close();
        let wire = lock(&self.wire).clone();
        if let (Some(token), Some(wire), Ok(runtime)) =
            (token, wire, tokio::runtime::Handle::try_current())
        {
            let login = self.plan.identity();
            runtime.spawn(async move { tokens::revoke(&wire, &token, &login).await });
        }
    }
}

/// Runs a login's timer as long as there is a login.
async fn keep_alive(session: Weak<Session>, sooner: Arc<Notify>) {
    loop {
        let pause = {
            let Some(session) = session.upgrade() else {
                return;
            };
            let now = Moment::now();
            let (flight, due) = {
                let mut state = session.state();
                (state.tick(now), state.due(now))
            };
            if let Some(flight) = flight {
                session.take_off(flight);
            }
            due.map_or(LONGEST_SLEEP, |due| due.since(now).min(LONGEST_SLEEP))
        };
        let pause = pause.max(Duration::from_millis(10));
        let _ = tokio::time::timeout(pause, sooner.notified()).await;
    }
}

/// Spreads turns and retries; not for secrets.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everybody waits equally long, no more.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves the state whole, so a panic in one poisons nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
