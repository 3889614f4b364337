//! The one TLS and HTTP set-up: rustls with ring, reqwest, nothing of this process's environment.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mlflow_secrets_auth_core::variables::Settings;
use reqwest::{NoProxy, Proxy, redirect};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::errors::Failure;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// How long one request may take in all.
const REQUEST: Duration = Duration::from_secs(10);

/// What a caller says about TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Trusted instead of the system's CAs: a file, a directory, or both.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) ca_dir: Option<PathBuf>,
    /// Certificate and key files.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must carry, where it is not the URL's host.
    pub(crate) server_name: Option<String>,
    pub(crate) skip_verify: bool,
}

/// An HTTP client for a caller: its TLS, its proxies, no redirects, bounded times.
///
/// # Errors
/// A file cannot be read or holds no certificate; names the file.
pub(crate) fn client(settings: &Settings, tls: &Tls) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(config(tls)?)
        // A redirect would take the secret manager's token along; who needs one follows it itself.
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(REQUEST)
        .no_proxy()
        .user_agent(concat!("mlflow-secrets-auth/", env!("CARGO_PKG_VERSION")));
    for proxy in proxies(settings)? {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| {
        Failure::not_configured(
            format!("no HTTP client can be made ({})", chain(&error)),
            "Check the proxy and TLS settings",
        )
    })
}

fn proxies(settings: &Settings) -> Result<Vec<Proxy>, Failure> {
    let except = settings.get("NO_PROXY").and_then(NoProxy::from_string);
    let mut proxies = Vec::new();
    type Make = fn(String) -> reqwest::Result<Proxy>;
    let makers: [(&str, Make); 3] = [
        ("HTTPS_PROXY", |url| Proxy::https(url)),
        ("HTTP_PROXY", |url| Proxy::http(url)),
        ("ALL_PROXY", |url| Proxy::all(url)),
    ];
    for (name, make) in makers {
        let Some(url) = settings.get(name) else {
            continue;
        };
        let url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        // The URL may hold a password: it is not shown.
        let proxy = make(url).map_err(|_| {
            Failure::not_configured(
                format!("{name} is not the URL of a proxy"),
                format!("Set {name} to a URL such as http://proxy.example.com:3128"),
            )
        })?;
        proxies.push(proxy.no_proxy(except.clone()));
    }
    Ok(proxies)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

fn config(tls: &Tls) -> Result<ClientConfig, Failure> {
    let unfit = |error: rustls::Error| {
        Failure::not_configured(
            format!("the TLS settings do not fit together ({error})"),
            "Check the certificate files",
        )
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    let builder = if tls.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoVerification))
    } else {
        let roots = Arc::new(roots(tls)?);
        let inner = rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| {
                Failure::not_configured(
                    format!("no CA certificate can be trusted ({error})"),
                    "Check the CA file or directory",
                )
            })?;
        let name = match &tls.server_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| {
                Failure::not_configured(
                    "VAULT_TLS_SERVER_NAME is not a host name",
                    "Correct or unset it",
                )
            })?),
        };
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NamedVerification { inner, name }))
    };
    match &tls.client {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key_of = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable(key, "private key", &error))?;
            builder.with_client_auth_cert(chain, key_of).map_err(unfit)
        }
    }
}

/// The caller's own CAs, else the system's.
fn roots(tls: &Tls) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    if tls.ca_file.is_none() && tls.ca_dir.is_none() {
        store.add_parsable_certificates(system_roots().iter().cloned());
        return Ok(store);
    }
    let mut found = Vec::new();
    if let Some(file) = &tls.ca_file {
        found.extend(certificates(file)?);
    }
    if let Some(directory) = &tls.ca_dir {
        let files = std::fs::read_dir(directory)
            .map_err(|error| unreadable(directory, "directory", &error))?;
        for file in files
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
        {
            found.extend(certificates(&file).unwrap_or_default());
        }
    }
    let (added, _) = store.add_parsable_certificates(found);
    if added == 0 {
        let place = tls
            .ca_file
            .as_ref()
            .or(tls.ca_dir.as_ref())
            .map_or_else(String::new, |p| p.display().to_string());
        return Err(Failure::not_configured(
            format!("{place} holds no CA certificate in PEM form"),
            "Correct the CA file or directory",
        ));
    }
    Ok(store)
}

/// Read once: the system's CAs change with system updates, and a broker lives a day or so.
fn system_roots() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| rustls_native_certs::load_native_certs().certs)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unreadable(
            path,
            "certificate",
            &"there is none in PEM form",
        )),
        Err(error) => Err(unreadable(path, "certificate", &error)),
    }
}

fn unreadable(path: &Path, what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::not_configured(
        format!("the {what} {} cannot be read: {error}", path.display()),
        "Correct the path, or the file's permissions",
    )
}

/// An error with its causes, without the URL: those may hold names that are nobody's business.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !texts.iter().any(|t: &String| t.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    if texts.is_empty() {
        "no cause given".to_owned()
    } else {
        texts.join(": ")
    }
}

/// Whether an error's causes say that TLS is what failed, and how.
pub(crate) fn tls_cause(error: &dyn std::error::Error) -> Option<String> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        // What an I/O error wraps is not among its sources; its sources are those of the wrapped.
        if let Some(inner) = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            && let Some(tls) = wrapped(inner)
        {
            return Some(tls);
        }
        next = cause.source();
    }
    None
}

fn wrapped(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls.to_string());
    }
    wrapped(error.downcast_ref::<io::Error>()?.get_ref()?)
}

/// Verifies as always, for another name than the URL's where the caller says so.
#[derive(Debug)]
struct NamedVerification {
    inner: Arc<rustls::client::WebPkiServerVerifier>,
    name: Option<ServerName<'static>>,
}

impl ServerCertVerifier for NamedVerification {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(
            end,
            between,
            self.name.as_ref().unwrap_or(server),
            ocsp,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What `VAULT_SKIP_VERIFY` asks for; status says so as long as it is in use.
#[derive(Debug)]
struct NoVerification;

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
