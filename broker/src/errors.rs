//! Failures, classified once; the same words in exceptions, `doctor`, `status` and docs.

use std::fmt;
use std::time::Duration;

/// What kind of failure it is; decides whether it passes by itself and who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// A setting is missing or makes no sense.
    NotConfigured,
    /// This broker or its policy does not serve that.
    Refused,
    /// No connection, no answer in time, or a server error.
    Unreachable,
    /// The certificate or the handshake is bad.
    Tls,
    /// The secret manager does not accept the login.
    NotAuthenticated,
    /// The login may not read the secret.
    NotPermitted,
    /// Vault is sealed.
    Sealed,
    /// There is no such secret.
    NotFound,
    /// The secret is there, but no header can be made of it.
    BadSecret,
    /// Too many requests.
    Throttled,
}

/// A failure that a person can act on. Neither text ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}. {next_step}")]
pub(crate) struct Failure {
    pub(crate) class: Class,
    /// What happened, where. No full stop.
    pub(crate) cause: String,
    /// What to do about it. No full stop.
    pub(crate) next_step: String,
    /// The secret manager's own wish.
    pub(crate) retry_after: Option<Duration>,
}

impl Class {
    /// Whether it may pass by itself: the last good credential then goes on for a bounded time.
    pub(crate) fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Tls | Self::Sealed | Self::Throttled
        )
    }

    /// Whether the next enabled provider is asked instead. A TLS or permission failure is never
    /// a reason to send somebody else's credential.
    pub(crate) fn falls_back(self) -> bool {
        matches!(self, Self::NotConfigured | Self::Unreachable | Self::Sealed)
    }

    /// The class as a name for machines: the `reason` of a `google.rpc.ErrorInfo`.
    pub(crate) fn reason(self) -> String {
        self.to_string().to_ascii_uppercase().replace(' ', "_")
    }

    /// The canonical gRPC code. UNAUTHENTICATED is kept for handles that are not known.
    pub(crate) fn code(self) -> tonic::Code {
        match self {
            Self::NotConfigured => tonic::Code::InvalidArgument,
            Self::Refused | Self::NotAuthenticated | Self::NotPermitted => {
                tonic::Code::PermissionDenied
            }
            Self::Unreachable | Self::Tls | Self::Sealed => tonic::Code::Unavailable,
            Self::NotFound => tonic::Code::NotFound,
            Self::BadSecret => tonic::Code::FailedPrecondition,
            Self::Throttled => tonic::Code::ResourceExhausted,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConfigured => "not configured",
            Self::Refused => "refused",
            Self::Unreachable => "cannot reach",
            Self::Tls => "TLS",
            Self::NotAuthenticated => "not authenticated",
            Self::NotPermitted => "not permitted",
            Self::Sealed => "sealed",
            Self::NotFound => "not found",
            Self::BadSecret => "bad secret",
            Self::Throttled => "throttled",
        })
    }
}

impl Failure {
    pub(crate) fn new(
        class: Class,
        cause: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        Self {
            class,
            cause: cause.into(),
            next_step: next_step.into(),
            retry_after: None,
        }
    }

    pub(crate) fn not_configured(cause: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Class::NotConfigured, cause, next_step)
    }

    pub(crate) fn bad_secret(cause: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::new(Class::BadSecret, cause, next_step)
    }

    /// As the contract's error.
    pub(crate) fn to_status(&self) -> tonic::Status {
        use tonic_types::{ErrorDetails, StatusExt};
        let details = ErrorDetails::with_error_info(
            self.class.reason(),
            mlflow_secrets_auth_core::contract::ERROR_DOMAIN,
            std::collections::HashMap::from([
                ("cause".to_owned(), self.cause.clone()),
                ("next_step".to_owned(), self.next_step.clone()),
            ]),
        );
        tonic::Status::with_error_details(self.class.code(), self.to_string(), details)
    }

    /// As status and reports show it.
    pub(crate) fn to_problem(&self) -> mlflow_secrets_auth_core::contract::Problem {
        mlflow_secrets_auth_core::contract::Problem {
            kind: self.class.to_string(),
            cause: self.cause.clone(),
            next_step: self.next_step.clone(),
        }
    }
}

impl From<mlflow_secrets_auth_core::variables::BadSetting> for Failure {
    fn from(bad: mlflow_secrets_auth_core::variables::BadSetting) -> Self {
        let text = bad.to_string();
        let (cause, next_step) = text
            .split_once(". ")
            .unwrap_or((&text, "See `mlflow-secrets-auth doctor`"));
        Self::not_configured(cause, next_step)
    }
}
