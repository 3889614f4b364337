//! State that a forked child must not touch.
//!
//! `fork` copies memory in the middle of whatever other threads were doing. So what this process
//! keeps is tagged with a generation that every fork bumps in the child, and the tag is compared
//! *before* any lock is touched: a child leaks its parent's state and starts with a new one. Its
//! descriptors are closed in the child right at the fork (`close` is async-signal-safe).

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

/// Grows in every forked child.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// The descriptors that a child has to close; more connections than that are never open for long.
static DESCRIPTORS: [AtomicI32; 64] = [const { AtomicI32::new(-1) }; 64];

/// The generation of this process; differs from every ancestor's.
pub fn generation() -> u64 {
    static WATCH: Once = Once::new();
    if !WATCH.is_completed() {
        WATCH.call_once(|| {
            // SAFETY: the handler only touches atomics and calls close(2).
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
    }
    GENERATION.load(Ordering::Acquire)
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
    for slot in &DESCRIPTORS {
        let fd = slot.swap(-1, Ordering::AcqRel);
        if fd >= 0 {
            // SAFETY: the slot's owner lives in state that this child has just lost for ever.
            unsafe { libc::close(fd) };
        }
    }
}

/// A descriptor that a forked child closes at once.
#[derive(Debug)]
pub(super) struct Watched {
    fd: Option<OwnedFd>,
    slot: Option<usize>,
    generation: u64,
}

impl Watched {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let generation = generation();
        let raw = fd.as_raw_fd();
        let slot = DESCRIPTORS.iter().position(|s| {
            s.compare_exchange(-1, raw, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        });
        Self {
            fd: Some(fd),
            slot,
            generation,
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.generation != generation() {
            // Closed at the fork; the number may belong to somebody else by now.
            std::mem::forget(self.fd.take());
        } else if let Some(slot) = self.slot {
            DESCRIPTORS[slot].store(-1, Ordering::Release);
        }
    }
}

/// One value per process: made at the first use, made anew after a fork.
pub struct PerProcess<T> {
    current: AtomicPtr<Tagged<T>>,
}

struct Tagged<T> {
    generation: u64,
    value: T,
}

impl<T: Default> PerProcess<T> {
    /// An empty cell; nothing is made yet.
    pub const fn new() -> Self {
        Self {
            current: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// This process's value. Never waits.
    pub fn get(&self) -> &T {
        let generation = generation();
        let seen = self.current.load(Ordering::Acquire);
        // SAFETY: what the pointer has ever held is freed by nobody before the cell is dropped.
        if let Some(tagged) = unsafe { seen.as_ref() }
            && tagged.generation == generation
        {
            return &tagged.value;
        }
        let fresh = Box::into_raw(Box::new(Tagged {
            generation,
            value: T::default(),
        }));
        match self
            .current
            .compare_exchange(seen, fresh, Ordering::AcqRel, Ordering::Acquire)
        {
            // The parent's value, if any, is leaked: its locks may be held for ever.
            // SAFETY: just made, and published for good.
            Ok(_) => unsafe { &(*fresh).value },
            Err(winner) => {
                // SAFETY: `fresh` was never published; `winner` was, by a thread of this process.
                unsafe {
                    drop(Box::from_raw(fresh));
                    &(*winner).value
                }
            }
        }
    }
}

impl<T: Default> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let current = *self.current.get_mut();
        // SAFETY: `&mut self`: nobody else has it. A value of another generation stays leaked.
        unsafe {
            if current
                .as_ref()
                .is_some_and(|t| t.generation == generation())
            {
                drop(Box::from_raw(current));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_child_has_a_value_and_no_descriptor_of_its_parent() {
        let cell = PerProcess::<Mutex<u32>>::new();
        *cell.get().lock().unwrap() = 7;
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let watched = Watched::new(ours.into());
        // Held while forking: a child that locked it would wait for ever.
        let held = cell.get().lock().unwrap();
        // SAFETY: the child only reads, locks its own mutex and leaves.
        match unsafe { libc::fork() } {
            0 => {
                let fresh = *cell.get().try_lock().unwrap();
                // SAFETY: asks about a number.
                let open = unsafe { libc::fcntl(watched.raw(), libc::F_GETFD) };
                // SAFETY: leaves without running anybody's destructors.
                unsafe { libc::_exit(i32::from(fresh != 0) + 2 * i32::from(open != -1)) }
            }
            child => {
                let mut status = 0;
                // SAFETY: our own child.
                unsafe { libc::waitpid(child, &mut status, 0) };
                assert_eq!(libc::WEXITSTATUS(status), 0);
            }
        }
        drop(held);
        assert_eq!(*cell.get().lock().unwrap(), 7);
    }
}
