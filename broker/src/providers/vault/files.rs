//! Tokens and secret ids in files: an agent's sink, `~/.vault-token`, a mounted secret.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mlflow_secrets_auth_core::secret::Secret;
use zeroize::Zeroizing;

use super::plan::is_token;
use crate::errors::{Class, Failure};
use crate::providers::Stamp;

/// No token is larger than this, bytes.
const LARGEST: u64 = 16 * 1024;

/// Reads the one line of a file.
///
/// # Errors
/// It cannot be read, or holds no token; names the file, never what is in it.
pub(super) async fn read(path: PathBuf) -> Result<Secret, Failure> {
    run(move || {
        let failed = |error: &io::Error| match error.kind() {
            io::ErrorKind::NotFound => Failure::not_configured(
                format!("{} does not exist", path.display()),
                "Create it, or correct its path",
            ),
            io::ErrorKind::PermissionDenied => Failure::new(
                Class::NotPermitted,
                format!("{} cannot be read: permission denied", path.display()),
                "Make it readable for yourself",
            ),
            _ => Failure::not_configured(
                format!("{} cannot be read: {error}", path.display()),
                "Check the file",
            ),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        let (handle, size) = open(&path).map_err(|e| failed(&e))?;
        if size > LARGEST {
            return Err(failed(&io::Error::other("it is too large for a token")));
        }
        bytes.reserve(usize::try_from(size).unwrap_or(0) + 1);
        handle
            .take(LARGEST)
            .read_to_end(&mut bytes)
            .map_err(|e| failed(&e))?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        if !is_token(text) {
            return Err(failed(&io::Error::other(
                "it does not hold one line of text",
            )));
        }
        Ok(Secret::new(text))
    })
    .await
}

/// What tells one state of the file from another; `None` where it cannot be looked at.
pub(super) async fn stamp(path: PathBuf) -> Option<Stamp> {
    let look = move || {
        let meta = std::fs::metadata(&path).ok()?;
        let nanos =
            |seconds: i64, nanos: i64| (seconds.cast_unsigned() << 30) ^ nanos.cast_unsigned();
        Some(Stamp([
            meta.dev(),
            meta.ino(),
            meta.len(),
            nanos(meta.mtime(), meta.mtime_nsec()),
            nanos(meta.ctime(), meta.ctime_nsec()),
        ]))
    };
    tokio::task::spawn_blocking(look).await.ok().flatten()
}

/// Without blocking: a fifo without a writer would hang the open itself.
fn open(path: &Path) -> io::Result<(std::fs::File, u64)> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY | nix::libc::O_CLOEXEC;
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let meta = handle.metadata()?;
    if meta.is_file() {
        Ok((handle, meta.len()))
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// A file may lie on a file system that hangs.
async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let failed = |_| Failure::new(Class::Unreachable, "reading a file failed", "Try again");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
