//! `doctor --dry-run`: one HEAD request to the tracking server, with the header that it would get.

use std::path::PathBuf;

use mlflow_secrets_auth_core::client::Answer;
use mlflow_secrets_auth_core::origins::Origin;
use mlflow_secrets_auth_core::variables::Settings;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::providers::http::{self, Tls};

/// The status that the server answers.
///
/// # Errors
/// Why there is no answer.
pub(crate) fn head(origin: &Origin, answer: &Answer) -> Result<u16, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|e| e.to_string())?;
        let mut value = HeaderValue::try_from(value.reveal())
            .map_err(|_| "the header cannot be sent".to_owned())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    // As MLflow and requests look for them.
    let ca = [
        "MLFLOW_TRACKING_SERVER_CERT_PATH",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
    ]
    .iter()
    .find_map(|name| variable(name));
    let insecure =
        std::env::var("MLFLOW_TRACKING_INSECURE_TLS").is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    let tls = Tls {
        ca_file: ca,
        skip_verify: insecure,
        ..Tls::default()
    };
    let client = http::client(&Settings::default(), &tls).map_err(|failure| failure.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let response = client
            .head(format!("{origin}/"))
            .headers(headers)
            .send()
            .await;
        response
            .map(|r| r.status().as_u16())
            .map_err(|error| http::chain(&error))
    })
}
