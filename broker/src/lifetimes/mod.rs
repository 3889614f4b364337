//! The pure state machines of a source and of a login.
//!
//! No input, no output, no clock: `now` and every random number come in. ARCHITECTURE.md has the
//! states and transitions as tables; these files are meant to read like that page.

pub(crate) mod login;
pub(crate) mod source;
