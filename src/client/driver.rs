//! Drives one connection's futures on the calling thread, inside a call and only there.
//!
//! HTTP/2 wants a task of its own; a Python process wants no thread, no timer and no epoll
//! descriptor of ours. So the tasks are polled in turn until none can go on, and then poll(2)
//! waits for the one descriptor there is.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use super::fork::Watched;

/// How long one poll(2) lasts at most: a signal may land on another thread than ours.
const SLICE: Duration = Duration::from_secs(1);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Collects the tasks that hyper wants to have run.
#[derive(Clone, Default)]
pub(super) struct Spawner(Arc<Mutex<Vec<Task>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::pin(future));
    }
}

/// The socket as hyper sees it: never blocks, remembers what it could not do.
pub(super) struct Wire {
    shared: Arc<Socket>,
}

struct Socket {
    fd: Watched,
    write_blocked: AtomicBool,
}

/// Why driving ended before the future did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Halt {
    TimedOut,
    Interrupted,
}

/// The tasks of one connection, and the socket they wait for.
pub(super) struct Driver {
    tasks: Vec<Task>,
    spawner: Spawner,
    socket: Arc<Socket>,
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Driver {
    /// A driver, and the wire and spawner to hand to hyper. `fd` must be non-blocking.
    pub(super) fn new(fd: Watched) -> (Self, Wire, Spawner) {
        let socket = Arc::new(Socket {
            fd,
            write_blocked: AtomicBool::new(false),
        });
        let spawner = Spawner::default();
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        let wire = Wire {
            shared: Arc::clone(&socket),
        };
        (
            Self {
                tasks: Vec::new(),
                spawner: spawner.clone(),
                socket,
                woken,
                waker,
            },
            wire,
            spawner,
        )
    }

    /// Runs until the future is done. `interrupted` is asked after every signal and every second.
    pub(super) fn run<T>(
        &mut self,
        future: impl Future<Output = T>,
        deadline: Instant,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<T, Halt> {
        let mut future = pin!(future);
        loop {
            self.woken.0.store(false, Ordering::Release);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&self.waker))
            {
                // What the future has left to send (a stream's end) goes out now.
                self.settle();
                return Ok(output);
            }
            self.poll_tasks();
            if self.woken.0.load(Ordering::Acquire) {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Halt::TimedOut);
            }
            match self.wait(left.min(SLICE)) {
                Ok(true) => {}
                Ok(false) | Err(Errno::EINTR) => {
                    if interrupted() {
                        return Err(Halt::Interrupted);
                    }
                }
                // The tasks meet the same error when they read.
                Err(_) => self.woken.0.store(true, Ordering::Release),
            }
        }
    }

    /// Lets the tasks notice, without waiting, what has come in or can go out.
    pub(super) fn settle(&mut self) {
        // Twice: what the first round reads may want to be answered.
        for _ in 0..2 {
            self.poll_tasks();
        }
    }

    fn poll_tasks(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        let mut spawned = std::mem::take(
            &mut *self
                .spawner
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.tasks.append(&mut spawned);
        self.tasks
            .retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        if !self
            .spawner
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
        {
            self.woken.0.store(true, Ordering::Release);
        }
    }

    /// Waits for the socket; false: nothing came in that time.
    fn wait(&self, time: Duration) -> Result<bool, Errno> {
        let fd = self.socket.fd.fd().ok_or(Errno::EBADF)?;
        let mut events = PollFlags::POLLIN;
        if self.socket.write_blocked.swap(false, Ordering::AcqRel) {
            events |= PollFlags::POLLOUT;
        }
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(fd), events)];
        let millis = time.as_micros().div_ceil(1000).min(60_000);
        poll(
            &mut fds,
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX),
        )
        .map(|ready| ready > 0)
    }
}

impl Read for Wire {
    #[allow(unsafe_code)]
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: nothing in it is made uninitialised; recv(2) only writes.
        let space = unsafe { buf.as_mut() };
        // SAFETY: the pointer and the length are those of `space`.
        let count = unsafe {
            libc::recv(
                self.shared.fd.raw(),
                space.as_mut_ptr().cast(),
                space.len(),
                0,
            )
        };
        match Errno::result(count) {
            Ok(count) => {
                // SAFETY: recv(2) has written that many bytes.
                unsafe { buf.advance(usize::try_from(count).unwrap_or(0)) };
                Poll::Ready(Ok(()))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A broker that died must be an error, not a SIGPIPE.
        let flags = if cfg!(target_os = "macos") {
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_NOSIGNAL
        };
        match send(self.shared.fd.raw(), buf, flags) {
            Ok(count) => Poll::Ready(Ok(count)),
            Err(Errno::EAGAIN | Errno::EINTR) => {
                self.shared.write_blocked.store(true, Ordering::Release);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
