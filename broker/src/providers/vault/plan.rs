//! From a caller's settings to a login at one Vault; pure.

use std::path::PathBuf;

use mlflow_secrets_auth_core::secret::Secret;
use mlflow_secrets_auth_core::variables::{Role, Settings};
use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::errors::Failure;
use crate::lifetimes::login::Kind;
use crate::providers::http::Tls;
use crate::providers::required;

/// Everything that decides which login it is. Equal settings are the same login.
pub(super) struct Plan {
    /// What of the settings it was made of; the proxies among them are read again.
    pub(super) settings: Settings,
    pub(super) address: Address,
    pub(super) namespace: Option<HeaderValue>,
    pub(super) auth: Auth,
    pub(super) tls: Tls,
}

/// Where Vault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// With a base path, where there is one.
    pub(super) url: Url,
}

/// Who we are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Auth {
    Token(Secret),
    TokenFile {
        path: PathBuf,
        /// It lies where `vault login` puts it, and nobody asked for it by name.
        by_default: bool,
    },
    AppRole {
        role_id: String,
        secret_id: SecretId,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum SecretId {
    Value(Secret),
    File(PathBuf),
}

// === impl Plan ===

impl Plan {
    /// Only what belongs to the login: who differs in nothing else shares it.
    pub(super) fn settings_of(settings: &Settings) -> Settings {
        settings.restricted(|v| v.role == Role::Login)
    }

    /// # Errors
    /// A setting is missing or makes no sense; names the variable, never a secret.
    pub(super) fn new(settings: Settings) -> Result<Self, Failure> {
        let address = Address::parse(required(
            &settings,
            "VAULT_ADDR",
            "https://vault.example.com:8200",
        )?)?;
        Ok(Self {
            address,
            namespace: namespace(&settings)?,
            auth: Auth::of(&settings)?,
            tls: tls(&settings)?,
            settings,
        })
    }

    /// Who logs in where, for people; never a secret.
    pub(super) fn identity(&self) -> String {
        let who = match &self.auth {
            Auth::Token(_) => "token".to_owned(),
            Auth::TokenFile { path, .. } => format!("token of {}", path.display()),
            Auth::AppRole { role_id, .. } => format!("approle {role_id}"),
        };
        let namespace = match self.namespace.as_ref().and_then(|n| n.to_str().ok()) {
            Some(namespace) => format!(", namespace {namespace}"),
            None => String::new(),
        };
        format!("{who} at {}{namespace}", self.address.shown())
    }

    pub(super) fn kind(&self) -> Kind {
        match self.auth {
            Auth::AppRole { .. } => Kind::Minted,
            Auth::Token(_) | Auth::TokenFile { .. } => Kind::Given,
        }
    }

    /// What the settings give up; shown as long as they are in use.
    pub(super) fn warnings(&self) -> Vec<String> {
        let shown = self.address.shown();
        let mut warnings = Vec::new();
        if self.tls.skip_verify && self.address.url.scheme() == "https" {
            warnings.push(format!(
                "VAULT_SKIP_VERIFY is on: anyone on the way to {shown} can read and change every secret. Use VAULT_CACERT instead"
            ));
        }
        if self.address.is_open() {
            warnings.push(format!(
                "{shown} is plain http: everyone on the way can read the login and the secret. Use https"
            ));
        }
        warnings
    }
}

// === impl Address ===

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |what: &str| {
            Failure::not_configured(
                format!("VAULT_ADDR {what}"),
                "Set it to a URL such as https://vault.example.com:8200",
            )
        };
        let mut url = Url::parse(text).map_err(|_| bad("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("is not an http or https URL"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("names no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("holds a user or a password, which Vault does not use"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("holds a query or a fragment"));
        }
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
        }
        Ok(Self { url })
    }

    /// Scheme, host and port.
    pub(super) fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Whether others can listen.
    fn is_open(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let loopback = host == "localhost" || address.is_ok_and(|a| a.is_loopback());
        self.url.scheme() == "http" && !loopback
    }
}

/// Scheme, host and port of a URL: nothing else of it is anybody's business.
pub(super) fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

// === impl Auth ===

