//! The socket: one broker per place, and only its own user gets in.

mod accept;
mod track;

use std::fs::{File, Permissions, remove_file, set_permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use mlflow_secrets_auth_core::socket::{SocketError, check_socket, lock_beside, prepare_directory};
use nix::fcntl::Flock;

pub(crate) use accept::incoming;
pub(crate) use track::Track;

/// A listening socket, and the lock that makes its broker the only one; held for life.
pub(crate) struct Listener {
    pub(crate) socket: UnixListener,
    pub(crate) path: PathBuf,
    inode: Option<(u64, u64)>,
    lock: Flock<File>,
    adopted: bool,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Another broker serves this place.
    #[error("another broker already serves {path}. Ask it with `mlflow-secrets-auth status`, end it with `mlflow-secrets-auth stop`", path = .0.display())]
    Taken(PathBuf),
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl Listener {
    /// Takes the place over: the lock first, then what a dead broker left there is removed.
    ///
    /// # Errors
    /// [`ListenError::Taken`] when another broker lives; else what the system says.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        prepare_directory(path)?;
        let lock = take_lock(path)?;
        let io = |error: io::Error| SocketError::Io {
            path: path.to_owned(),
            error,
        };
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => remove_file(path).map_err(io)?,
            Ok(_) => {
                let wanted = "socket";
                return Err(SocketError::WrongKind {
                    path: path.to_owned(),
                    wanted,
                }
                .into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error).into()),
        }
        let socket = UnixListener::bind(path).map_err(io)?;
        // The directory is closed to others already; between the two calls nobody could enter.
        set_permissions(path, Permissions::from_mode(0o600)).map_err(io)?;
        Self::new(socket, path.to_owned(), lock, false)
    }

    /// Serves a socket that a service manager holds, and keeps when this broker ends.
    ///
    /// # Errors
    /// It has no name in the file system, another broker serves it, or others can enter.
    pub(crate) fn adopt(socket: UnixListener) -> Result<Self, ListenError> {
        let name = socket
            .local_addr()
            .ok()
            .and_then(|a| a.as_pathname().map(Path::to_owned));
        let path = name.ok_or_else(|| SocketError::WrongKind {
            path: PathBuf::from("the socket that was handed over"),
            wanted: "Unix socket with a name in the file system",
        })?;
        check_socket(&path)?;
        let lock = take_lock(&path)?;
        Self::new(socket, path, lock, true)
    }

    fn new(
        socket: UnixListener,
        path: PathBuf,
        lock: Flock<File>,
        adopted: bool,
    ) -> Result<Self, ListenError> {
        if let Err(error) = socket.set_nonblocking(true) {
            return Err(SocketError::Io { path, error }.into());
        }
        let inode = inode_of(&path);
        Ok(Self {
            socket,
            path,
            inode,
            lock,
            adopted,
        })
    }

    /// Whether a service manager holds the socket.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// A second listener for the accepting task, and the guard of the place.
    pub(crate) fn split(self) -> io::Result<(tokio::net::UnixListener, Place)> {
        let listener = tokio::net::UnixListener::from_std(self.socket)?;
        Ok((
            listener,
            Place {
                path: self.path,
                inode: self.inode,
                adopted: self.adopted,
                _lock: self.lock,
            },
        ))
    }
}

/// The place that this broker serves.
pub(crate) struct Place {
    path: PathBuf,
    inode: Option<(u64, u64)>,
    adopted: bool,
    _lock: Flock<File>,
}

impl Place {
    /// Whether the socket's name still leads here: a logout or a cleaner may have removed it.
    pub(crate) fn is_ours(&self) -> bool {
        self.inode.is_some() && inode_of(&self.path) == self.inode
    }

    /// Takes the socket's name away, so that the next client starts a new broker.
    pub(crate) fn leave(&self) {
        if self.is_ours() && !self.adopted {
            let _ = remove_file(&self.path);
        }
    }
}

/// The lock that makes a broker the only one of its place.
fn take_lock(socket: &Path) -> Result<Flock<File>, ListenError> {
    lock_beside(socket, "lock")?.ok_or_else(|| ListenError::Taken(socket.to_owned()))
}

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d").join("s.sock");
        (dir, path)
    }

    #[test]
    fn one_broker_per_place() {
        let (_dir, path) = place();
        let first = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::Taken(_))));
        drop(first);
        // The dead broker's socket is still there, and in nobody's way.
        assert!(path.exists());
        Listener::bind(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_place_is_not_removed() {
        let (_dir, path) = place();
        prepare_directory(&path).unwrap();
        std::fs::write(&path, "somebody's").unwrap();
        assert!(matches!(
            Listener::bind(&path),
            Err(ListenError::Socket(SocketError::WrongKind { .. }))
        ));
        assert!(path.exists());
    }

    #[test]
    fn the_socket_is_closed_to_others() {
        let (_dir, path) = place();
        let _listener = Listener::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            path.parent().unwrap().metadata().unwrap().mode() & 0o777,
            0o700
        );
    }
}
