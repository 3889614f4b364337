//! Where a secret lies: spellings, mounts, versions of KV; pure.

use crate::errors::Failure;

/// A secret's path as the settings spell it: `mount/path`, `mount/data/path`, `path#field`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretPath {
    segments: Vec<String>,
    pub(super) field: Option<String>,
}

/// How a mount is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Versioned: the secret lies in `data.data`.
    Kv2,
    /// KV version 1, and every other engine whose answers hold `data`.
    Plain,
}

/// A secret's place in an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) engine: Engine,
    pub(super) mount: String,
    pub(super) path: String,
}

/// Where nobody says how deep a mount is, this many depths are tried.
const DEEPEST_GUESS: usize = 3;

// === impl SecretPath ===

impl SecretPath {
    /// # Errors
    /// It is no path of a secret.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |what: &str| {
            Failure::not_configured(
                format!("MLFLOW_VAULT_SECRET_PATH {what}"),
                "Set it to the engine's mount and the path in it, for example secret/mlflow/auth, or secret/mlflow/auth#field for one field",
            )
        };
        let (path, field) = match text.rsplit_once('#') {
            Some((_, "")) => return Err(bad("ends with # but names no field")),
            Some((path, field)) => (path, Some(field.to_owned())),
            None => (text, None),
        };
        if path.chars().any(char::is_control) {
            return Err(bad("holds control characters"));
        }
        let segments: Vec<String> = path
            .split('/')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect();
        // A URL's dots lead elsewhere than where a policy looks.
        if segments.iter().any(|s| s == "." || s == "..") {
            return Err(bad("holds . or .. as a part"));
        }
        if segments.len() < 2 {
            return Err(bad("names no mount and path"));
        }
        Ok(Self { segments, field })
    }

    /// As people know it.
    pub(super) fn shown(&self) -> String {
        let path = self.segments.join("/");
        match &self.field {
            Some(field) => format!("{path}#{field}"),
            None => path,
        }
    }

    /// What the mount is asked for by.
    pub(super) fn joined(&self) -> String {
        self.segments.join("/")
    }

    /// The place, when the mount is known; `None`: it is not below that mount.
    pub(super) fn within(&self, mount: &str, engine: Engine) -> Option<Place> {
        let mount: Vec<&str> = mount.split('/').filter(|s| !s.is_empty()).collect();
        let (head, rest) = self.segments.split_at_checked(mount.len())?;
        if rest.is_empty() || head != mount.as_slice() {
            return None;
        }
        Some(self.place(engine, mount.len()))
    }

    /// Where it may lie when nobody says so: version 2 first, then version 1.
    pub(super) fn guesses(&self) -> Vec<Place> {
        let depths = 1..self.segments.len().min(DEEPEST_GUESS + 1);
        let spelled = depths
            .clone()
            .find(|depth| self.segments[*depth] == "data" && self.segments.len() > depth + 1);
        match spelled {
            Some(depth) => {
                let first = self.place(Engine::Kv2, depth);
                let second = Place {
                    engine: Engine::Plain,
                    ..first.clone()
                };
                vec![first, second]
            }
            None => depths
                .map(|depth| self.place(Engine::Kv2, depth))
                .chain([self.place(Engine::Plain, 1)])
                .collect(),
        }
    }

    fn place(&self, engine: Engine, depth: usize) -> Place {
        let (mount, rest) = self.segments.split_at(depth);
        let rest = match (engine, rest) {
            // The spelling of the HTTP API.
            (Engine::Kv2, [data, rest @ ..]) if data == "data" && !rest.is_empty() => rest,
            _ => rest,
        };
        Place {
            engine,
            mount: mount.join("/"),
            path: rest.join("/"),
        }
    }
}

// === impl Place ===

impl Place {
    /// The path that is read, and that a policy must name.
    pub(super) fn api_path(&self) -> String {
        match self.engine {
            Engine::Kv2 => format!("{}/data/{}", self.mount, self.path),
            Engine::Plain => format!("{}/{}", self.mount, self.path),
        }
    }

    /// The same place without the spelling of version 2, which people keep after a downgrade.
    pub(super) fn without_data(&self) -> Option<Self> {
        let rest = self.path.strip_prefix("data/")?;
        (self.engine == Engine::Plain && !rest.is_empty()).then(|| Self {
            path: rest.to_owned(),
            ..self.clone()
        })
    }
}

/// The policy that permits a reading, and no more.
pub(super) fn policy(api_path: &str) -> String {
    format!("path \"{api_path}\" {{ capabilities = [\"read\"] }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(text: &str, mount: &str, engine: Engine) -> Option<String> {
        let path = SecretPath::parse(text).unwrap();
        path.within(mount, engine).map(|p| p.api_path())
    }

    #[test]
    fn spellings() {
        for text in [
            "secret/mlflow/auth",
            "/secret/mlflow/auth",
            "secret/data/mlflow/auth",
            "secret//mlflow/auth/",
            "secret/mlflow/auth#token",
        ] {
            assert_eq!(
                api(text, "secret/", Engine::Kv2).unwrap(),
                "secret/data/mlflow/auth",
                "{text}"
            );
        }
        assert_eq!(
            api("a/b/kv/x/y", "a/b/kv/", Engine::Kv2).unwrap(),
            "a/b/kv/data/x/y"
        );
        assert_eq!(
            api("a/b/kv/data/x", "a/b/kv/", Engine::Kv2).unwrap(),
            "a/b/kv/data/x"
        );
        assert_eq!(api("kv/data", "kv/", Engine::Kv2).unwrap(), "kv/data/data");
        assert_eq!(api("kv/data/x", "kv/", Engine::Plain).unwrap(), "kv/data/x");
        assert_eq!(
            api("identity/oidc/token/r", "identity/", Engine::Plain).unwrap(),
            "identity/oidc/token/r"
        );
        assert_eq!(api("kv/x", "kv/x/", Engine::Kv2), None);
        assert_eq!(api("kv/x", "other/", Engine::Kv2), None);
    }

    #[test]
    fn fields_and_names() {
        let path = SecretPath::parse("/secret/a#b").unwrap();
        assert_eq!(
            (path.shown().as_str(), path.field.as_deref()),
            ("secret/a#b", Some("b"))
        );
        for bad in [
            "",
            "/",
            "secret",
            "secret/",
            "secret/a#",
            "secret/../sys/x",
            "a/./b",
            "a/b\u{7}",
        ] {
            let failure = SecretPath::parse(bad).unwrap_err();
            assert!(failure.cause.contains("MLFLOW_VAULT_SECRET_PATH"), "{bad}");
        }
    }

    #[test]
    fn guesses_ask_for_version_2_first() {
        let guess = |text: &str| -> Vec<String> {
            let path = SecretPath::parse(text).unwrap();
            path.guesses().iter().map(Place::api_path).collect()
        };
        assert_eq!(guess("secret/auth"), ["secret/data/auth", "secret/auth"]);
        assert_eq!(
            guess("secret/data/auth"),
            ["secret/data/auth", "secret/auth"]
        );
        assert_eq!(
            guess("a/b/c/d/e"),
            [
                "a/data/b/c/d/e",
                "a/b/data/c/d/e",
                "a/b/c/data/d/e",
                "a/b/c/d/e"
            ]
        );
        assert_eq!(guess("a/b/data/c")[0], "a/b/data/c");
    }

    #[test]
    fn version_1_may_be_spelled_like_version_2() {
        let path = SecretPath::parse("secret/data/x").unwrap();
        let place = path.within("secret", Engine::Plain).unwrap();
        assert_eq!(place.without_data().unwrap().api_path(), "secret/x");
    }
}
