//! Where the broker's socket is, and whose it is.
//!
//! The same uid is the trust boundary, so a directory counts only when this user owns it and
//! nobody else can enter; symbolic links and foreign owners are refused. Never under `HOME`,
//! which may be shared between hosts (NFS).

use std::fs::{DirBuilder, File, OpenOptions, symlink_metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, geteuid};

use crate::contract::MAJOR;

/// The longest path that fits a socket address: 108 bytes on Linux and 104 on macOS, with a NUL.
pub const MAX_PATH: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// What decides the place, as a process sees it; nothing here reads an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Places {
    /// `MLFLOW_SECRETS_AUTH_SOCKET`: used as it is, or not at all.
    pub explicit: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `TMPDIR`; `/tmp` when unset.
    pub temporary_dir: Option<PathBuf>,
}

/// Why a socket or its directory cannot be used. Each text names the fix.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit a socket address.
    #[error(
        "the socket's path {path} has {length} bytes; this system allows {max}. Set MLFLOW_SECRETS_AUTH_SOCKET to a shorter path",
        path = .0.display(), length = .0.as_os_str().len(), max = MAX_PATH
    )]
    TooLong(PathBuf),
    /// The path is not absolute, or has no directory.
    #[error("MLFLOW_SECRETS_AUTH_SOCKET is {}, which is no absolute path of a file. Set it to one such as /run/user/1000/broker.sock", .0.display())]
    NotAbsolute(PathBuf),
    /// Somebody else owns it.
    #[error("{path} belongs to uid {owner}, not to uid {me}. Remove it, or set MLFLOW_SECRETS_AUTH_SOCKET to a path in a directory of your own", path = .path.display(), me = geteuid())]
    ForeignOwner {
        /// The directory or socket.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others can enter the directory, or use the socket.
    #[error("{path} can be entered by others (mode {mode:04o}). Run `chmod {fix:o} {path}`", path = .path.display())]
    Open {
        /// The directory or socket.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        fix: u32,
    },
    /// A link, a file or something else stands in the place.
    #[error("{path} is not a {wanted}. Remove it, or set MLFLOW_SECRETS_AUTH_SOCKET to another path", path = .path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// "directory" or "socket".
        wanted: &'static str,
    },
    /// The system said no.
    #[error("cannot use {path}: {error}. Check its directory, or set MLFLOW_SECRETS_AUTH_SOCKET to another path", path = .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The file name of the socket: the contract's major version is part of it.
pub fn file_name() -> String {
    format!("broker.v{MAJOR}.sock")
}

/// Where the socket is, or is to be: the explicit path, else a directory of ours under
/// `XDG_RUNTIME_DIR`, else under `/run/user/UID`, else under the temporary directory.
///
/// # Errors
/// Only for an explicit path, or when even the temporary directory cannot serve.
pub fn locate(places: &Places) -> Result<PathBuf, SocketError> {
    if let Some(path) = &places.explicit {
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(SocketError::NotAbsolute(path.clone()));
        }
        if path.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong(path.clone()));
        }
        return Ok(path.clone());
    }
    let uid = geteuid();
    let system = PathBuf::from(format!("/run/user/{uid}"));
    for base in places.runtime_dir.iter().chain([&system]) {
        let path = base.join("mlflow-secrets-auth").join(file_name());
        if base.is_absolute() && is_own_directory(base, uid) && path.as_os_str().len() <= MAX_PATH {
            return Ok(path);
        }
    }
    let temporary = places.temporary_dir.clone().filter(|p| p.is_absolute());
    let path = temporary
        .into_iter()
        .chain([PathBuf::from("/tmp")])
        .map(|base| {
            base.join(format!("mlflow-secrets-auth-{uid}"))
                .join(file_name())
        })
        .find(|path| path.as_os_str().len() <= MAX_PATH);
    // "/tmp/mlflow-secrets-auth-UID/broker.v1.sock" always fits.
    path.ok_or_else(|| SocketError::TooLong(PathBuf::from("/tmp")))
}

/// A base directory that only its owner can write to; ours is made inside it.
fn is_own_directory(path: &Path, uid: Uid) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_dir() && m.uid() == uid.as_raw() && m.mode() & 0o022 == 0)
}

/// Makes the socket's directory, 0700, unless it is there, and checks it.
///
/// # Errors
/// [`SocketError`] when it cannot be made or is not this user's alone.
pub fn prepare_directory(socket: &Path) -> Result<(), SocketError> {
    let directory = directory_of(socket);
    match DirBuilder::new()
        .mode(0o700)
        .recursive(false)
        .create(directory)
    {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(SocketError::Io {
                path: directory.to_owned(),
                error,
            });
        }
    }
    check_directory(socket)
}

