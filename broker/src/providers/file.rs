//! Secrets in files: JSON, TOML or plain text; mounted secrets; systemd credentials.

use std::fs::{File as Handle, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mlflow_secrets_auth_core::secret::Secret;
use mlflow_secrets_auth_core::variables::Settings;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::{Answer, Provider, Reader, Reading, Stamp, required};
use crate::errors::{Class, Failure};
use crate::lifetimes::source::Life;

/// No credential is larger than this, bytes.
const LARGEST: u64 = 64 * 1024;

/// How often a file that is in use is looked at again; a look costs one open and one fstat.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A file that changed this recently may still be being written.
const SETTLING: Duration = Duration::from_millis(250);
const SETTLE_TRIES: u32 = 8;
const SETTLE_PAUSE: Duration = Duration::from_millis(40);

/// The provider `file`.
pub(super) struct File;

struct FileReader {
    path: PathBuf,
    /// Accepts files that others can read and that other users own.
    shared: bool,
}

// === impl File ===

impl Provider for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn plan(&self, settings: &Settings) -> Result<Arc<dyn Reader>, Failure> {
        let path = required(
            settings,
            "MLFLOW_FILE_SECRET_PATH",
            "/run/secrets/mlflow.json",
        )?;
        if !path.starts_with('/') {
            return Err(Failure::not_configured(
                "MLFLOW_FILE_SECRET_PATH is not an absolute path",
                "Write it from the root on",
            ));
        }
        Ok(Arc::new(FileReader {
            path: path.into(),
            shared: settings.flag("MLFLOW_FILE_ALLOW_SHARED"),
        }))
    }
}

// === impl FileReader ===

impl Reader for FileReader {
    fn source(&self) -> String {
        format!("file:{}", self.path.display())
    }

    fn read(&self, previous: Option<Stamp>) -> Reading<'_> {
        let (path, shared) = (self.path.clone(), self.shared);
        Box::pin(async move {
            for attempt in 1.. {
                let (path, last) = (path.clone(), attempt == SETTLE_TRIES);
                // A file may lie on a file system that hangs.
                let look = tokio::task::spawn_blocking(move || look(&path, shared, previous)).await;
                match look {
                    Ok(Look::Done(answer)) => return Ok(answer),
                    Ok(Look::Failed(failure)) => return Err(failure),
                    Ok(Look::Settling(failure)) if last => return Err(failure),
                    Ok(Look::Settling(_)) => tokio::time::sleep(SETTLE_PAUSE).await,
                    Err(_) => {
                        return Err(Failure::new(
                            Class::Unreachable,
                            format!("reading {} failed", self.source()),
                            "Try again",
                        ));
                    }
                }
            }
            unreachable!("the last attempt returns")
        })
    }
}

enum Look {
    Done(Answer),
    Failed(Failure),
    /// It may be being replaced right now; look again.
    Settling(Failure),
}

fn look(path: &Path, shared: bool, previous: Option<Stamp>) -> Look {
    let life = Life {
        expires_in: None,
        recheck_in: Some(LOOK_AGAIN),
    };
    let shown = path.display();
    let handle = match open(path) {
        Ok(handle) => handle,
        Err(error) => return from_open(path, &error),
    };
    let meta = match handle.metadata() {
        Ok(meta) => meta,
        Err(error) => return from_open(path, &error),
    };
    if !meta.is_file() {
        return Look::Failed(Failure::bad_secret(
            format!("{shown} is not a regular file"),
            "Set MLFLOW_FILE_SECRET_PATH to a file",
        ));
    }
    if let Err(failure) = check_access(path, &meta, shared) {
        return Look::Failed(failure);
    }
    if meta.len() > LARGEST {
        return Look::Failed(Failure::bad_secret(
            format!(
                "{shown} has {} bytes; a credential has at most {LARGEST}",
                meta.len()
            ),
            "Set MLFLOW_FILE_SECRET_PATH to the file with the credential",
        ));
    }
    let stamp = stamp(&meta);
    if previous == Some(stamp) {
        return Look::Done(Answer::Unchanged { life });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(meta.len()).unwrap_or(0) + 1,
    ));
    if let Err(error) = (&handle).take(LARGEST + 1).read_to_end(&mut bytes) {
        return from_open(path, &error);
    }
    let settled = handle
        .metadata()
        .is_ok_and(|after| self::stamp(&after) == stamp);
    let young = SystemTime::now()
        .duration_since(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH))
        .is_ok_and(|age| age < SETTLING);
    let blank = bytes.iter().all(u8::is_ascii_whitespace);
    if !settled || (young && blank) {
        let failure = Failure::bad_secret(
            format!("the secret file {shown} is blank, or is being rewritten all the time"),
            "Write it once, whole: to another name first, then `mv`",
        );
        return Look::Settling(failure);
    }
    match text(path, &bytes) {
        Ok(text) => Look::Done(Answer::Secret {
            text,
            life,
            stamp: Some(stamp),
        }),
        Err(failure) if young => Look::Settling(failure),
        Err(failure) => Look::Failed(failure),
    }
}

fn open(path: &Path) -> io::Result<Handle> {
    // Without blocking: a fifo without a writer would hang the open itself.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY | nix::libc::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn from_open(path: &Path, error: &io::Error) -> Look {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Look::Settling(Failure::new(
            Class::NotFound,
            format!("the secret file {shown} does not exist"),
            "Create it, readable by its owner only, or correct MLFLOW_FILE_SECRET_PATH",
        )),
        io::ErrorKind::PermissionDenied => Look::Failed(Failure::new(
            Class::NotPermitted,
            format!("the secret file {shown} cannot be read: permission denied"),
            format!("Make it yours: `chown $USER {shown}; chmod 600 {shown}`"),
        )),
        _ => Look::Failed(Failure::new(
            Class::Unreachable,
            format!("the secret file {shown} cannot be read: {error}"),
            "Check its file system",
        )),
    }
}