impl Auth {
    /// A token wins over AppRole; the file of `vault login` is what is left.
    fn of(settings: &Settings) -> Result<Self, Failure> {
        if let Some(token) = settings.secret("VAULT_TOKEN") {
            if !is_token(token.reveal()) {
                return Err(Failure::not_configured(
                    "VAULT_TOKEN holds characters that no token has",
                    "Set it again, without spaces and line breaks",
                ));
            }
            return Ok(Self::Token(token.clone()));
        }
        if let Some(path) = settings.get("MLFLOW_VAULT_TOKEN_FILE") {
            return Ok(Self::TokenFile {
                path: path.into(),
                by_default: false,
            });
        }
        let secret_id = match (
            settings.secret("VAULT_SECRET_ID"),
            settings.get("MLFLOW_VAULT_SECRET_ID_FILE"),
        ) {
            (Some(value), _) => Some(SecretId::Value(value.clone())),
            (None, Some(path)) => Some(SecretId::File(path.into())),
            (None, None) => None,
        };
        match (settings.get("VAULT_ROLE_ID"), secret_id) {
            (Some(role_id), Some(secret_id)) => Ok(Self::AppRole {
                role_id: role_id.to_owned(),
                secret_id,
            }),
            (Some(_), None) => Err(Failure::not_configured(
                "VAULT_ROLE_ID is set, but VAULT_SECRET_ID is not",
                "Set VAULT_SECRET_ID to a secret id of that role, or MLFLOW_VAULT_SECRET_ID_FILE to a file with it",
            )),
            (None, Some(_)) => Err(Failure::not_configured(
                "a secret id is set, but VAULT_ROLE_ID is not",
                "Set VAULT_ROLE_ID to the role id that it belongs to",
            )),
            (None, None) => match settings.get("HOME") {
                Some(home) => Ok(Self::TokenFile {
                    path: PathBuf::from(home).join(".vault-token"),
                    by_default: true,
                }),
                None => Err(no_login("")),
            },
        }
    }
}

/// Nothing says who we are.
pub(super) fn no_login(also: &str) -> Failure {
    Failure::not_configured(
        format!(
            "no login for Vault is configured: neither VAULT_TOKEN nor VAULT_ROLE_ID and VAULT_SECRET_ID are set{also}"
        ),
        "Set VAULT_ROLE_ID and VAULT_SECRET_ID, or VAULT_TOKEN, or run `vault login`",
    )
}

/// What can be a token and can stand in a header.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

fn namespace(settings: &Settings) -> Result<Option<HeaderValue>, Failure> {
    let Some(text) = settings.get("VAULT_NAMESPACE") else {
        return Ok(None);
    };
    let text = text.trim_matches('/');
    if text.is_empty() || text == "root" {
        return Ok(None);
    }
    let plain = text.bytes().all(|b| b.is_ascii_graphic());
    HeaderValue::from_str(text)
        .ok()
        .filter(|_| plain)
        .map(Some)
        .ok_or_else(|| {
            Failure::not_configured(
                "VAULT_NAMESPACE holds characters that no namespace has",
                "Set it to a namespace such as team/ml",
            )
        })
}

