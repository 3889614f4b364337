use std::time::Duration;

use zeroize::Zeroizing;

use super::*;

const AT: &str = "https://vault:8200";

fn reply(status: u16, body: &str) -> Reply {
    Reply {
        status,
        body: Zeroizing::new(body.as_bytes().to_vec()),
        retry_after: None,
    }
}

fn place() -> Place {
    Place {
        engine: Engine::Kv2,
        mount: "secret".into(),
        path: "mlflow/auth".into(),
    }
}

fn no(status: u16, body: &str, asked: Asked<'_>) -> Failure {
    failure(&reply(status, body), asked, AT)
}

const DELETED: &str = r#"{"data":{"data":null,"metadata":{"deletion_time":"2026-01-02T03:04:05.678Z","destroyed":false,"version":4}},"lease_id":"","lease_duration":0}"#;
const DESTROYED: &str =
    r#"{"data":{"data":null,"metadata":{"deletion_time":"","destroyed":true,"version":4}}}"#;

#[test]
fn every_no_of_a_reading_has_its_class_and_words() {
    let place = place();
    for (status, body, class, words) in [
        (
            403,
            r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
            Class::NotPermitted,
            r#"path "secret/data/mlflow/auth" { capabilities = ["read"] }"#,
        ),
        (403, "{}", Class::NotPermitted, "may not read"),
        (403, "", Class::NotPermitted, "may not read"),
        (
            404,
            r#"{"errors":[]}"#,
            Class::NotFound,
            "there is no secret secret/mlflow/auth",
        ),
        (
            404,
            r#"{"errors":["no handler for route \"secret/data/mlflow/auth\". route entry not found."]}"#,
            Class::NotFound,
            "no secrets engine",
        ),
        (
            404,
            r#"{"errors":["namespace not found"]}"#,
            Class::NotFound,
            "VAULT_NAMESPACE",
        ),
        (
            404,
            DELETED,
            Class::NotFound,
            "version 4 of the secret secret/mlflow/auth",
        ),
        (
            404,
            DELETED,
            Class::NotFound,
            "was deleted at 2026-01-02T03:04:05",
        ),
        (404, DESTROYED, Class::NotFound, "was destroyed"),
        (429, "", Class::Throttled, "429"),
        (
            503,
            r#"{"errors":["Vault is sealed"]}"#,
            Class::Sealed,
            "is sealed",
        ),
        (
            503,
            r#"{"errors":["OpenBao is sealed"]}"#,
            Class::Sealed,
            "is sealed",
        ),
        (503, "<html>", Class::Unreachable, "503"),
        (
            501,
            r#"{"initialized":false}"#,
            Class::Sealed,
            "not initialised",
        ),
        (472, "", Class::Unreachable, "standby"),
        (473, "", Class::Unreachable, "standby"),
        (412, "", Class::Unreachable, "standby"),
        (
            500,
            r#"{"errors":["internal error"]}"#,
            Class::Unreachable,
            "500",
        ),
        (502, "<html>Bad gateway</html>", Class::Unreachable, "502"),
        (
            400,
            "Client sent an HTTP request to an HTTPS server.\n",
            Class::Tls,
            "https://",
        ),
        (
            400,
            r#"{"errors":["Upgrading from non-versioned to versioned data."]}"#,
            Class::Unreachable,
            "upgrading",
        ),
        (
            403,
            "<html>Forbidden</html>",
            Class::Unreachable,
            "does not look like Vault",
        ),
        (
            404,
            "<html>nothing</html>",
            Class::Unreachable,
            "does not look like Vault",
        ),
        (407, "", Class::Unreachable, "proxy"),
    ] {
        let failure = no(status, body, Asked::Read(&place));
        assert_eq!(failure.class, class, "{status} {body}: {failure}");
        assert!(
            failure.to_string().contains(words),
            "{status} {body}: {failure}"
        );
        assert!(
            failure.to_string().contains(AT) || words.starts_with("path"),
            "{failure}"
        );
    }
}

#[test]
fn every_no_of_a_login_has_its_words_and_names_the_role() {
    for (status, body, words) in [
        (
            400,
            r#"{"errors":["invalid role or secret ID"]}"#,
            "invalid role or secret id",
        ),
        (
            400,
            r#"{"errors":["invalid secret id"]}"#,
            "VAULT_SECRET_ID",
        ),
        (
            400,
            r#"{"errors":["source address \"10.0.0.1\" unauthorized by CIDR restrictions"]}"#,
            "CIDR",
        ),
        (403, r#"{"errors":["permission denied"]}"#, "auth/approle"),
    ] {
        let failure = no(status, body, Asked::LogIn("role-7"));
        assert_eq!(failure.class, Class::NotAuthenticated, "{failure}");
        assert!(failure.to_string().contains(words), "{failure}");
        assert!(failure.cause.contains("role-7"), "{failure}");
    }
    let failure = no(
        403,
        r#"{"errors":["permission denied"]}"#,
        Asked::LookUp("VAULT_TOKEN"),
    );
    assert_eq!(failure.class, Class::NotAuthenticated);
    let failure = no(
        503,
        r#"{"errors":["Vault is sealed"]}"#,
        Asked::LogIn("role-7"),
    );
    assert_eq!(failure.class, Class::Sealed);
}

#[test]
fn the_server_s_own_text_is_never_quoted() {
    let body = r#"{"errors":["hunter2 hunter3"],"data":{"token":"hunter4"}}"#;
    let place = place();
    for status in [400, 401, 403, 404, 405, 429, 500, 503] {
        for asked in [
            Asked::Read(&place),
            Asked::LogIn("r"),
            Asked::LookUp("f"),
            Asked::Renew,
            Asked::Mount,
        ] {
            let said = no(status, body, asked).to_string();
            assert!(!said.contains("hunter"), "{said}");
        }
    }
}

#[test]
fn what_is_known_about_a_denied_token() {
    let of = |status, body| doubt(&reply(status, body));
    assert_eq!(
        of(403, r#"{"errors":["permission denied"]}"#),
        Some(Doubt::Dead)
    );
    assert_eq!(
        of(
            403,
            r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#
        ),
        Some(Doubt::Dead)
    );
    assert_eq!(
        of(
            403,
            r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#
        ),
        Some(Doubt::Denied)
    );
    assert_eq!(of(403, "{}"), Some(Doubt::Denied));
    assert_eq!(of(403, "<html>"), None);
    assert_eq!(of(404, r#"{"errors":["permission denied"]}"#), None);
}

#[test]
fn the_server_s_wish_is_kept() {
    let mut throttled = reply(429, "");
    throttled.retry_after = Some(Duration::from_secs(7));
    let failure = failure(&throttled, Asked::Mount, AT);
    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
}

#[test]
fn tls_failures_say_what_to_set() {
    for (cause, words) in [
        ("invalid peer certificate: UnknownIssuer", "VAULT_CACERT"),
        (
            "invalid peer certificate: certificate not valid for name \"x\"",
            "VAULT_TLS_SERVER_NAME",
        ),
        (
            "invalid peer certificate: certificate expired: verification time 5",
            "clock",
        ),
        (
            "received fatal alert: CertificateRequired",
            "VAULT_CLIENT_CERT",
        ),
        (
            "received corrupt message of type InvalidContentType",
            "http",
        ),
    ] {
        let failure = tls(cause, AT);
        assert_eq!(failure.class, Class::Tls);
        assert!(failure.next_step.contains(words), "{failure}");
    }
}
