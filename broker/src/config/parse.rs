//! From the text of a configuration file to routes and a policy; every error has its line.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlflow_secrets_auth_core::origins::Patterns;
use mlflow_secrets_auth_core::secret::Secret;
use mlflow_secrets_auth_core::variables::{Kind, PROVIDERS, Settings, TABLE, Variable};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{Config, ConfiguredRoute, Policy};
use crate::errors::Failure;

/// No configuration is larger than this, bytes.
const LARGEST: u64 = 1024 * 1024;

/// What is wrong with a configuration file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{colon}{line}: {what}", path = .path.display(), colon = if *.line > 0 { ":" } else { "" }, line = if *.line > 0 { .line.to_string() } else { String::new() })]
pub(crate) struct ConfigError {
    pub(crate) path: PathBuf,
    /// Counted from 1; 0: the whole file.
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::not_configured(
            error.to_string(),
            "Correct the file, then run `mlflow-secrets-auth reload`",
        )
    }
}

/// Reads and understands a file; `None`: there is none.
///
/// # Errors
/// [`ConfigError`] with a line.
pub(super) fn file(path: &Path) -> Result<Option<Config>, ConfigError> {
    let whole = |what: String| ConfigError {
        path: path.to_owned(),
        line: 0,
        what,
    };
    let meta = match path.metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(whole(format!("cannot be read: {error}"))),
    };
    let me = nix::unistd::geteuid().as_raw();
    if !meta.is_file() || meta.len() > LARGEST {
        return Err(whole("is not a configuration file".into()));
    }
    if meta.uid() != me && meta.uid() != 0 {
        return Err(whole(format!(
            "belongs to uid {}, not to you: who can write it decides where your credentials go",
            meta.uid()
        )));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(whole(
            "can be written by others. Run `chmod go-w` on it".into(),
        ));
    }
    let text =
        std::fs::read_to_string(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    text_of(path, &text).map(Some)
}

fn text_of(path: &Path, text: &str) -> Result<Config, ConfigError> {
    Parser { path, text }.config()
}

