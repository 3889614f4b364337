//! Vault's noes, classified once. No body, token or secret id is ever quoted.

use serde::Deserialize;

use super::api::{Envelope, Versioned};
use super::path::{Engine, Place, policy};
use super::wire::Reply;
use crate::errors::{Class, Failure};
use crate::lifetimes::login::Doubt;
use crate::providers::http;

/// What was asked for when Vault said no.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    /// An AppRole login, under this role id.
    LogIn(&'a str),
    /// What the token is worth that was found here.
    LookUp(&'a str),
    Renew,
    Mount,
    Read(&'a Place),
}

/// No answer at all.
pub(super) fn no_answer(error: &reqwest::Error, at: &str) -> Failure {
    if let Some(cause) = http::tls_cause(error) {
        return tls(&cause, at);
    }
    let up = "Check VAULT_ADDR, that Vault is up, and that it can be reached from here";
    if error.is_timeout() {
        let what = if error.is_connect() {
            "no connection came up in time"
        } else {
            "it accepted the request and did not answer in time"
        };
        return Failure::new(
            Class::Unreachable,
            format!("Vault at {at} cannot be reached: {what}"),
            up,
        );
    }
    Failure::new(
        Class::Unreachable,
        format!("Vault at {at} cannot be reached: {}", http::chain(error)),
        up,
    )
}

/// The answer broke off.
pub(super) fn half_an_answer(error: &reqwest::Error, at: &str) -> Failure {
    if let Some(cause) = http::tls_cause(error) {
        return tls(&cause, at);
    }
    let what = if error.is_timeout() {
        "did not finish its answer in time"
    } else {
        "ended its answer half-way"
    };
    Failure::new(
        Class::Unreachable,
        format!("Vault at {at} {what}"),
        "Try again; if it stays, check what stands between here and Vault",
    )
}

/// Something answers there that does not speak Vault's language.
pub(super) fn not_vault(at: &str, what: &str) -> Failure {
    Failure::new(
        Class::Unreachable,
        format!("what answers at {at} does not look like Vault: {what}"),
        "Check VAULT_ADDR: it is the address of Vault itself, not of a web page in front of it",
    )
}

fn tls(cause: &str, at: &str) -> Failure {
    let has = |words: &[&str]| words.iter().any(|w| cause.contains(w));
    let next_step = if has(&[
        "UnknownIssuer",
        "unknown issuer",
        "SelfSigned",
        "CaUsedAsEndEntity",
    ]) {
        "Set VAULT_CACERT to the file with the CA that signed Vault's certificate"
    } else if has(&[
        "NotValidForName",
        "not valid for name",
        "not valid for any names",
    ]) {
        "Write the name of the certificate into VAULT_ADDR, or set VAULT_TLS_SERVER_NAME to it"
    } else if has(&["expired", "Expired", "not valid yet", "NotValidYet"]) {
        "Renew Vault's certificate, or check this machine's clock"
    } else if has(&[
        "CertificateRequired",
        "BadCertificate",
        "HandshakeFailure",
        "AccessDenied",
        "UnknownCA",
        "certificate required",
    ]) {
        "Set VAULT_CLIENT_CERT and VAULT_CLIENT_KEY to a certificate that Vault accepts"
    } else if has(&["InvalidContentType", "corrupt message", "InvalidMessage"]) {
        "Check VAULT_ADDR: this port may speak http, not https"
    } else {
        "Check VAULT_CACERT, VAULT_TLS_SERVER_NAME and Vault's certificate"
    };
    Failure::new(
        Class::Tls,
        format!("no trusted connection to Vault at {at}: {cause}"),
        next_step,
    )
}

/// Why an answer is not the one that was wanted.
pub(super) fn failure(reply: &Reply, asked: Asked<'_>, at: &str) -> Failure {
    let errors = Errors::of(reply);
    let status = reply.status;
    let says = |text: &str| errors.as_ref().is_some_and(|e| e.say(text));
    let mut failure = match (status, asked) {
        (429, _) => Failure::new(
            Class::Throttled,
            format!("Vault at {at} answers 429: too many requests"),
            "It is asked again by itself; if it stays, raise Vault's rate limit quota",
        ),
        (503, _) if says("is sealed") => Failure::new(
            Class::Sealed,
            format!("Vault at {at} is sealed"),
            "Somebody who holds its keys has to unseal it",
        ),
        (501, _) => Failure::new(
            Class::Sealed,
            format!("Vault at {at} is not initialised"),
            "Initialise it, or correct VAULT_ADDR",
        ),
        (412 | 472 | 473, _) => Failure::new(
            Class::Unreachable,
            format!("Vault at {at} answers {status}: it is a standby that cannot serve this now"),
            "Set VAULT_ADDR to the active server or to the cluster's load balancer",
        ),
        (500.., _) => Failure::new(
            Class::Unreachable,
            format!("Vault at {at} answers {status}: an error of its own"),
            "Look into Vault's log; it is asked again by itself",
        ),
        (407, _) => Failure::new(
            Class::Unreachable,
            format!("the proxy on the way to Vault at {at} answers 407: it wants a login"),
            "Write user and password into HTTPS_PROXY, or name Vault's host in NO_PROXY",
        ),
        (400, _) if errors.is_none() && holds(reply, "HTTPS server") => Failure::new(
            Class::Tls,
            format!("Vault at {at} speaks https, and was asked in plain http"),
            "Write https:// in VAULT_ADDR",
        ),
        (400, _) if says("Upgrading") => Failure::new(
            Class::Unreachable,
            format!("Vault at {at} is upgrading that secrets engine"),
            "It is asked again by itself",
        ),
        (404, _) if says("namespace not found") => Failure::new(
            Class::NotFound,
            format!("Vault at {at} does not know the namespace in VAULT_NAMESPACE"),
            "Correct or unset VAULT_NAMESPACE",
        ),
        _ if errors.is_none() => {
            not_vault(at, &format!("it answers {status} without Vault's words"))
        }
        (_, asked) => refusal(status, asked, at, &says, reply),
    };
    failure.retry_after = reply.retry_after;
    failure
}

/// What Vault itself means by a 4xx.
fn refusal(
    status: u16,
    asked: Asked<'_>,
    at: &str,
    says: &dyn Fn(&str) -> bool,
    reply: &Reply,
) -> Failure {
    match asked {
        Asked::LogIn(role_id) => log_in(status, role_id, at, says),
        Asked::LookUp(place) => Failure::new(
            Class::NotAuthenticated,
            format!(
                "Vault at {at} does not accept the token in {place}: it has expired, was revoked or is of another Vault"
            ),
            if place == "VAULT_TOKEN" {
                "Set VAULT_TOKEN to a new one, or use VAULT_ROLE_ID and VAULT_SECRET_ID, which the broker logs in with by itself"
            } else {
                "Run `vault login`, or use VAULT_ROLE_ID and VAULT_SECRET_ID, which the broker logs in with by itself"
            },
        ),
        Asked::Renew => Failure::new(
            Class::NotAuthenticated,
            format!("Vault at {at} answers {status} to renewing the token"),
            "Permit auth/token/renew-self, as the policy `default` does",
        ),
        Asked::Mount => Failure::new(
            Class::NotPermitted,
            format!("Vault at {at} does not say what is mounted there"),
            "Check the path in MLFLOW_VAULT_SECRET_PATH",
        ),
        Asked::Read(place) => read(status, place, at, says, reply),
    }
}

fn log_in(status: u16, role_id: &str, at: &str, says: &dyn Fn(&str) -> bool) -> Failure {
    let (what, next_step) =
        if says("invalid role") || says("invalid secret id") || says("failed to validate") {
            (
                "invalid role or secret id, or the secret id has expired or was used up",
                "Set VAULT_SECRET_ID to a new secret id of that role, and check VAULT_ROLE_ID",
            )
        } else if says("CIDR") {
            (
                "not from this machine's address",
                "Add the address to the role's or the secret id's CIDR list",
            )
        } else if status == 403 || status == 404 {
            (
                "there may be no AppRole login at auth/approle",
                "Enable it (`vault auth enable approle`), and check VAULT_NAMESPACE",
            )
        } else {
            (
                "it answers that the request is not valid",
                "Check VAULT_ROLE_ID and VAULT_SECRET_ID",
            )
        };
    Failure::new(
        Class::NotAuthenticated,
        format!(
            "Vault at {at} does not accept the AppRole login of role id {role_id} ({status}: {what})"
        ),
        next_step,
    )
}

fn read(
    status: u16,
    place: &Place,
    at: &str,
    says: &dyn Fn(&str) -> bool,
    reply: &Reply,
) -> Failure {
    let path = place.api_path();
    let name = format!("{}/{}", place.mount, place.path);
    match status {
        403 => not_permitted(&[path], at),
        404 if says("no handler") => Failure::new(
            Class::NotFound,
            format!("Vault at {at} has no secrets engine mounted for {name}"),
            format!(
                "Begin MLFLOW_VAULT_SECRET_PATH with the engine's mount, for example secret/{name}"
            ),
        ),
        404 => match version(reply) {
            Some((number, how)) if place.engine == Engine::Kv2 => Failure::new(
                Class::NotFound,
                format!(
                    "version {number} of the secret {name} in Vault at {at}, the latest, {how}"
                ),
                format!("Write it again: `vault kv put {name} token=...`"),
            ),
            _ => Failure::new(
                Class::NotFound,
                format!("there is no secret {name} in Vault at {at}"),
                format!(
                    "Write it: `vault kv put {name} token=...`, or correct MLFLOW_VAULT_SECRET_PATH"
                ),
            ),
        },
        _ => Failure::new(
            Class::NotFound,
            format!(
                "Vault at {at} answers {status} to reading {path}: it cannot be read like that"
            ),
            "Check the path in MLFLOW_VAULT_SECRET_PATH",
        ),
    }
}

/// No policy of this login permits any of these paths.
pub(super) fn not_permitted(api_paths: &[String], at: &str) -> Failure {
    let paths = api_paths.join(" or ");
    let text = api_paths
        .first()
        .map(|path| policy(path))
        .unwrap_or_default();
    Failure::new(
        Class::NotPermitted,
        format!("this login may not read {paths} in Vault at {at} (403: permission denied)"),
        format!("Give it a policy with: {text}"),
    )
}

/// What a 403 says about the token. A token that is unknown is denied before any policy is
/// looked at: Vault then says so, or has nothing to list.
pub(super) fn doubt(reply: &Reply) -> Option<Doubt> {
    if reply.status != 403 {
        return None;
    }
    let errors = Errors::of(reply)?;
    let unknown = errors.say("invalid token") || errors.errors == ["permission denied"];
    Some(if unknown { Doubt::Dead } else { Doubt::Denied })
}

#[derive(Default, Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

impl Errors {
    /// `None`: these are not Vault's words at all, but a web page or noise.
    fn of(reply: &Reply) -> Option<Self> {
        if reply.body.is_empty() {
            return Some(Self::default());
        }
        serde_json::from_slice(&reply.body).ok()
    }

    fn say(&self, text: &str) -> bool {
        self.errors.iter().any(|e| e.contains(text))
    }
}

/// KV version 2 answers 404 with the metadata of a version that is gone.
fn version(reply: &Reply) -> Option<(u64, String)> {
    let envelope: Envelope<'_> = serde_json::from_slice(&reply.body).ok()?;
    let data: Versioned<'_> = serde_json::from_str(envelope.data?.get()).ok()?;
    let info = data.metadata?;
    let how = if info.destroyed {
        "was destroyed".to_owned()
    } else {
        let when = info.deletion_time.split('.').next().unwrap_or_default();
        format!("was deleted at {}", when.trim_end_matches('Z'))
    };
    Some((info.version, how))
}

fn holds(reply: &Reply, text: &str) -> bool {
    String::from_utf8_lossy(&reply.body).contains(text)
}

#[cfg(test)]
mod tests;
