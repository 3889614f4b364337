//! The one table of names, and what a process presents of its environment.
//!
//! Nothing that is not in [`TABLE`] ever leaves a process, and the broker refuses, by name,
//! what is not in its own table. The names and their meaning are those of the Python plugin
//! of the same name (0.2.0); where its code and its documentation disagreed both spellings work.

mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::secret::Secret;

pub use table::{PROVIDERS, TABLE};

/// One row: an environment variable, and the key that means the same in `config.toml`.
#[derive(Debug)]
pub struct Variable {
    /// The name that wins when more than one spelling is set.
    pub name: &'static str,
    /// Other spellings, in falling priority.
    pub aliases: &'static [&'static str],
    /// The key in a `[[route]]` table; empty: not for configuration files.
    pub key: &'static str,
    /// Whose variable it is; empty: everybody's.
    pub provider: &'static str,
    /// What it decides.
    pub role: Role,
    /// What its text is.
    pub kind: Kind,
    /// One line for people.
    pub meaning: &'static str,
}

/// What a variable decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Which providers are enabled.
    Select,
    /// What becomes of the secret: hosts, auth mode, header, lifetime.
    Route,
    /// How the secret manager is reached and under which identity.
    Login,
    /// Which secret is read, and how.
    Place,
    /// The client itself; never leaves the process.
    Client,
}

/// What the text of a variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain text that may be shown.
    Text,
    /// Text that may not.
    Secret,
    /// A file or directory; made absolute by the process that presents it.
    Path,
    /// `1`, `true`, `yes` and `on` are true, everything else is false.
    Flag,
    /// A whole number.
    Number,
}

/// A caller: the settings that decide where its credentials come from. Equal settings are the
/// same caller. Empty settings mean the broker's configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings(BTreeMap<&'static str, Secret>);

/// A setting that cannot be presented or accepted; names the variable, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// `MLFLOW_SECRETS_AUTH_ENABLE` holds a word that is no provider.
    #[error("MLFLOW_SECRETS_AUTH_ENABLE names the unknown provider `{0}`. Use one of: {known}", known = PROVIDERS.join(", "))]
    UnknownProvider(String),
    /// Not UTF-8, or it holds a NUL byte or a line break.
    #[error(
        "{0} holds bytes that are not plain text on one line. Set it again, without line breaks"
    )]
    NotText(&'static str),
    /// A name that is not in the table.
    #[error("the setting `{0}` is not known to this broker ({version}). Restart it with `mlflow-secrets-auth stop` after an upgrade", version = crate::VERSION)]
    UnknownName(String),
}

// === impl Variable ===

