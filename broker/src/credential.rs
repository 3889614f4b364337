//! From the text of a secret to the headers it stands for.
//!
//! The rules are those of the Python plugin of the same name: a JSON object holds `token`, or
//! `username` and `password`; everything else is text, even where it happens to parse as JSON.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use mlflow_secrets_auth_core::headers::{
    DEFAULT_NAME, canonical_name, is_valid_name, is_valid_value,
};
use mlflow_secrets_auth_core::secret::Secret;
use zeroize::Zeroizing;

use crate::errors::Failure;

/// A clock that is a little off must not make a good token look expired.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// What becomes of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) mode: AuthMode,
    /// The header's canonical name.
    pub(crate) header: String,
}

/// How a credential is put into a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AuthMode {
    Bearer,
    Basic,
}

/// The headers that a secret stands for, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) headers: Vec<(String, Secret)>,
}

enum Parsed {
    Token(Secret),
    Pair { username: Secret, password: Secret },
    Text(Secret),
}

// === impl Shape ===

impl Shape {
    /// Parses the settings' words; both have defaults.
    pub(crate) fn parse(
        mode: Option<&str>,
        header: Option<&str>,
        mode_variable: &str,
    ) -> Result<Self, Failure> {
        let mode = match mode.map(str::to_ascii_lowercase).as_deref() {
            None | Some("bearer") => AuthMode::Bearer,
            Some("basic") => AuthMode::Basic,
            Some(_) => {
                return Err(Failure::not_configured(
                    format!("{mode_variable} is neither `bearer` nor `basic`"),
                    format!("Set {mode_variable} to one of them"),
                ));
            }
        };
        let header = canonical_name(header.unwrap_or(DEFAULT_NAME));
        if !is_valid_name(header) {
            return Err(Failure::not_configured(
                "MLFLOW_AUTH_HEADER_NAME is not the name of a header that can carry a credential",
                "Set it to a name such as X-Api-Key, or unset it for Authorization",
            ));
        }
        Ok(Self {
            mode,
            header: header.to_owned(),
        })
    }
}

impl AuthMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Basic => "basic",
        }
    }
}

// === impl Credential ===

impl Credential {
    /// Makes headers of a secret's text. `source` is for messages.
    pub(crate) fn parse(text: &Secret, shape: &Shape, source: &str) -> Result<Self, Failure> {
        let bad = |what: &str, fix: &str| {
            Failure::bad_secret(format!("the secret {source} {what}"), fix.to_owned())
        };
        let parsed = Parsed::parse(text, source)?;
        let value = match (&parsed, shape.mode) {
            (Parsed::Token(token) | Parsed::Text(token), AuthMode::Bearer) => {
                if shape.header == DEFAULT_NAME {
                    Secret::new(format!("Bearer {}", token.reveal()))
                } else {
                    token.clone()
                }
            }
            (Parsed::Pair { .. }, AuthMode::Bearer) => {
                return Err(bad(
                    "holds a username and a password, but the auth mode is bearer",
                    "Set the auth mode to basic, or store {\"token\": \"...\"}",
                ));
            }
            (Parsed::Pair { username, password }, AuthMode::Basic) => {
                if username.reveal().contains(':') {
                    return Err(bad(
                        "holds a username with a colon, which basic authentication cannot carry",
                        "Use another username",
                    ));
                }
                basic(username.reveal(), password.reveal())
            }
            (Parsed::Token(text) | Parsed::Text(text), AuthMode::Basic) => {
                let Some((username, password)) = text.reveal().split_once(':') else {
                    return Err(bad(
                        "holds no `username:password`, but the auth mode is basic",
                        "Store {\"username\": \"...\", \"password\": \"...\"} or `username:password`, or set the auth mode to bearer",
                    ));
                };
                basic(username, password)
            }
        };
        if !is_valid_value(value.as_ref()) {
            return Err(bad(
                "holds characters that HTTP forbids in a header (a line break, a control character or text beyond ASCII)",
                "Store it again without them",
            ));
        }
        Ok(Self {
            headers: vec![(shape.header.clone(), value)],
        })
    }
}

