//! The credential broker for MLflow: its daemon and its command.

mod bounded;
mod broker;
mod callers;
mod commands;
mod config;
mod confine;
mod credential;
mod dry_run;
mod errors;
mod keeper;
mod lifetimes;
mod listener;
mod logging;
mod providers;
mod report;
mod routing;
mod rpc;
mod wipe;

#[global_allocator]
static ALLOCATOR: wipe::Wiping = wipe::Wiping;

fn main() -> std::process::ExitCode {
    commands::run()
}