/// Mounted secrets (Kubernetes, systemd) are often root's and 0644 behind links: where that is
/// meant, the route says so.
fn check_access(path: &Path, meta: &std::fs::Metadata, shared: bool) -> Result<(), Failure> {
    let shown = path.display();
    if shared {
        return Ok(());
    }
    let me = geteuid().as_raw();
    if meta.uid() != me {
        return Err(Failure::new(
            Class::NotPermitted,
            format!(
                "the secret file {shown} belongs to uid {}, not to uid {me}",
                meta.uid()
            ),
            "Make it yours, or set MLFLOW_FILE_ALLOW_SHARED=true where a mounted secret is meant to be so",
        ));
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Failure::new(
            Class::NotPermitted,
            format!("the secret file {shown} is open to others (mode {mode:04o})"),
            format!(
                "Run `chmod 600 {shown}`, or set MLFLOW_FILE_ALLOW_SHARED=true where a mounted secret is meant to be so"
            ),
        ));
    }
    Ok(())
}

fn stamp(meta: &std::fs::Metadata) -> Stamp {
    let nanos = |s: i64, n: i64| {
        u64::try_from(s)
            .unwrap_or(0)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(u64::try_from(n).unwrap_or(0))
    };
    Stamp([
        meta.dev(),
        meta.ino(),
        meta.len(),
        nanos(meta.mtime(), meta.mtime_nsec()),
        nanos(meta.ctime(), meta.ctime_nsec()),
    ])
}

/// The secret's text; a `.toml` file becomes the JSON object that it stands for.
fn text(path: &Path, bytes: &[u8]) -> Result<Secret, Failure> {
    let shown = path.display();
    let text = std::str::from_utf8(bytes).map_err(|_| {
        Failure::bad_secret(
            format!("the secret file {shown} is not UTF-8 text"),
            "Store the credential as text",
        )
    })?;
    if path.extension().is_none_or(|e| e != "toml") {
        return Ok(Secret::new(text));
    }
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Fields {
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<String>,
    }
    // toml's own error shows the line, and with it the secret.
    let fields: Fields = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        Failure::bad_secret(
            format!("the secret file {shown} is not TOML with `token`, or `username` and `password`, as strings (line {line})"),
            "Write for example: token = \"...\"",
        )
    })?;
    let json = Zeroizing::new(serde_json::to_string(&fields).unwrap_or_default());
    let Fields {
        token,
        username,
        password,
    } = fields;
    drop((
        token.map(Zeroizing::new),
        username.map(Zeroizing::new),
        password.map(Zeroizing::new),
    ));
    Ok(Secret::new(json.as_str()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(path: &Path, shared: bool, previous: Option<Stamp>) -> Result<Answer, Failure> {
        let reader = FileReader {
            path: path.to_owned(),
            shared,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(reader.read(previous))
    }

    fn written(dir: &tempfile::TempDir, name: &str, text: &[u8], mode: u32) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn secret(answer: Answer) -> (String, Stamp) {
        match answer {
            Answer::Secret {
                text,
                stamp: Some(stamp),
                ..
            } => (text.reveal().to_owned(), stamp),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_json_and_toml() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            secret(read(&written(&dir, "a", b"tok\n", 0o600), false, None).unwrap()).0,
            "tok\n"
        );
        let toml = written(
            &dir,
            "b.toml",
            b"username = \"u\"\npassword = \"p\"\n",
            0o400,
        );
        assert_eq!(
            secret(read(&toml, false, None).unwrap()).0,
            r#"{"username":"u","password":"p"}"#
        );
    }

    #[test]
    fn read_again_only_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(&dir, "a", b"one", 0o600);
        let (_, stamp) = secret(read(&path, false, None).unwrap());
        assert!(matches!(
            read(&path, false, Some(stamp)).unwrap(),
            Answer::Unchanged { .. }
        ));
        std::fs::write(&path, "three").unwrap();
        assert_eq!(secret(read(&path, false, Some(stamp)).unwrap()).0, "three");
    }

    #[test]
    fn mounted_secrets_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(&dir, "data", b"tok", 0o644);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(
            read(&link, false, None).unwrap_err().class,
            Class::NotPermitted
        );
        assert_eq!(secret(read(&link, true, None).unwrap()).0, "tok");
    }

    #[test]
    fn each_bad_file_has_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, class, word) in [
            (dir.path().join("none"), Class::NotFound, "does not exist"),
            (dir.path().to_owned(), Class::BadSecret, "regular file"),
            (fifo, Class::BadSecret, "regular file"),
            (
                written(&dir, "open", b"tok", 0o604),
                Class::NotPermitted,
                "chmod 600",
            ),
            (
                written(&dir, "bytes", b"\xff\xfe", 0o600),
                Class::BadSecret,
                "UTF-8",
            ),
            (
                written(&dir, "large", &[b'x'; 70_000], 0o600),
                Class::BadSecret,
                "bytes",
            ),
            (
                written(&dir, "bad.toml", b"a = 1\ntoken = hunter2", 0o600),
                Class::BadSecret,
                "line 2",
            ),
        ] {
            let failure = read(&path, false, None).unwrap_err();
            assert_eq!(failure.class, class, "{failure}");
            assert!(failure.to_string().contains(word), "{failure}");
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
    }
}
