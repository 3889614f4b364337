//! `header URL`: the way out where no plugin reaches.

use clap::Args;

use super::connect::{Acts, client, complain, origin_of, settings, timeout, uri_origins};
use super::exit;
use super::paint::say;
use mlflow_secrets_auth_core::client::Question;

#[derive(Args)]
#[command(
    after_help = "Example:\n  curl -H @<(mlflow-secrets-auth header https://mlflow.example.com) \\\n    https://mlflow.example.com/version\n\nThe output is a secret: pipe it, never paste it."
)]
pub(super) struct HeaderArguments {
    /// The URL that the headers are for
    url: String,
}

impl HeaderArguments {
    pub(super) fn run(self) -> u8 {
        let Some(origin) = origin_of(&self.url) else {
            eprintln!(
                "error: this is not a URL of the form http[s]://host[:port]/. Write it out in full"
            );
            return exit::PROBLEM;
        };
        let (settings, timeout) = match (settings(), timeout()) {
            (Ok(settings), Ok(timeout)) => (settings, timeout),
            (Err(error), _) => return problem(&error),
            (_, Err(error)) => return problem(&error),
        };
        let question = Question {
            origin: &origin,
            uri_origins: &uri_origins(),
            timeout,
            fresh: true,
        };
        match client().headers(&Acts, &settings, question) {
            Ok(answer) => {
                if let Some(reason) = answer.declined {
                    return problem(&reason);
                }
                for (name, value) in &answer.headers {
                    say(&format!("{name}: {}", value.reveal()));
                }
                exit::HEALTHY
            }
            Err(error) => complain(&error),
        }
    }
}

fn problem(error: &dyn std::fmt::Display) -> u8 {
    eprintln!("error: {error}");
    exit::PROBLEM
}
