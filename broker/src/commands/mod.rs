//! The `mlflow-secrets-auth` command: one file per subcommand.

mod broker_commands;
mod connect;
mod doctor;
mod header;
mod info;
mod paint;
mod serve;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What every subcommand exits with; documented, and kept.
pub(crate) mod exit {
    /// All is well.
    pub(crate) const HEALTHY: u8 = 0;
    /// Something is wrong, and the output says what.
    pub(crate) const PROBLEM: u8 = 1;
    /// No broker runs.
    pub(crate) const NOT_RUNNING: u8 = 3;
}

/// MLflow credentials from your secret manager, through one broker per user.
#[derive(Parser)]
#[command(
    name = "mlflow-secrets-auth",
    version,
    max_term_width = 80,
    propagate_version = true
)]
#[command(after_help = "Exit codes: 0 healthy, 1 a problem, 2 wrong usage, 3 no broker runs.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker in the foreground.
    Serve(serve::Serve),
    /// Show what the broker is doing.
    Status(status::Status),
    /// Check the whole way from this shell's settings to a header.
    Doctor(doctor::Doctor),
    /// Show version, enabled providers and settings.
    Info,
    /// Print the headers for a URL, for use with curl.
    Header(header::HeaderArguments),
    /// Make the broker read its configuration file again.
    Reload,
    /// Make the broker forget every credential and login.
    Flush,
    /// End the broker.
    Stop,
}

/// Parses the arguments and runs the subcommand.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    ExitCode::from(match arguments.command {
        Command::Serve(serve) => serve.run(),
        Command::Status(status) => status.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Info => info::run(),
        Command::Header(header) => header.run(),
        Command::Reload => broker_commands::reload(),
        Command::Flush => broker_commands::flush(),
        Command::Stop => broker_commands::stop(),
    })
}
