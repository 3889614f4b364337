//! Reading a secret: which mount, which version of KV, what of the answer is the credential.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mlflow_secrets_auth_core::secret::Secret;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answers::{self, Asked};
use super::api::{Call, Envelope, MountInfo, Versioned};
use super::path::{Engine, Place, SecretPath};
use super::wire::{Reply, Wire};
use crate::errors::{Class, Failure};
use crate::lifetimes::login::Doubt;
use crate::lifetimes::source::Life;
use crate::providers::Answer;

/// A secret, and where it lies as far as that is known.
pub(super) struct Spot {
    pub(super) path: SecretPath,
    found: Mutex<Option<Vec<Place>>>,
}

/// Why there is no secret, and whether the token may be to blame.
pub(super) struct No {
    pub(super) failure: Failure,
    pub(super) doubt: Option<Doubt>,
}

impl From<Failure> for No {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            doubt: None,
        }
    }
}

// === impl Spot ===

impl Spot {
    pub(super) fn new(path: SecretPath) -> Self {
        Self {
            path,
            found: Mutex::default(),
        }
    }

    /// Reads the secret with this token.
    pub(super) async fn read(&self, wire: &Wire, token: &Secret) -> Result<Answer, No> {
        let known = self.found().clone();
        let places = match known {
            Some(places) => places,
            None => self.ask(wire, token).await?,
        };
        let at = wire.shown();
        let (mut denied, mut doubt, mut missing) = (Vec::new(), None, None);
        for place in places {
            let reply = wire.send(&Call::read(&place), Some(token)).await?;
            if reply.status == 200 {
                let answer = self.answer(&reply, &place, &at)?;
                *self.found() = Some(vec![place]);
                return Ok(answer);
            }
            let failure = answers::failure(&reply, Asked::Read(&place), &at);
            match failure.class {
                Class::NotPermitted => {
                    denied.push(place.api_path());
                    doubt = doubt.or(answers::doubt(&reply));
                    if doubt == Some(Doubt::Dead) {
                        break;
                    }
                }
                Class::NotFound => {
                    missing.get_or_insert(failure);
                }
                _ => return Err(failure.into()),
            }
        }
        // The engine may have been mounted anew since it was asked.
        *self.found() = None;
        if denied.is_empty() {
            let nothing = || Failure::new(Class::NotFound, "there is no such secret", "Check it");
            return Err(missing.unwrap_or_else(nothing).into());
        }
        Err(No {
            failure: answers::not_permitted(&denied, &at),
            doubt,
        })
    }

