//! Where tokens come from and go to: one errand each.

use std::time::Duration;

use mlflow_secrets_auth_core::secret::Secret;

use super::answers::{self, Asked};
use super::api::{AuthInfo, Call, Envelope, TokenInfo};
use super::files;
use super::plan::{Auth, SecretId, is_token, no_login};
use super::wire::{Reply, Wire};
use crate::errors::{Class, Failure};
use crate::lifetimes::login::{Doubt, Grant, Landing};

/// How long giving a token back may take; it ends by itself anyway.
const REVOKING: Duration = Duration::from_secs(2);

/// A token to ask with: by a login, or the one that somebody gave, with what it is worth.
pub(super) async fn obtain(wire: &Wire, auth: &Auth) -> Result<Landing<Secret>, Failure> {
    match auth {
        Auth::Token(token) => look_up(wire, token.clone(), "VAULT_TOKEN").await,
        Auth::TokenFile { path, by_default } => {
            let token = files::read(path.clone()).await.map_err(|failure| {
                if *by_default && failure.class == Class::NotConfigured {
                    no_login(&format!(", and {}", failure.cause))
                } else {
                    failure
                }
            })?;
            look_up(wire, token, &path.display().to_string()).await
        }
        Auth::AppRole { role_id, secret_id } => app_role(wire, role_id, secret_id).await,
    }
}

async fn app_role(
    wire: &Wire,
    role_id: &str,
    secret_id: &SecretId,
) -> Result<Landing<Secret>, Failure> {
    let secret_id = match secret_id {
        SecretId::Value(value) => value.clone(),
        SecretId::File(path) => files::read(path.clone()).await?,
    };
    let reply = wire
        .send(&Call::app_role(role_id, &secret_id), None)
        .await?;
    if reply.status != 200 {
        let asked = Asked::LogIn(role_id);
        return Err(answers::failure(&reply, asked, &wire.shown()));
    }
    let auth = auth(&reply, wire)?;
    Ok(Landing::Obtained {
        grant: grant(&auth),
        token: Secret::new(&*auth.client_token),
    })
}

pub(super) async fn renew(wire: &Wire, token: &Secret) -> Result<Landing<Secret>, Failure> {
    let reply = wire.send(&Call::renew(), Some(token)).await?;
    if reply.status != 200 {
        return Err(answers::failure(&reply, Asked::Renew, &wire.shown()));
    }
    Ok(Landing::Renewed(grant(&auth(&reply, wire)?)))
}

/// It ended while its renewal was on the way; the next need logs in.
pub(super) fn ended() -> Failure {
    Failure::new(Class::NotAuthenticated, "the token has ended", "Try again")
}

/// Best effort: a token that stays ends by itself.
pub(super) async fn revoke(wire: &Wire, token: &Secret, login: &str) {
    let call = Call::revoke();
    match tokio::time::timeout(REVOKING, wire.send(&call, Some(token))).await {
        Ok(Ok(reply)) if matches!(reply.status, 200 | 204) => {
            tracing::debug!(%login, "token given back")
        }
        _ => tracing::debug!(%login, "the token could not be given back; it ends by itself"),
    }
}

async fn look_up(wire: &Wire, token: Secret, place: &str) -> Result<Landing<Secret>, Failure> {
    let reply = wire.send(&Call::look_up(), Some(&token)).await?;
    let unknown = Grant {
        life: None,
        renewable: false,
    };
    let grant = match (reply.status, answers::doubt(&reply)) {
        (200, _) => {
            let info = token_info(&reply).ok_or_else(|| {
                answers::not_vault(&wire.shown(), "it does not say what the token is worth")
            })?;
            if info.ttl == 0 && info.expire_time.is_some() {
                return Err(answers::failure(
                    &reply,
                    Asked::LookUp(place),
                    &wire.shown(),
                ));
            }
            Grant {
                life: (info.ttl > 0).then(|| Duration::from_secs(info.ttl)),
                renewable: info.renewable,
            }
        }
        // A policy without lookup-self; the token may still do what it is for.
        (403, Some(Doubt::Denied)) => unknown,
        _ => {
            return Err(answers::failure(
                &reply,
                Asked::LookUp(place),
                &wire.shown(),
            ));
        }
    };
    Ok(Landing::Obtained { token, grant })
}

fn token_info(reply: &Reply) -> Option<TokenInfo> {
    let envelope: Envelope<'_> = serde_json::from_slice(&reply.body).ok()?;
    serde_json::from_str(envelope.data?.get()).ok()
}

fn auth<'a>(reply: &'a Reply, wire: &Wire) -> Result<AuthInfo<'a>, Failure> {
    let envelope: Option<Envelope<'a>> = serde_json::from_slice(&reply.body).ok();
    envelope
        .and_then(|envelope| envelope.auth)
        .filter(|auth| is_token(&auth.client_token))
        .ok_or_else(|| answers::not_vault(&wire.shown(), "it answers a login without a token"))
}

fn grant(auth: &AuthInfo<'_>) -> Grant {
    Grant {
        life: (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration)),
        renewable: auth.renewable,
    }
}
