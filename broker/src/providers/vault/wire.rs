//! One request to Vault and its answer: headers, limits, time-outs, redirects.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mlflow_secrets_auth_core::secret::Secret;
use reqwest::header::{HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, Url};
use zeroize::Zeroizing;

use super::answers;
use super::api::{Call, LeaderInfo};
use super::plan::{Address, Plan, shown};
use crate::errors::{Class, Failure};
use crate::providers::http;

/// No answer that we need is larger than this, bytes.
const LARGEST: usize = 1024 * 1024;

/// How often one request may be sent on: from a standby to its leader, which may just change.
const MOST_HOPS: u32 = 3;

/// The way to one Vault.
pub(super) struct Wire {
    client: Client,
    address: Address,
    namespace: Option<HeaderValue>,
    /// Who led the cluster when it was asked last.
    leader: Mutex<Option<Url>>,
}

/// What Vault answered, whatever the status.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) retry_after: Option<Duration>,
}

// === impl Wire ===

impl Wire {
    /// Reads the certificate files; blocks on them.
    ///
    /// # Errors
    /// One cannot be read, or the proxies make no sense.
    pub(super) fn new(plan: &Plan) -> Result<Arc<Self>, Failure> {
        Ok(Arc::new(Self {
            client: http::client(&plan.settings, &plan.tls)?,
            address: plan.address.clone(),
            namespace: plan.namespace.clone(),
            leader: Mutex::default(),
        }))
    }

    /// Scheme, host and port of the address that the settings name.
    pub(super) fn shown(&self) -> String {
        self.address.shown()
    }

    /// Sends a request with a token, or without one.
    ///
    /// # Errors
    /// There is no answer; classified. An answer that says no is a [`Reply`].
    pub(super) async fn send(&self, call: &Call, token: Option<&Secret>) -> Result<Reply, Failure> {
        let mut url = url(&self.address.url, &call.path);
        for _ in 0..MOST_HOPS {
            let response = self.once(call, token, &url).await?;
            let Some(target) = target(&response, &url)? else {
                return reply(response, &shown(&url)).await;
            };
            if !same_server(&url, &target) && !self.is_leader(&target).await? {
                return Err(Failure::new(
                    Class::Unreachable,
                    format!(
                        "Vault at {} sends requests on to {}, which is not its cluster's leader: no token was sent there",
                        shown(&url),
                        shown(&target)
                    ),
                    format!(
                        "Set VAULT_ADDR to the address that answers by itself, perhaps {}",
                        shown(&target)
                    ),
                ));
            }
            url = target;
        }
        Err(Failure::new(
            Class::Unreachable,
            format!(
                "Vault at {} sends requests round in circles",
                self.address.shown()
            ),
            "Set VAULT_ADDR to the address that answers by itself",
        ))
    }

    async fn once(
        &self,
        call: &Call,
        token: Option<&Secret>,
        url: &Url,
    ) -> Result<Response, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert("X-Vault-Request", HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert("X-Vault-Namespace", namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.reveal()).map_err(|_| {
                Failure::not_configured(
                    "the token for Vault holds characters that no token has",
                    "Set it again, without spaces and line breaks",
                )
            })?;
            value.set_sensitive(true);
            headers.insert("X-Vault-Token", value);
        }
        let mut request = self
            .client
            .request(call.method.clone(), url.clone())
            .headers(headers);
        if let Some(body) = &call.body {
            request = request
                .header("Content-Type", "application/json")
                // A body that is wiped when it has been sent.
                .body(bytes::Bytes::from_owner(body.clone()));
        }
        request
            .send()
            .await
            .map_err(|error| answers::no_answer(&error, &shown(url)))
    }

    /// Whether the cluster itself names that server as its leader. It is asked without a token.
    async fn is_leader(&self, target: &Url) -> Result<bool, Failure> {
        let known = self
            .leader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if known.is_some_and(|leader| leader.origin() == target.origin()) {
            return Ok(true);
        }
        let call = Call::leader();
        let url = url(&self.address.url, &call.path);
        let response = self.once(&call, None, &url).await?;
        let answer = reply(response, &shown(&url)).await?;
        let leader = serde_json::from_slice::<LeaderInfo>(&answer.body)
            .ok()
            .and_then(|info| Url::parse(&info.leader_address?).ok());
        let Some(leader) = leader else {
            return Ok(false);
        };
        let same = leader.origin() == target.origin() && keeps_secrets(&self.address.url, target);
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(leader);
        Ok(same)
    }
}

/// An address with its base path, the version, and a path of which every part is escaped.
fn url(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        let parts = path.split('/').map(str::trim).filter(|s| !s.is_empty());
        segments.pop_if_empty().push("v1").extend(parts);
    }
    url
}

/// Where a redirect leads; `None`: the answer is none.
fn target(response: &Response, from: &Url) -> Result<Option<Url>, Failure> {
    // The others would turn a login into a GET; nothing in Vault answers with them.
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let text = response
        .headers()
        .get(LOCATION)
        .and_then(|l| l.to_str().ok());
    let target = text.and_then(|l| from.join(l).ok());
    match target.filter(|t| matches!(t.scheme(), "http" | "https") && t.has_host()) {
        Some(target) if matches!(response.status().as_u16(), 307 | 308) => Ok(Some(target)),
        Some(target) => Err(answers::not_vault(
            &shown(from),
            &format!(
                "it sends every request to {}, as a login page does",
                shown(&target)
            ),
        )),
        None => Err(answers::not_vault(
            &shown(from),
            "it sends requests nowhere",
        )),
    }
}

/// The server that already has the token, reached no less safely.
fn same_server(from: &Url, to: &Url) -> bool {
    let upgraded = from.scheme() == "http" && to.scheme() == "https";
    from.host() == to.host()
        && (from.origin() == to.origin() || upgraded)
        && keeps_secrets(from, to)
}

fn keeps_secrets(from: &Url, to: &Url) -> bool {
    from.scheme() != "https" || to.scheme() == "https"
}

/// The whole answer, within bounds.
async fn reply(mut response: Response, at: &str) -> Result<Reply, Failure> {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let room = response
        .content_length()
        .and_then(|n| usize::try_from(n).ok());
    let mut body = Zeroizing::new(Vec::with_capacity(room.unwrap_or(8192).min(LARGEST)));
    while let Some(part) = response
        .chunk()
        .await
        .map_err(|error| answers::half_an_answer(&error, at))?
    {
        if body.len() + part.len() > LARGEST {
            return Err(answers::not_vault(at, "its answer does not end"));
        }
        if body.len() + part.len() > body.capacity() {
            // Growing in place would leave a copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * (body.len() + part.len())));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&part);
    }
    Ok(Reply {
        status,
        body,
        retry_after,
    })
}

#[cfg(test)]
mod tests;
