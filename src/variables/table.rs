//! The rows.

use super::Kind::{Flag, Number, Path, Secret, Text};
use super::Role::{Client, Login, Place, Route, Select};
use super::{Kind, Role, Variable};

/// The providers in their fixed priority: the first enabled one serves.
pub const PROVIDERS: &[&str] = &["vault", "aws-secrets-manager", "azure-key-vault", "file"];

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    key: &'static str,
    provider: &'static str,
    role: Role,
    kind: Kind,
    meaning: &'static str,
) -> Variable {
    Variable {
        name,
        aliases,
        key,
        provider,
        role,
        kind,
        meaning,
    }
}

/// Every variable that means something here.
#[rustfmt::skip]
pub const TABLE: &[Variable] = &[
    row("MLFLOW_SECRETS_AUTH_ENABLE", &[], "", "", Select, Text, "comma list of providers"),
    row("MLFLOW_SECRETS_AUTH_ENABLE_VAULT", &[], "", "vault", Select, Flag, "enables vault"),
    row("MLFLOW_SECRETS_AUTH_ENABLE_AWS_SECRETS_MANAGER", &[], "", "aws-secrets-manager", Select, Flag, "enables aws-secrets-manager"),
    row("MLFLOW_SECRETS_AUTH_ENABLE_AZURE_KEY_VAULT", &[], "", "azure-key-vault", Select, Flag, "enables azure-key-vault"),
    row("MLFLOW_SECRETS_AUTH_ENABLE_FILE", &[], "", "file", Select, Flag, "enables file"),

    row("MLFLOW_SECRETS_ALLOWED_HOSTS", &[], "", "", Route, Text, "comma list of host patterns that may get the header"),
    row("MLFLOW_AUTH_HEADER_NAME", &[], "header", "", Route, Text, "the header that carries the credential"),
    row("MLFLOW_SECRETS_MAX_RETRIES", &[], "max_retries", "", Route, Number, "retries of a secret manager's transient failures"),

    row("VAULT_ADDR", &[], "address", "vault", Login, Text, "URL of Vault or OpenBao"),
    row("VAULT_TOKEN", &[], "", "vault", Login, Secret, "token; wins over AppRole"),
    row("VAULT_ROLE_ID", &[], "role_id", "vault", Login, Text, "AppRole role id"),
    row("VAULT_SECRET_ID", &[], "", "vault", Login, Secret, "AppRole secret id"),
    row("MLFLOW_VAULT_TOKEN_FILE", &[], "token_file", "vault", Login, Path, "file with a token, such as an agent's sink; wins over AppRole"),
    row("MLFLOW_VAULT_SECRET_ID_FILE", &[], "secret_id_file", "vault", Login, Path, "file with the AppRole secret id"),
    row("VAULT_NAMESPACE", &[], "namespace", "vault", Login, Text, "namespace"),
    row("VAULT_SKIP_VERIFY", &[], "skip_verify", "vault", Login, Flag, "turns TLS verification off"),
    row("VAULT_CACERT", &[], "ca_cert", "vault", Login, Path, "PEM file of trusted CAs"),
    row("VAULT_CAPATH", &[], "ca_path", "vault", Login, Path, "directory of PEM files of trusted CAs"),
    row("VAULT_CLIENT_CERT", &[], "client_cert", "vault", Login, Path, "PEM client certificate"),
    row("VAULT_CLIENT_KEY", &[], "client_key", "vault", Login, Path, "PEM key of the client certificate"),
    row("VAULT_TLS_SERVER_NAME", &[], "tls_server_name", "vault", Login, Text, "the name that Vault's certificate must carry"),
    row("HOME", &[], "", "vault", Login, Path, "where .vault-token lies"),
    row("MLFLOW_VAULT_SECRET_PATH", &[], "path", "vault", Place, Text, "path of the secret, or path#field"),
    row("MLFLOW_VAULT_AUTH_MODE", &[], "auth_mode", "vault", Route, Text, "bearer or basic"),
    row("MLFLOW_VAULT_TTL_SEC", &[], "ttl", "vault", Route, Number, "seconds for which a secret is fresh"),

    row("MLFLOW_FILE_SECRET_PATH", &[], "path", "file", Place, Path, "file with the secret"),
    row("MLFLOW_FILE_ALLOW_SHARED", &[], "allow_shared", "file", Place, Flag, "accepts a file that others can read or that root owns"),
    row("MLFLOW_FILE_AUTH_MODE", &[], "auth_mode", "file", Route, Text, "bearer or basic"),
    row("MLFLOW_FILE_TTL_SEC", &[], "ttl", "file", Route, Number, "seconds for which a secret is fresh"),

    row("HTTPS_PROXY", &["https_proxy"], "https_proxy", "", Login, Secret, "proxy to https secret managers"),
    row("HTTP_PROXY", &["http_proxy"], "http_proxy", "", Login, Secret, "proxy to http secret managers"),
    row("ALL_PROXY", &["all_proxy"], "all_proxy", "", Login, Secret, "proxy where no other is set"),
    row("NO_PROXY", &["no_proxy"], "no_proxy", "", Login, Text, "hosts reached without a proxy"),
    row("SSL_CERT_FILE", &[], "", "", Login, Path, "PEM file of trusted CAs in place of the system's"),
    row("SSL_CERT_DIR", &[], "", "", Login, Path, "directory of trusted CAs in place of the system's"),

    row("MLFLOW_SECRETS_AUTH_SOCKET", &[], "", "", Client, Path, "the broker's socket"),
    row("MLFLOW_SECRETS_AUTH_AUTOSTART", &[], "", "", Client, Flag, "whether the client may start a broker (default: yes)"),
    row("MLFLOW_SECRETS_AUTH_ON_ERROR", &[], "", "", Client, Text, "raise, or skip: send the request without a credential"),
    row("MLFLOW_SECRETS_AUTH_TIMEOUT", &[], "", "", Client, Number, "seconds that a cold answer may take (default 15)"),
    row("MLFLOW_SECRETS_LOG_LEVEL", &[], "", "", Client, Text, "level of the client's Python log"),
];
