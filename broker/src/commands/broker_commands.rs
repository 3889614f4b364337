//! `reload`, `flush` and `stop`: one call each.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::connect::{Looks, client, complain};
use super::exit;
use super::paint::say;

const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn reload() -> u8 {
    match client().reload(&Looks, TIMEOUT) {
        Ok(done) => {
            say(&format!(
                "{} is in force with {} routes",
                done.config_path, done.routes
            ));
            exit::HEALTHY
        }
        Err(error) => complain(&error),
    }
}

pub(super) fn flush() -> u8 {
    match client().flush(&Looks, TIMEOUT) {
        Ok(done) => {
            say(&format!(
                "{} sources were forgotten; each is read again when it is next asked for",
                done.sources
            ));
            exit::HEALTHY
        }
        Err(error) => complain(&error),
    }
}

pub(super) fn stop() -> u8 {
    let client = client();
    let stopped = match client.stop(&Looks, TIMEOUT) {
        Ok(stopped) => stopped,
        Err(error) => return complain(&error),
    };
    // It answers before it ends; "ended" is said when its place is free. (Its pid may stay for a
    // while where nobody collects it.)
    let deadline = Instant::now() + TIMEOUT;
    let lock = client.socket().map(|socket| socket.with_extension("lock"));
    while lock.as_ref().is_ok_and(|lock| is_held(lock)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    say(&format!("the broker (pid {}) has ended", stopped.pid));
    exit::HEALTHY
}

/// Whether a broker lives that holds this lock.
fn is_held(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
}