fn tls(settings: &Settings) -> Result<Tls, Failure> {
    let path = |name: &str| settings.get(name).map(PathBuf::from);
    let client = match (path("VAULT_CLIENT_CERT"), path("VAULT_CLIENT_KEY")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(Failure::not_configured(
                "VAULT_CLIENT_CERT is set, but VAULT_CLIENT_KEY is not",
                "Set both, or neither",
            ));
        }
        (None, Some(_)) => {
            return Err(Failure::not_configured(
                "VAULT_CLIENT_KEY is set, but VAULT_CLIENT_CERT is not",
                "Set both, or neither",
            ));
        }
    };
    let (mut ca_file, mut ca_dir) = (path("VAULT_CACERT"), path("VAULT_CAPATH"));
    if ca_file.is_none() && ca_dir.is_none() {
        (ca_file, ca_dir) = (path("SSL_CERT_FILE"), path("SSL_CERT_DIR"));
    }
    Ok(Tls {
        ca_file,
        ca_dir,
        client,
        server_name: settings.get("VAULT_TLS_SERVER_NAME").map(str::to_owned),
        skip_verify: settings.flag("VAULT_SKIP_VERIFY"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Class;

    fn plan(pairs: &[(&'static str, &str)]) -> Result<Plan, Failure> {
        let mut settings = Settings::default();
        for (name, value) in pairs {
            settings.set(name, Secret::new(*value));
        }
        Plan::new(settings)
    }

    #[test]
    fn addresses() {
        for (text, want) in [
            (
                "https://vault.example.com:8200",
                "https://vault.example.com:8200/",
            ),
            ("http://127.0.0.1:8200/", "http://127.0.0.1:8200/"),
            (
                "https://proxy.example.com/vault/",
                "https://proxy.example.com/vault",
            ),
            ("HTTPS://V.example.com", "https://v.example.com/"),
        ] {
            assert_eq!(Address::parse(text).unwrap().url.as_str(), want);
        }
        for text in [
            "vault.example.com:8200",
            "vault",
            "",
            "unix:///run/vault",
            "https://",
            "https://u:p@v/",
            "https://v/?x=1",
            "https://v/#x",
            "file:///etc/passwd",
        ] {
            let failure = Address::parse(text).unwrap_err();
            assert_eq!(failure.class, Class::NotConfigured, "{text}");
            assert!(failure.cause.starts_with("VAULT_ADDR "));
        }
    }

    #[test]
    fn who_wins() {
        let at = ("VAULT_ADDR", "http://127.0.0.1:8200");
        let identity = |pairs: &[(&'static str, &str)]| plan(pairs).map(|p| p.identity());
        let role = ("VAULT_ROLE_ID", "r");
        let secret = ("VAULT_SECRET_ID", "hunter2");
        let home = ("HOME", "/home/me");
        let token = ("VAULT_TOKEN", "s.x");
        assert_eq!(
            identity(&[at, role, secret, home, token]).unwrap(),
            "token at http://127.0.0.1:8200"
        );
        assert_eq!(
            identity(&[at, role, secret, home, ("VAULT_NAMESPACE", "/a/b/")]).unwrap(),
            "approle r at http://127.0.0.1:8200, namespace a/b"
        );
        assert_eq!(
            identity(&[at, home]).unwrap(),
            "token of /home/me/.vault-token at http://127.0.0.1:8200"
        );
        for pairs in [&[at][..], &[at, role], &[at, secret], &[role, secret]] {
            let failure = identity(pairs).unwrap_err();
            assert_eq!(failure.class, Class::NotConfigured);
            assert!(
                failure.to_string().contains("VAULT_") && !failure.to_string().contains("hunter2")
            );
        }
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_refused_and_not_shown() {
        let at = ("VAULT_ADDR", "http://127.0.0.1:8200");
        for bad in ["hunter 2", "hunter\t2", "hünter2"] {
            for pairs in [
                [at, ("VAULT_TOKEN", bad), ("HOME", "/")],
                [at, ("VAULT_TOKEN", "x"), ("VAULT_NAMESPACE", bad)],
            ] {
                let failure = plan(&pairs).err().unwrap().to_string();
                assert!(
                    failure.starts_with("VAULT_") && !failure.contains("nter"),
                    "{failure}"
                );
            }
        }
    }

    #[test]
    fn half_a_client_certificate_and_open_ways() {
        let token = ("VAULT_TOKEN", "x");
        let at = ("VAULT_ADDR", "http://127.0.0.1:8200");
        assert!(plan(&[at, token, ("VAULT_CLIENT_CERT", "/c")]).is_err());
        assert!(plan(&[at, token]).unwrap().warnings().is_empty());
        let open = plan(&[("VAULT_ADDR", "http://vault:8200"), token]).unwrap();
        assert!(open.warnings()[0].contains("plain http"));
        let pairs = [
            ("VAULT_ADDR", "https://vault:8200"),
            token,
            ("VAULT_SKIP_VERIFY", "1"),
        ];
        assert!(plan(&pairs).unwrap().warnings()[0].contains("VAULT_SKIP_VERIFY"));
    }
}