struct Parser<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Parser<'_> {
    fn error(&self, at: usize, what: impl Into<String>) -> ConfigError {
        ConfigError {
            path: self.path.to_owned(),
            line: self.line(at),
            what: what.into(),
        }
    }

    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    }

    fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(at))
    }

    fn config(&self) -> Result<Config, ConfigError> {
        // The parser's message is kept, its excerpt of the file is not: nobody knows what stands there.
        let root = DeTable::parse(self.text)
            .map_err(|e| self.error(e.span().map_or(0, |s| s.start), e.message()))?;
        let mut config = Config::default();
        for (key, value) in root.get_ref() {
            let at = key.span().start;
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("route", DeValue::Array(routes)) => {
                    for route in routes {
                        let DeValue::Table(table) = route.get_ref() else {
                            return Err(
                                self.error(route.span().start, "a route is a table: [[route]]")
                            );
                        };
                        config.routes.push(self.route(route.span().start, table)?);
                    }
                }
                ("route", _) => return Err(self.error(at, "routes are written as [[route]]")),
                ("policy", DeValue::Table(table)) => config.policy = self.policy(at, table)?,
                ("policy", _) => return Err(self.error(at, "the policy is a table: [policy]")),
                (unknown, _) => return Err(self.unknown(at, unknown, &["route", "policy"])),
            }
        }
        Ok(config)
    }

    fn route(&self, at: usize, table: &DeTable<'_>) -> Result<ConfiguredRoute, ConfigError> {
        let find = |name: &str| {
            table
                .iter()
                .find(|(k, _)| k.get_ref().as_ref() == name)
                .map(|(_, v)| v)
        };
        let Some(provider) = find("provider") else {
            return Err(self.error(
                at,
                format!(
                    "this route names no provider: provider = \"{}\"",
                    PROVIDERS[0]
                ),
            ));
        };
        let name = self.string(provider, "provider")?;
        let Some(provider) = PROVIDERS.iter().copied().find(|p| *p == name) else {
            return Err(self.unknown_word(provider.span().start, "provider", &name, PROVIDERS));
        };
        let Some(hosts) = find("hosts") else {
            return Err(self.error(
                at,
                "this route names no hosts: hosts = [\"mlflow.example.com\"]",
            ));
        };
        let hosts = self.hosts(hosts)?;
        let mut settings = Settings::default();
        settings.set("MLFLOW_SECRETS_AUTH_ENABLE", Secret::new(provider));
        let rows: Vec<&'static Variable> = TABLE
            .iter()
            .filter(|v| !v.key.is_empty() && (v.provider == provider || v.provider.is_empty()))
            .collect();
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            if word == "provider" || word == "hosts" {
                continue;
            }
            let Some(row) = rows.iter().find(|v| v.key == word) else {
                let known: Vec<&str> = ["hosts", "provider"]
                    .into_iter()
                    .chain(rows.iter().map(|v| v.key))
                    .collect();
                return Err(self.unknown(key.span().start, word, &known));
            };
            let text = self.text_for(row, value)?;
            settings.set(row.name, Secret::new(text));
        }
        Ok(ConfiguredRoute {
            place: self.place(at),
            hosts,
            settings,
        })
    }

    fn policy(&self, at: usize, table: &DeTable<'_>) -> Result<Policy, ConfigError> {
        let mut policy = Policy {
            place: self.place(at),
            ..Policy::default()
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "allowed_hosts" => policy.allowed_hosts = Some(self.hosts(value)?),
                "require_https" => policy.require_https = self.boolean(value, "require_https")?,
                "max_ttl" => {
                    policy.max_ttl = Some(Duration::from_secs(self.number(value, "max_ttl")?))
                }
                "providers" => {
                    let words = self.strings(value, "providers")?;
                    if let Some(bad) = words.iter().find(|w| !PROVIDERS.contains(&w.as_str())) {
                        return Err(self.unknown_word(
                            value.span().start,
                            "provider",
                            bad,
                            PROVIDERS,
                        ));
                    }
                    policy.providers = Some(words);
                }
                unknown => {
                    let known = ["allowed_hosts", "require_https", "max_ttl", "providers"];
                    return Err(self.unknown(key.span().start, unknown, &known));
                }
            }
        }
        Ok(policy)
    }

    /// A value as the text that the variable of the same meaning would have.
    fn text_for(
        &self,
        row: &Variable,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<String, ConfigError> {
        match row.kind {
            Kind::Flag => Ok(self.boolean(value, row.key)?.to_string()),
            Kind::Number => Ok(self.number(value, row.key)?.to_string()),
            Kind::Path => {
                let text = self.string(value, row.key)?;
                let path = match text.strip_prefix("~/") {
                    Some(rest) => home().map(|home| home.join(rest)),
                    None => Some(PathBuf::from(&text)),
                };
                match path.filter(|p| p.is_absolute()) {
                    Some(path) => Ok(path.to_string_lossy().into_owned()),
                    None => Err(self.error(
                        value.span().start,
                        format!("{} is a path from the root, or from ~/", row.key),
                    )),
                }
            }
            Kind::Text | Kind::Secret => self.string(value, row.key),
        }
    }

    fn hosts(&self, value: &Spanned<DeValue<'_>>) -> Result<Patterns, ConfigError> {
        let list = self.strings(value, "hosts")?;
        let patterns = Patterns::parse_list(&list.join(","))
            .map_err(|e| self.error(value.span().start, e.to_string()))?;
        if patterns.is_empty() {
            return Err(self.error(
                value.span().start,
                "the list of hosts is empty: nothing would ever match",
            ));
        }
        Ok(patterns)
    }

    fn strings(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<Vec<String>, ConfigError> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| self.string(item, key)).collect(),
            _ => Err(self.error(
                value.span().start,
                format!("{key} is a list of texts: {key} = [\"...\"]"),
            )),
        }
    }

    fn string(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) if text.chars().any(char::is_control) => Err(self.error(
                value.span().start,
                format!("{key} holds a line break or a control character"),
            )),
            DeValue::String(text) => Ok(text.trim().to_owned()),
            _ => Err(self.error(
                value.span().start,
                format!("{key} is a text: {key} = \"...\""),
            )),
        }
    }

    fn boolean(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<bool, ConfigError> {
        match value.get_ref() {
            DeValue::Boolean(yes) => Ok(*yes),
            _ => Err(self.error(value.span().start, format!("{key} is true or false"))),
        }
    }

    fn number(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<u64, ConfigError> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => {
                u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            }
            _ => None,
        };
        number.ok_or_else(|| {
            self.error(
                value.span().start,
                format!("{key} is a whole number, not negative"),
            )
        })
    }

    fn unknown(&self, at: usize, key: &str, known: &[&str]) -> ConfigError {
        self.unknown_word(at, "key", key, known)
    }

    fn unknown_word(&self, at: usize, what: &str, word: &str, known: &[&str]) -> ConfigError {
        let near = known
            .iter()
            .min_by_key(|k| distance(k, word))
            .filter(|k| distance(k, word) <= 2);
        let hint = near.map_or_else(
            || format!("known are: {}", known.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        self.error(
            at,
            format!("unknown {what} `{}`; {hint}", DeString::from(word)),
        )
    }
}

/// The home directory that the user database states; the environment is not asked.
fn home() -> Option<PathBuf> {
    nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten()
        .map(|user| user.dir)
}

/// Edit distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let best = (diagonal + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        text_of(Path::new("config.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_route_is_the_settings_of_a_process() {
        let config = parse(
            "[[route]]\nhosts = [\"mlflow.example.com\", \"*.corp\"]\nprovider = \"file\"\npath = \"/run/s\"\n\
             auth_mode = \"basic\"\nheader = \"X-Key\"\nttl = 1_000\nallow_shared = true\n\
             [policy]\nallowed_hosts = [\"*.corp\"]\nrequire_https = true\nmax_ttl = 60\nproviders = [\"file\"]\n",
        )
        .unwrap();
        let settings = &config.routes[0].settings;
        assert_eq!(config.routes[0].place, "config.toml:1");
        assert_eq!(settings.get("MLFLOW_FILE_SECRET_PATH"), Some("/run/s"));
        assert_eq!(settings.get("MLFLOW_FILE_TTL_SEC"), Some("1000"));
        assert_eq!(settings.get("MLFLOW_AUTH_HEADER_NAME"), Some("X-Key"));
        assert!(settings.flag("MLFLOW_FILE_ALLOW_SHARED"));
        assert_eq!(config.policy.max_ttl, Some(Duration::from_secs(60)));
        assert!(config.policy.require_https && config.policy.permits_provider("vault").is_err());
    }

    #[test]
    fn each_error_has_its_line_and_its_fix() {
        let route = "[[route]]\nhosts = [\"a\"]\nprovider = \"file\"\n";
        for (text, said) in [
            (
                format!("{route}pth = \"/x\"\n"),
                "config.toml:4: unknown key `pth`; did you mean `path`?",
            ),
            (
                "[[route]]\nhosts = [\"a\"]\nprovider = \"vualt\"\n".into(),
                "config.toml:3: unknown provider `vualt`; did you mean `vault`?",
            ),
            (
                "\n[polcy]\n".into(),
                "config.toml:2: unknown key `polcy`; did you mean `policy`?",
            ),
            (
                "[[route]]\nprovider = \"file\"\n".into(),
                "config.toml:1: this route names no hosts",
            ),
            (
                "[[route]]\nhosts = [\"a\"]\n".into(),
                "config.toml:1: this route names no provider",
            ),
            (
                format!("{route}ttl = -5\n"),
                "config.toml:4: ttl is a whole number",
            ),
            (
                format!("{route}ttl = \"5\"\n"),
                "config.toml:4: ttl is a whole number",
            ),
            (
                format!("{route}path = \"secret\"\n"),
                "config.toml:4: path is a path from the root",
            ),
            (
                format!("{route}allow_shared = 1\n"),
                "config.toml:4: allow_shared is true or false",
            ),
            (
                "[[route]]\nhosts = []\nprovider = \"file\"\n".into(),
                "config.toml:2: the list of hosts is empty",
            ),
            (
                "[[route]]\nhosts = [\"a b\"]\nprovider = \"file\"\n".into(),
                "config.toml:2: `a b` is not a host pattern",
            ),
            ("[[route]\n".into(), "config.toml:1: "),
            (
                "route = 5\n".into(),
                "config.toml:1: routes are written as [[route]]",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert!(file(&path).unwrap().is_none());
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(file(&path).unwrap_err().to_string().contains("chmod go-w"));
    }
}