fn basic(username: &str, password: &str) -> Secret {
    let pair = Zeroizing::new(format!("{username}:{password}"));
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    Secret::new(format!("Basic {}", encoded.as_str()))
}

// === impl Parsed ===

impl Parsed {
    fn parse(text: &Secret, source: &str) -> Result<Self, Failure> {
        let bad = |what: &str, fix: &str| {
            Failure::bad_secret(format!("the secret {source} {what}"), fix.to_owned())
        };
        let text = text.reveal().trim();
        if text.is_empty() {
            return Err(bad(
                "is blank",
                "Store a token, or a username and a password",
            ));
        }
        let shape = "Store {\"token\": \"...\"} or {\"username\": \"...\", \"password\": \"...\"}";
        if text.starts_with('[') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
            return Err(bad("is a JSON array", shape));
        }
        if !text.starts_with('{') {
            return Ok(Self::Text(Secret::new(text)));
        }
        let Ok(fields) = serde_json::from_str::<Fields>(text) else {
            // Text that only looks like JSON stays text; an object with fields of other types does not.
            return match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                Ok(_) => Err(bad(
                    "is a JSON object whose token, username or password is not a string",
                    shape,
                )),
                Err(_) => Ok(Self::Text(Secret::new(text))),
            };
        };
        match (
            fields.get("token"),
            fields.get("username"),
            fields.get("password"),
        ) {
            (Some(token), ..) => Ok(Self::Token(token)),
            (None, Some(username), Some(password)) => Ok(Self::Pair { username, password }),
            _ => Err(bad(
                "is a JSON object without `token`, and without both `username` and `password`",
                shape,
            )),
        }
    }
}

