//! What the broker and its clients share: the contract between them, the names of the
//! settings, and the rules about origins, headers and the socket.
//!
//! Rules are plain functions over plain types; input and output sit in [`client`] and [`socket`].

pub mod client;
pub mod clock;
pub mod contract;
pub mod headers;
pub mod origins;
pub mod secret;
pub mod socket;
pub mod variables;

/// The version that both ends report; one wheel holds both.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