impl Variable {
    /// The row of a name, whatever the spelling.
    pub fn named(name: &str) -> Option<&'static Self> {
        TABLE
            .iter()
            .find(|v| v.name == name || v.aliases.contains(&name))
    }

    /// All spellings, the winning one first.
    pub fn spellings(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

// === impl Settings ===

impl Settings {
    /// Collects what a process presents: the switches, and the variables of the enabled
    /// providers. Where no provider is enabled only what narrows the configuration file is left.
    /// Blank values count as unset. Relative paths are made absolute against `cwd`.
    ///
    /// # Errors
    /// [`BadSetting`] names the variable.
    pub fn gather(
        lookup: impl Fn(&str) -> Option<Result<String, NotUnicode>>,
        cwd: &Path,
    ) -> Result<Self, BadSetting> {
        let get = |variable: &'static Variable| -> Result<Option<String>, BadSetting> {
            for name in variable.spellings() {
                match lookup(name) {
                    None => {}
                    Some(Err(NotUnicode)) => return Err(BadSetting::NotText(name)),
                    Some(Ok(value)) if value.trim().is_empty() => {}
                    Some(Ok(value)) => return Ok(Some(value.trim().to_owned())),
                }
            }
            Ok(None)
        };
        let mut found = BTreeMap::new();
        for variable in TABLE.iter().filter(|v| v.role == Role::Select) {
            if let Some(value) = get(variable)? {
                found.insert(variable.name, Secret::new(value));
            }
        }
        let mut settings = Self(found);
        let enabled = settings.enabled_providers()?;
        let home = lookup("HOME").and_then(Result::ok).map(PathBuf::from);
        for variable in TABLE {
            let wanted = match variable.role {
                Role::Select | Role::Client => false,
                // A configuration file's routes can be narrowed by the process, nothing else.
                _ if enabled.is_empty() => variable.name == "MLFLOW_SECRETS_ALLOWED_HOSTS",
                _ if variable.provider.is_empty() => {
                    variable.role == Role::Route || enabled.iter().any(|p| *p != "file")
                }
                _ => enabled.contains(&variable.provider),
            };
            if !wanted {
                continue;
            }
            let Some(mut value) = get(variable)? else {
                continue;
            };
            if variable.kind == Kind::Path {
                value = absolute(&value, cwd, home.as_deref());
            }
            if value.chars().any(|c| matches!(c, '\n' | '\r' | '\0')) {
                return Err(BadSetting::NotText(variable.name));
            }
            settings.0.insert(variable.name, Secret::new(value));
        }
        // Only ~/.vault-token is looked for at home; who has another login names no file with it.
        let logins = ["VAULT_TOKEN", "VAULT_ROLE_ID", "MLFLOW_VAULT_TOKEN_FILE"];
        if logins.iter().any(|name| settings.0.contains_key(name)) {
            settings.0.remove("HOME");
        }
        if enabled.is_empty() {
            settings
                .0
                .retain(|name, _| *name == "MLFLOW_SECRETS_ALLOWED_HOSTS");
        }
        Ok(settings)
    }

    /// Takes settings over as they were presented or configured.
    ///
    /// # Errors
    /// [`BadSetting`] names the first that is not in the table or not text.
    pub fn accept(pairs: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, BadSetting> {
        let mut found = BTreeMap::new();
        for (name, value) in pairs {
            let variable = TABLE
                .iter()
                .find(|v| v.name == name && v.role != Role::Client)
                .ok_or(BadSetting::UnknownName(name))?;
            let value = String::from_utf8(value).map_err(|_| BadSetting::NotText(variable.name))?;
            if value.chars().any(|c| matches!(c, '\n' | '\r' | '\0')) {
                return Err(BadSetting::NotText(variable.name));
            }
            found.insert(variable.name, Secret::new(value));
        }
        Ok(Self(found))
    }

    /// The providers that these settings enable, in their fixed priority.
    ///
    /// # Errors
    /// [`BadSetting::UnknownProvider`].
    pub fn enabled_providers(&self) -> Result<Vec<&'static str>, BadSetting> {
        let list = self
            .get("MLFLOW_SECRETS_AUTH_ENABLE")
            .unwrap_or("")
            .to_ascii_lowercase();
        let words: Vec<&str> = list
            .split(',')
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        if let Some(unknown) = words.iter().find(|w| !PROVIDERS.contains(w)) {
            return Err(BadSetting::UnknownProvider((*unknown).to_owned()));
        }
        let switch = |provider: &str| {
            let name = format!(
                "MLFLOW_SECRETS_AUTH_ENABLE_{}",
                provider.to_ascii_uppercase().replace('-', "_")
            );
            self.flag(&name)
        };
        Ok(PROVIDERS
            .iter()
            .copied()
            .filter(|p| words.contains(p) || switch(p))
            .collect())
    }

    /// A setting's text, by its winning name.
    pub fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(
            Variable::named(name).is_some(),
            "{name} is not in the table"
        );
        self.0.get(name).map(Secret::reveal)
    }

    /// A setting that must not be shown.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        debug_assert!(
            Variable::named(name).is_some(),
            "{name} is not in the table"
        );
        self.0.get(name)
    }

    /// Whether a switch is on.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    /// Only the settings that `keep` says yes to: what identifies a login, or a source.
    pub fn restricted(&self, keep: impl Fn(&Variable) -> bool) -> Self {
        let kept = self
            .0
            .iter()
            .filter(|(name, _)| Variable::named(name).is_some_and(&keep));
        Self(kept.map(|(name, value)| (*name, value.clone())).collect())
    }

    /// Adds or replaces one; `name` must be a winning name of the table.
    pub fn set(&mut self, name: &'static str, value: Secret) {
        debug_assert!(
            Variable::named(name).is_some_and(|v| v.name == name),
            "{name} is not in the table"
        );
        self.0.insert(name, value);
    }

    /// Names and values, for the wire.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Secret)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// Whether nothing is set: the configuration file decides alone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a setting names a file, so that caller and broker must see the same files.
    pub fn names_files(&self) -> bool {
        self.0
            .keys()
            .any(|name| Variable::named(name).is_some_and(|v| v.kind == Kind::Path))
    }
}

/// A variable's value is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnicode;