/// The fields that count; what else stands in the object is nobody's business and is not kept.
#[derive(serde::Deserialize)]
struct Fields {
    token: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Fields {
    /// A field that is a string and not blank, trimmed.
    fn get(&self, name: &str) -> Option<Secret> {
        let field = match name {
            "token" => &self.token,
            "username" => &self.username,
            _ => &self.password,
        };
        field
            .as_deref()
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(Secret::new)
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        for field in [&mut self.token, &mut self.username, &mut self.password] {
            field.zeroize();
        }
    }
}

/// How long the JSON web token in a header has left, where the credential is one.
///
/// # Errors
/// When it has expired beyond doubt.
pub(crate) fn jwt_life(
    credential: &Credential,
    unix_now: Duration,
    source: &str,
) -> Result<Option<Duration>, Failure> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: Option<f64>,
    }
    let Some((_, value)) = credential.headers.first() else {
        return Ok(None);
    };
    let token = value
        .reveal()
        .strip_prefix("Bearer ")
        .unwrap_or(value.reveal());
    let mut parts = token.split('.');
    let (Some(head), Some(body), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Ok(None);
    };
    if !head.starts_with("eyJ") {
        return Ok(None);
    }
    let Ok(body) = URL_SAFE_NO_PAD.decode(body).map(Zeroizing::new) else {
        return Ok(None);
    };
    let Ok(Claims { exp: Some(expiry) }) = serde_json::from_slice(&body) else {
        return Ok(None);
    };
    if !expiry.is_finite() || !(0.0..=1e12).contains(&expiry) {
        return Ok(None);
    }
    let expiry = Duration::from_secs_f64(expiry);
    if expiry + CLOCK_SKEW < unix_now {
        let ago = (unix_now - expiry).as_secs();
        return Err(Failure::bad_secret(
            format!("the secret {source} holds a token that expired {ago} s ago"),
            "Store a new one, or check this machine's clock",
        ));
    }
    Ok(Some(
        expiry.saturating_sub(unix_now).max(Duration::from_secs(1)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Class;

    fn header(text: &str, mode: &str, name: Option<&str>) -> Result<String, Failure> {
        let shape = Shape::parse(Some(mode), name, "MODE")?;
        let credential = Credential::parse(&Secret::new(text), &shape, "file:x")?;
        let (name, value) = &credential.headers[0];
        Ok(format!("{name}: {}", value.reveal()))
    }

    #[test]
    fn good_secrets() {
        for (text, mode, name, want) in [
            ("abc", "bearer", None, "Authorization: Bearer abc"),
            (
                " abc\n",
                "Bearer",
                Some("authorization"),
                "Authorization: Bearer abc",
            ),
            ("a:b:c", "bearer", None, "Authorization: Bearer a:b:c"),
            ("12345", "bearer", None, "Authorization: Bearer 12345"),
            (
                "\"quoted\"",
                "bearer",
                None,
                "Authorization: Bearer \"quoted\"",
            ),
            (
                "{not json",
                "bearer",
                None,
                "Authorization: Bearer {not json",
            ),
            (
                r#"{"token": " t ", "x": 1}"#,
                "bearer",
                Some("X-Api-Key"),
                "X-Api-Key: t",
            ),
            (
                r#"{"token": "u:p"}"#,
                "basic",
                None,
                "Authorization: Basic dTpw",
            ),
            ("u:p:q", "basic", None, "Authorization: Basic dTpwOnE="),
            (
                r#"{"username":"u","password":"p"}"#,
                "basic",
                Some("X-Auth"),
                "X-Auth: Basic dTpw",
            ),
            (
                r#"{"username":"ü","password":"p"}"#,
                "basic",
                None,
                "Authorization: Basic w7w6cA==",
            ),
        ] {
            assert_eq!(header(text, mode, name).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn bad_secrets_are_named_and_not_shown() {
        for (text, mode) in [
            ("", "bearer"),
            ("  \n", "bearer"),
            ("[\"hunter2\"]", "bearer"),
            (r#"{"tok": "hunter2"}"#, "bearer"),
            (r#"{"token": 5}"#, "bearer"),
            (r#"{"token": "  "}"#, "bearer"),
            (r#"{"username":"hunter2"}"#, "basic"),
            (r#"{"username":"u","password":"hunter2"}"#, "bearer"),
            (r#"{"username":"u:v","password":"hunter2"}"#, "basic"),
            ("hunter2", "basic"),
            ("hunter2\nhunter3", "bearer"),
            ("hünter2", "bearer"),
        ] {
            let failure = header(text, mode, None).unwrap_err();
            assert_eq!(failure.class, Class::BadSecret, "{text:?}");
            let said = failure.to_string();
            assert!(!said.contains("unter"), "{said}");
        }
        assert_eq!(
            header("x", "digest", None).unwrap_err().class,
            Class::NotConfigured
        );
        assert_eq!(
            header("x", "basic", Some("Host")).unwrap_err().class,
            Class::NotConfigured
        );
    }

    #[test]
    fn a_jwt_states_its_expiry() {
        let jwt = |claims: &str| {
            let part = |t: &str| URL_SAFE_NO_PAD.encode(t);
            let text = Secret::new(format!(
                "{}.{}.sig",
                part(r#"{"alg":"none"}"#),
                part(claims)
            ));
            Credential::parse(&text, &Shape::parse(None, None, "").unwrap(), "x").unwrap()
        };
        let now = Duration::from_secs(1_000_000);
        let life = |claims: &str| jwt_life(&jwt(claims), now, "x");
        assert_eq!(
            life(r#"{"exp": 1000060}"#).unwrap(),
            Some(Duration::from_secs(60))
        );
        assert_eq!(
            life(r#"{"exp": 999990}"#).unwrap(),
            Some(Duration::from_secs(1))
        );
        assert!(life(r#"{"exp": 999000}"#).is_err());
        assert_eq!(life(r#"{"sub": "x"}"#).unwrap(), None);
        assert_eq!(life(r#"{"exp": -5}"#).unwrap(), None);
    }
}
