//! Which bytes may stand in an HTTP header.
//!
//! HTTP libraries put a bad header into the text of their error, and with it the secret.
//! So both ends look first.

/// The header that carries credentials unless the settings name another.
pub const DEFAULT_NAME: &str = "Authorization";

/// Marks the one repetition of a rejected request.
pub const RETRY_MARKER: (&str, &str) = ("X-MLFSA-Retried", "true");

/// Headers that frame a message or direct it; credentials in them would break the request.
const NOT_FOR_CREDENTIALS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "cookie",
    "expect",
    "x-mlfsa-retried",
];

/// The canonical spelling of a header name: any case of `Authorization` becomes that word.
pub fn canonical_name(name: &str) -> &str {
    let name = name.trim();
    if name.eq_ignore_ascii_case(DEFAULT_NAME) {
        DEFAULT_NAME
    } else {
        name
    }
}

/// Whether a name is a token (RFC 9110, 5.1) that may carry credentials.
pub fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        && !NOT_FOR_CREDENTIALS
            .iter()
            .any(|taken| name.eq_ignore_ascii_case(taken))
}

/// Whether a value is visible ASCII with inner blanks (RFC 9110, 5.5, without obsolete text).
pub fn is_valid_value(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| b.is_none_or(|b| matches!(b, b' ' | b'\t'));
    value.iter().all(|b| matches!(b, 0x20..=0x7e | b'\t'))
        && !blank(value.first())
        && !blank(value.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(canonical_name("authorization"), "Authorization");
        assert_eq!(canonical_name(" X-Api-Key "), "X-Api-Key");
        assert!(is_valid_name("X-Api-Key") && is_valid_name("Authorization"));
        for bad in [
            "",
            "X Api",
            "X:Y",
            "Host",
            "content-length",
            "X\nY",
            "Ärger",
        ] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn values() {
        assert!(is_valid_value(b"Bearer abc.def") && is_valid_value(b"x"));
        for bad in [
            &b""[..],
            b" x",
            b"x ",
            b"a\nb",
            b"a\rb",
            b"a\0b",
            b"\xc3\xa4",
            b"a\x7f",
        ] {
            assert!(!is_valid_value(bad), "{bad:?}");
        }
    }
}