/// `1`, `true`, `yes`, `on`, in any case.
pub fn is_true(text: &str) -> bool {
    ["1", "true", "yes", "on"]
        .iter()
        .any(|t| text.trim().eq_ignore_ascii_case(t))
}

/// A lifetime in seconds as the settings state it: missing, not a number, zero or negative means
/// 300; otherwise clamped to one second to one day.
pub fn ttl_seconds(text: Option<&str>) -> u64 {
    match text.and_then(|t| t.trim().parse::<i64>().ok()) {
        Some(seconds) if seconds > 0 => u64::try_from(seconds).unwrap_or(300).min(86_400),
        _ => 300,
    }
}

fn absolute(text: &str, cwd: &Path, home: Option<&Path>) -> String {
    let path = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => cwd.join(text),
    };
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(vars: &[(&str, &str)]) -> Result<Settings, BadSetting> {
        Settings::gather(
            |name| {
                vars.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| Ok((*v).to_owned()))
            },
            Path::new("/home/me"),
        )
    }

    #[test]
    fn names_are_unique_and_spelled_once() {
        let mut names: Vec<_> = TABLE.iter().flat_map(Variable::spellings).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for v in TABLE {
            assert!(
                v.provider.is_empty() || PROVIDERS.contains(&v.provider),
                "{}",
                v.name
            );
        }
    }

    #[test]
    fn only_the_enabled_provider_s_variables_leave() {
        let vars = [
            ("MLFLOW_SECRETS_AUTH_ENABLE", "File"),
            ("MLFLOW_FILE_SECRET_PATH", "secret.json"),
            ("VAULT_TOKEN", "s.xyz"),
            ("PATH", "/bin"),
            ("MLFLOW_TRACKING_PASSWORD", "x"),
        ];
        let settings = gather(&vars).unwrap();
        let names: Vec<_> = settings.iter().map(|(n, _)| n).collect();
        assert_eq!(
            names,
            ["MLFLOW_FILE_SECRET_PATH", "MLFLOW_SECRETS_AUTH_ENABLE"]
        );
        assert_eq!(
            settings.get("MLFLOW_FILE_SECRET_PATH"),
            Some("/home/me/secret.json")
        );
        assert!(settings.names_files());
    }

    #[test]
    fn nothing_enabled_is_the_configuration_file() {
        assert!(
            gather(&[
                ("VAULT_ADDR", "x"),
                ("MLFLOW_SECRETS_AUTH_ENABLE_VAULT", "no")
            ])
            .unwrap()
            .is_empty()
        );
        let narrowed = gather(&[("MLFLOW_SECRETS_ALLOWED_HOSTS", "a")]).unwrap();
        assert_eq!(narrowed.iter().count(), 1);
    }

    #[test]
    fn providers_by_list_and_by_switch_in_priority() {
        let settings = gather(&[
            ("MLFLOW_SECRETS_AUTH_ENABLE", " file ,"),
            ("MLFLOW_SECRETS_AUTH_ENABLE_VAULT", "On"),
        ]);
        assert_eq!(
            settings.unwrap().enabled_providers().unwrap(),
            ["vault", "file"]
        );
        let error = gather(&[("MLFLOW_SECRETS_AUTH_ENABLE", "vualt")]).unwrap_err();
        assert!(error.to_string().contains("`vualt`"), "{error}");
    }

    #[test]
    fn bad_text_is_named_and_not_shown() {
        let error = gather(&[
            ("MLFLOW_SECRETS_AUTH_ENABLE", "vault"),
            ("VAULT_TOKEN", "top\nsecret"),
        ])
        .unwrap_err();
        assert!(
            error.to_string().starts_with("VAULT_TOKEN") && !error.to_string().contains("top"),
            "{error}"
        );
    }

    #[test]
    fn ttl() {
        for (text, seconds) in [
            (None, 300),
            (Some("x"), 300),
            (Some("0"), 300),
            (Some("-5"), 300),
            (Some("7"), 7),
            (Some("9999999"), 86_400),
        ] {
            assert_eq!(ttl_seconds(text), seconds, "{text:?}");
        }
    }

    #[test]
    fn a_broker_refuses_unknown_names() {
        let error = Settings::accept([("LD_PRELOAD".to_owned(), b"x".to_vec())]).unwrap_err();
        assert!(error.to_string().contains("LD_PRELOAD"));
        assert!(
            Settings::accept([("MLFLOW_SECRETS_AUTH_SOCKET".to_owned(), b"x".to_vec())]).is_err()
        );
    }
}