    /// Where the secret lies: the mount is asked, and only where asking is denied it is guessed.
    async fn ask(&self, wire: &Wire, token: &Secret) -> Result<Vec<Place>, No> {
        let reply = wire
            .send(&Call::mount(self.path.joined()), Some(token))
            .await?;
        if reply.status == 200 {
            let info = mount(&reply).ok_or_else(|| {
                answers::not_vault(&wire.shown(), "it does not say what is mounted there")
            })?;
            let version = info.options.and_then(|o| o.version);
            let engine = match (info.kind.as_str(), version.as_deref()) {
                ("kv" | "generic", Some("2")) => Engine::Kv2,
                _ => Engine::Plain,
            };
            let place = self.path.within(&info.path, engine).ok_or_else(|| {
                Failure::not_configured(
                    "MLFLOW_VAULT_SECRET_PATH names a mount and no path in it",
                    "Add the secret's path, for example secret/mlflow/auth",
                )
            })?;
            let spelled_otherwise = place.without_data();
            let places: Vec<Place> = [Some(place), spelled_otherwise]
                .into_iter()
                .flatten()
                .collect();
            *self.found() = Some(places.clone());
            return Ok(places);
        }
        let failure = answers::failure(&reply, Asked::Mount, &wire.shown());
        match answers::doubt(&reply) {
            Some(Doubt::Dead) => Err(No {
                failure,
                doubt: Some(Doubt::Dead),
            }),
            _ if failure.class == Class::NotPermitted => Ok(self.path.guesses()),
            _ => Err(failure.into()),
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Option<Vec<Place>>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, reply: &Reply, place: &Place, at: &str) -> Result<Answer, Failure> {
        let odd = |what: &str| answers::not_vault(at, what);
        let envelope: Envelope<'_> = serde_json::from_slice(&reply.body)
            .map_err(|_| odd("it answers 200 without Vault's words"))?;
        let data = match place.engine {
            Engine::Plain => envelope.data,
            Engine::Kv2 => {
                envelope
                    .data
                    .and_then(|data| serde_json::from_str::<Versioned<'_>>(data.get()).ok())
                    .ok_or_else(|| odd("it answers 200 without a secret"))?
                    .data
            }
        };
        let Some(data) = data else {
            return Err(Failure::new(
                Class::NotFound,
                format!("the secret {} in Vault at {at} is empty", self.path.shown()),
                "Write it again",
            ));
        };
        Ok(Answer::Secret {
            text: self.text(data)?,
            life: life(&envelope, place.engine),
            stamp: None,
        })
    }

    /// The whole of `data`, or the one field that the path names.
    fn text(&self, data: &RawValue) -> Result<Secret, Failure> {
        let Some(name) = &self.path.field else {
            return Ok(Secret::new(data.get()));
        };
        let fields: HashMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(data.get()).unwrap_or_default();
        let field = fields.get(name.as_str()).ok_or_else(|| {
            Failure::bad_secret(
                format!("the secret {} has no field {name}", self.path.joined()),
                "Correct the part after # in MLFLOW_VAULT_SECRET_PATH, or add that field",
            )
        })?;
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        Ok(match serde_json::from_str::<Text<'_>>(field.get()) {
            Ok(Text(Cow::Borrowed(text))) => Secret::new(text),
            Ok(Text(Cow::Owned(text))) => Secret::new(text.into_boxed_str()),
            // A number, or an object that holds the credential.
            Err(_) => Secret::new(field.get()),
        })
    }
}

fn mount(reply: &Reply) -> Option<MountInfo> {
    let envelope: Envelope<'_> = serde_json::from_slice(&reply.body).ok()?;
    serde_json::from_str(envelope.data?.get()).ok()
}

/// A lease ends with its secret. Without a lease the duration is a hint when to look again.
fn life(envelope: &Envelope<'_>, engine: Engine) -> Life {
    let duration = envelope
        .lease_duration
        .filter(|seconds| *seconds > 0 && engine == Engine::Plain)
        .map(Duration::from_secs);
    let leased = envelope.lease_id.as_ref().is_some_and(|id| !id.is_empty());
    Life {
        expires_in: duration.filter(|_| leased),
        recheck_in: duration.filter(|_| !leased),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(path: &str, engine: Engine, body: &str) -> Result<(String, Life), Failure> {
        let spot = Spot::new(SecretPath::parse(path).unwrap());
        let place = spot.path.within("secret", engine).unwrap();
        let reply = Reply {
            status: 200,
            body: zeroize::Zeroizing::new(body.as_bytes().to_vec()),
            retry_after: None,
        };
        match spot.answer(&reply, &place, "http://v")? {
            Answer::Secret { text, life, .. } => Ok((text.reveal().to_owned(), life)),
            Answer::Unchanged { .. } => panic!("unchanged"),
        }
    }

    #[test]
    fn what_the_secret_is() {
        let v2 = r#"{"data":{"data":{"token":"t","n":5,"e":"a\nb"},"metadata":{"version":3}},"lease_duration":0,"lease_id":""}"#;
        let v1 =
            r#"{"data":{"username":"u","password":"p"},"lease_duration":2764800,"lease_id":""}"#;
        let text = |path: &str, engine, body: &str| answer(path, engine, body).unwrap().0;
        assert_eq!(
            text("secret/a", Engine::Kv2, v2),
            r#"{"token":"t","n":5,"e":"a\nb"}"#
        );
        assert_eq!(text("secret/a#token", Engine::Kv2, v2), "t");
        assert_eq!(text("secret/a#n", Engine::Kv2, v2), "5");
        assert_eq!(text("secret/a#e", Engine::Kv2, v2), "a\nb");
        assert_eq!(
            text("secret/a", Engine::Plain, v1),
            r#"{"username":"u","password":"p"}"#
        );
        let failure = answer("secret/a#x", Engine::Kv2, v2).unwrap_err();
        assert_eq!(failure.class, Class::BadSecret);
    }

    #[test]
    fn leases_and_hints() {
        let of = |id: &str, seconds: u64, engine| {
            let body = format!(
                r#"{{"data":{{"data":{{}}}},"lease_duration":{seconds},"lease_id":"{id}"}}"#
            );
            answer("secret/a", engine, &body).unwrap().1
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(of("db/1", 60, Engine::Plain).expires_in, minute);
        assert_eq!(
            of("", 60, Engine::Plain),
            Life {
                expires_in: None,
                recheck_in: minute
            }
        );
        assert_eq!(of("", 0, Engine::Kv2), Life::default());
    }

    #[test]
    fn garbage_is_not_vault() {
        for body in ["", "<html>", "[]", r#"{"data": 5}"#, r#"{"data":{"data":"#] {
            let failure = answer("secret/a", Engine::Kv2, body).unwrap_err();
            assert_eq!(failure.class, Class::Unreachable, "{body}");
        }
        let empty = answer("secret/a", Engine::Kv2, r#"{"data":{"data":null}}"#).unwrap_err();
        assert_eq!(empty.class, Class::NotFound);
    }
}
