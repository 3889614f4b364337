//! The endpoints that are used, and the shapes of their answers.
//!
//! vaultrs knows the endpoints. What carries a secret has shapes of our own: those of vaultrs
//! leave copies of it behind, and refuse answers that Vault really gives.

use std::borrow::Cow;

use mlflow_secrets_auth_core::secret::Secret;
use rustify_derive::Endpoint;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use vaultrs::api::kv1::requests::GetSecretRequest;
use vaultrs::api::kv2::requests::ReadSecretRequest;
pub(super) use vaultrs::api::token::requests::{
    LookupTokenSelfRequest, RenewTokenSelfRequest, RevokeTokenSelfRequest,
};
use zeroize::Zeroizing;

use super::path::{Engine, Place};

/// One request, ready to be sent.
pub(super) struct Call {
    pub(super) method: reqwest::Method,
    /// Below `/v1/`; not escaped yet.
    pub(super) path: String,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
}

/// Which mount a path belongs to, and what it is.
#[derive(Debug, Endpoint)]
#[endpoint(path = "sys/internal/ui/mounts/{self.path}")]
pub(super) struct MountRequest {
    #[endpoint(skip)]
    pub(super) path: String,
}

/// Who leads the cluster.
#[derive(Debug, Endpoint)]
#[endpoint(path = "sys/leader")]
pub(super) struct LeaderRequest {}

/// What most answers look like.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    pub(super) lease_id: Option<String>,
    pub(super) lease_duration: Option<u64>,
    #[serde(borrow)]
    pub(super) auth: Option<AuthInfo<'a>>,
}

/// A token that was made or renewed.
#[derive(Deserialize)]
pub(super) struct AuthInfo<'a> {
    #[serde(borrow)]
    pub(super) client_token: Cow<'a, str>,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// What a token is worth.
#[derive(Deserialize)]
pub(super) struct TokenInfo {
    #[serde(default)]
    pub(super) ttl: u64,
    #[serde(default)]
    pub(super) renewable: bool,
    pub(super) expire_time: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct MountInfo {
    pub(super) path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) options: Option<MountOptions>,
}

#[derive(Deserialize)]
pub(super) struct MountOptions {
    pub(super) version: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct LeaderInfo {
    pub(super) leader_address: Option<String>,
}

/// The `data` of a versioned secret.
#[derive(Deserialize)]
pub(super) struct Versioned<'a> {
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    pub(super) metadata: Option<VersionInfo>,
}

#[derive(Deserialize)]
pub(super) struct VersionInfo {
    #[serde(default)]
    pub(super) version: u64,
    #[serde(default)]
    pub(super) deletion_time: String,
    #[serde(default)]
    pub(super) destroyed: bool,
}

// === impl Call ===

impl Call {
    fn of(endpoint: &impl rustify::endpoint::Endpoint) -> Self {
        let body = endpoint.body().ok().flatten().map(Zeroizing::new);
        Self {
            method: endpoint.method().into(),
            path: endpoint.path(),
            body: body.filter(|body| !body.is_empty()),
        }
    }

    pub(super) fn app_role(role_id: &str, secret_id: &Secret) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            role_id: &'a str,
            secret_id: &'a str,
        }
        let body = Body {
            role_id,
            secret_id: secret_id.reveal(),
        };
        // Long enough from the start: growing would leave a copy of the secret id behind.
        let room = 64 + 6 * (role_id.len() + secret_id.reveal().len());
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        let written = serde_json::to_writer(&mut *bytes, &body);
        debug_assert!(written.is_ok(), "text is always JSON");
        Self {
            method: reqwest::Method::POST,
            path: "auth/approle/login".to_owned(),
            body: Some(bytes),
        }
    }

    pub(super) fn look_up() -> Self {
        Self::of(&LookupTokenSelfRequest {})
    }

    pub(super) fn renew() -> Self {
        Self::of(&RenewTokenSelfRequest { increment: None })
    }

    pub(super) fn revoke() -> Self {
        Self::of(&RevokeTokenSelfRequest {})
    }

    pub(super) fn mount(path: String) -> Self {
        Self::of(&MountRequest { path })
    }

    pub(super) fn leader() -> Self {
        Self::of(&LeaderRequest {})
    }

    pub(super) fn read(place: &Place) -> Self {
        let (mount, path) = (place.mount.clone(), place.path.clone());
        match place.engine {
            Engine::Kv2 => Self::of(&ReadSecretRequest {
                mount,
                path,
                version: None,
            }),
            Engine::Plain => Self::of(&GetSecretRequest { mount, path }),
        }
    }
}