/// Checks that the socket's directory is this user's and that nobody else can enter it.
///
/// # Errors
/// [`SocketError`]; [`SocketError::Io`] with `NotFound` where there is none.
pub fn check_directory(socket: &Path) -> Result<(), SocketError> {
    let path = directory_of(socket).to_owned();
    let meta = match symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(error) => return Err(SocketError::Io { path, error }),
    };
    if !meta.is_dir() {
        return Err(SocketError::WrongKind {
            path,
            wanted: "directory",
        });
    }
    if meta.uid() != geteuid().as_raw() {
        return Err(SocketError::ForeignOwner {
            path,
            owner: meta.uid(),
        });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(SocketError::Open {
            path,
            mode: meta.mode() & 0o7777,
            fix: 0o700,
        });
    }
    Ok(())
}

/// Checks the socket itself: a socket, ours, closed to others.
///
/// # Errors
/// [`SocketError`]; [`SocketError::Io`] with `NotFound` where there is none.
pub fn check_socket(socket: &Path) -> Result<(), SocketError> {
    check_directory(socket)?;
    let path = socket.to_owned();
    let meta = match symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(error) => return Err(SocketError::Io { path, error }),
    };
    if !meta.file_type().is_socket() {
        return Err(SocketError::WrongKind {
            path,
            wanted: "socket",
        });
    }
    if meta.uid() != geteuid().as_raw() {
        return Err(SocketError::ForeignOwner {
            path,
            owner: meta.uid(),
        });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(SocketError::Open {
            path,
            mode: meta.mode() & 0o7777,
            fix: 0o600,
        });
    }
    Ok(())
}

/// A lock file beside the socket, locked; `None`: somebody else holds it.
///
/// The file stays when the lock is released: a name that comes and goes could be locked twice.
///
/// # Errors
/// [`SocketError::Io`] when it cannot be opened.
pub fn lock_beside(socket: &Path, extension: &str) -> Result<Option<Flock<File>>, SocketError> {
    let path = socket.with_extension(extension);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&path)
        .map_err(|error| SocketError::Io { path, error })?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

fn directory_of(socket: &Path) -> &Path {
    socket.parent().unwrap_or_else(|| Path::new("/"))
}

impl SocketError {
    /// Whether there is just nothing there yet.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_explicit_path_is_used_or_refused() {
        let at = |p: &str| {
            locate(&Places {
                explicit: Some(p.into()),
                ..Places::default()
            })
        };
        assert_eq!(at("/x/y.sock").unwrap(), Path::new("/x/y.sock"));
        assert!(matches!(at("y.sock"), Err(SocketError::NotAbsolute(_))));
        let long = format!("/{}", "x".repeat(MAX_PATH));
        let text = at(&long).unwrap_err().to_string();
        assert!(
            text.contains("108 bytes") || cfg!(target_os = "macos"),
            "{text}"
        );
    }

    #[test]
    fn a_runtime_directory_counts_only_when_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let places = |d: &Path| Places {
            runtime_dir: Some(d.to_owned()),
            temporary_dir: Some(temporary.path().to_owned()),
            ..Places::default()
        };
        mode(dir.path(), 0o700);
        assert!(locate(&places(dir.path())).unwrap().starts_with(dir.path()));
        mode(dir.path(), 0o777);
        assert!(!locate(&places(dir.path())).unwrap().starts_with(dir.path()));
        let long = dir.path().join("x".repeat(100));
        create_dir(&long).unwrap();
        assert!(!locate(&places(&long)).unwrap().starts_with(&long));
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused_with_its_fix() {
        let base = tempfile::tempdir().unwrap();
        let socket = base.path().join("d").join("s");
        assert!(check_directory(&socket).unwrap_err().is_absent());
        prepare_directory(&socket).unwrap();
        mode(socket.parent().unwrap(), 0o755);
        let text = check_directory(&socket).unwrap_err().to_string();
        assert!(text.contains("chmod 700"), "{text}");
        let link = base.path().join("link");
        mode(socket.parent().unwrap(), 0o700);
        symlink(socket.parent().unwrap(), &link).unwrap();
        assert!(matches!(
            check_directory(&link.join("s")),
            Err(SocketError::WrongKind { .. })
        ));
    }

    #[test]
    fn only_a_socket_is_a_socket() {
        let base = tempfile::tempdir().unwrap();
        mode(base.path(), 0o700);
        let path = base.path().join("s");
        assert!(check_socket(&path).unwrap_err().is_absent());
        std::fs::write(&path, "").unwrap();
        assert!(matches!(
            check_socket(&path),
            Err(SocketError::WrongKind { .. })
        ));
        std::fs::remove_file(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        mode(&path, 0o600);
        check_socket(&path).unwrap();
    }
}
