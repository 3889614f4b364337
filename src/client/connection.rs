//! One connection to the broker: the peer is checked, one call runs at a time.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Instant;

use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::geteuid;
use tonic::body::Body;
use tonic::{Response, Status};

use super::driver::{Driver, Halt};
use super::fork::Watched;
use super::{Call, Host};
use crate::contract::broker_client::BrokerClient;
use crate::contract::{
    FlushRequest, FlushResponse, GetHeadersResponse, GetStatusRequest, GetStatusResponse,
    MAX_MESSAGE, PresentRequest, PresentResponse, ReloadRequest, ReloadResponse, StopRequest,
    StopResponse,
};
use crate::socket::SocketError;

/// A connection that one thread uses at a time.
pub(super) struct Connection {
    path: PathBuf,
    driver: Driver,
    client: BrokerClient<Sender>,
    sender: SendRequest<Body>,
}

/// Why a call on a connection failed.
pub(super) enum Failed {
    /// The broker's answer is an error.
    Status(Box<Status>),
    /// The connection is gone; another may serve.
    Broken(String),
    TimedOut,
    Interrupted,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Unconnected {
    /// Nobody listens there: no socket, or one that its broker left behind.
    NobodyListens,
    /// All of the listener's places are taken; try again.
    Busy,
    Unusable(SocketError),
}

/// hyper's sender as the service that generated clients call.
#[derive(Clone)]
struct Sender(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Opens the socket, and makes sure that this user's broker is at its other end.
pub(super) fn open(path: &Path) -> Result<Watched, Unconnected> {
    let io = |error: io::Error| {
        Unconnected::Unusable(SocketError::Io {
            path: path.to_owned(),
            error,
        })
    };
    let address = UnixAddr::new(path)
        .map_err(|_| Unconnected::Unusable(SocketError::TooLong(path.to_owned())))?;
    let fd = new_socket().map_err(|e| io(e.into()))?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => {
            return Err(Unconnected::NobodyListens);
        }
        Err(Errno::EAGAIN | Errno::EINTR) => return Err(Unconnected::Busy),
        Err(error) => return Err(io(error.into())),
    }
    let owner = peer_uid(&fd).map_err(|e| io(e.into()))?;
    if owner != geteuid().as_raw() {
        return Err(Unconnected::Unusable(SocketError::ForeignOwner {
            path: path.to_owned(),
            owner,
        }));
    }
    Ok(Watched::new(fd))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn new_socket() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn new_socket() -> nix::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::empty(),
        None,
    )?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn peer_uid(fd: &impl AsFd) -> nix::Result<u32> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    getsockopt(fd, PeerCredentials).map(|peer| peer.uid())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn peer_uid(fd: &impl AsFd) -> nix::Result<u32> {
    nix::unistd::getpeereid(fd).map(|(uid, _)| uid.as_raw())
}

// === impl Connection ===

impl Connection {
    /// HTTP/2 over an open socket.
    pub(super) fn start(
        path: &Path,
        fd: Watched,
        host: &dyn Host,
        deadline: Instant,
    ) -> Result<Self, Failed> {
        let (mut driver, wire, spawner) = Driver::new(fd);
        let handshake = Builder::new(spawner.clone()).handshake(wire);
        let (sender, connection) = driver
            .run(handshake, deadline, &|| host.interrupted())?
            .map_err(|error| Failed::Broken(error.to_string()))?;
        hyper::rt::Executor::execute(&spawner, async move {
            // How it ended shows at the calls.
            let _ = connection.await;
        });
        let client =
            BrokerClient::with_origin(Sender(sender.clone()), Uri::from_static("http://localhost"))
                .max_decoding_message_size(MAX_MESSAGE);
        Ok(Self {
            path: path.to_owned(),
            driver,
            client,
            sender,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the broker has not closed it meanwhile. An idle connection is not driven, so it
    /// is looked at before it is used again.
    pub(super) fn is_alive(&mut self) -> bool {
        self.driver.settle();
        !self.sender.is_closed()
    }

    pub(super) fn present(
        &mut self,
        host: &dyn Host,
        request: PresentRequest,
        deadline: Instant,
    ) -> Result<PresentResponse, Failed> {
        let mut client = self.client.clone();
        self.run(host, deadline, async move { client.present(request).await })
    }

    pub(super) fn ask(
        &mut self,
        host: &dyn Host,
        call: Call,
        deadline: Instant,
    ) -> Result<GetHeadersResponse, Failed> {
        let mut client = self.client.clone();
        self.run(host, deadline, async move {
            match call {
                Call::Headers(request) => client.get_headers(request).await,
                Call::Rejected(request) => client.report_rejection(request).await,
            }
        })
    }

    pub(super) fn status(
        &mut self,
        host: &dyn Host,
        request: GetStatusRequest,
        deadline: Instant,
    ) -> Result<GetStatusResponse, Failed> {
        let mut client = self.client.clone();
        self.run(
            host,
            deadline,
            async move { client.get_status(request).await },
        )
    }

    pub(super) fn reload(
        &mut self,
        host: &dyn Host,
        request: ReloadRequest,
        deadline: Instant,
    ) -> Result<ReloadResponse, Failed> {
        let mut client = self.client.clone();
        self.run(host, deadline, async move { client.reload(request).await })
    }

    pub(super) fn flush(
        &mut self,
        host: &dyn Host,
        request: FlushRequest,
        deadline: Instant,
    ) -> Result<FlushResponse, Failed> {
        let mut client = self.client.clone();
        self.run(host, deadline, async move { client.flush(request).await })
    }

    pub(super) fn stop(
        &mut self,
        host: &dyn Host,
        request: StopRequest,
        deadline: Instant,
    ) -> Result<StopResponse, Failed> {
        let mut client = self.client.clone();
        self.run(host, deadline, async move { client.stop(request).await })
    }

    fn run<T>(
        &mut self,
        host: &dyn Host,
        deadline: Instant,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failed> {
        match self.driver.run(call, deadline, &|| host.interrupted())? {
            Ok(response) => Ok(response.into_inner()),
            // The transport's own failures have a source; what the broker says has none.
            Err(status)
                if std::error::Error::source(&status).is_some() || self.sender.is_closed() =>
            {
                Err(Failed::Broken(status.message().to_owned()))
            }
            Err(status) => Err(Failed::Status(Box::new(status))),
        }
    }
}

impl From<Halt> for Failed {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::TimedOut => Self::TimedOut,
            Halt::Interrupted => Self::Interrupted,
        }
    }
}
