//! Origins (scheme, host, port) and the patterns that allow them.
//!
//! An [`Origin`] is parsed from the canonical text that a client sends after its HTTP library
//! has taken a URL apart. Nothing here repairs a URL: what is not canonical is refused, because
//! an allowlist that can be talked round is worse than none.

use std::fmt;
use std::net::Ipv6Addr;

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text on the wire.
    Http,
    /// TLS.
    Https,
}

/// Scheme, host and port of a request; the port is always known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    /// Lower case; an IPv6 address without its brackets.
    host: String,
    port: u16,
}

/// The text is not the canonical form of an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an origin of the form http[s]://host[:port]")]
pub struct NotAnOrigin;

// === impl Scheme ===

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

// === impl Origin ===

impl Origin {
    /// Parses `scheme://host[:port]`: lower-case scheme; host of letters, digits, `.`, `-`, `_`,
    /// or an IPv6 address (with zone) in brackets; nothing before or after.
    ///
    /// # Errors
    /// [`NotAnOrigin`] for everything else: user info, paths, escapes, blanks, empty hosts.
    pub fn parse(text: &str) -> Result<Self, NotAnOrigin> {
        let (scheme, rest) = text.split_once("://").ok_or(NotAnOrigin)?;
        let scheme = Scheme::parse(scheme).ok_or(NotAnOrigin)?;
        let (host, port) = split_port(rest)?;
        let port = port.unwrap_or(scheme.default_port());
        // 253 is the longest name that DNS can carry; its root dot makes one more.
        if host.is_empty() || host.len() > 254 || port == 0 {
            return Err(NotAnOrigin);
        }
        Ok(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, lower case, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own where none was written.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is this machine by name or address, whatever a resolver says.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        let (open, close) = if host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        write!(f, "{scheme}://{open}{host}{close}")?;
        if *port != scheme.default_port() {
            write!(f, ":{port}")?;
        }
        Ok(())
    }
}

/// Splits `host[:port]` and checks both; brackets are taken off an IPv6 address.
fn split_port(text: &str) -> Result<(&str, Option<u16>), NotAnOrigin> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(NotAnOrigin)?;
        let (address, zone) = host
            .split_once('%')
            .map_or((host, None), |(a, z)| (a, Some(z)));
        address.parse::<Ipv6Addr>().map_err(|_| NotAnOrigin)?;
        if zone.is_some_and(|z| z.is_empty() || !z.bytes().all(is_host_byte)) {
            return Err(NotAnOrigin);
        }
        (
            host,
            if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':').ok_or(NotAnOrigin)?)
            },
        )
    } else {
        let (host, port) = text
            .split_once(':')
            .map_or((text, None), |(h, p)| (h, Some(p)));
        if !host.bytes().all(is_host_byte) {
            return Err(NotAnOrigin);
        }
        (host, port)
    };
    let port = match port {
        None => None,
        Some(digits)
            if !digits.is_empty()
                && digits.len() <= 5
                && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            Some(digits.parse().map_err(|_| NotAnOrigin)?)
        }
        Some(_) => return Err(NotAnOrigin),
    };
    Ok((host, port))
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// A comma list of shell-style patterns (`*`, `?`, `[a-c]`, `[!a]`) on the host name.
///
/// A pattern may narrow itself with a scheme before and a port after the host
/// (`https://mlflow.example.com:8443`); without them every scheme and port of the host matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Patterns(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pattern {
    text: String,
    scheme: Option<Scheme>,
    port: Option<u16>,
    host: HostPattern,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum HostPattern {
    Glob(glob::Pattern),
    Address(Ipv6Addr),
}

/// A pattern that cannot match anything as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host pattern (a host name, possibly with *, ? or [a-c])")]
pub struct BadPattern(String);

impl Patterns {
    /// Parses a comma list; blanks around entries and empty entries are ignored.
    ///
    /// # Errors
    /// [`BadPattern`] names the first entry that is none.
    pub fn parse_list(list: &str) -> Result<Self, BadPattern> {
        list.split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .map(Pattern::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether one of the patterns allows the origin.
    pub fn allow(&self, origin: &Origin) -> bool {
        self.0.iter().any(|p| p.matches(origin))
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns as they were written.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|p| p.text.as_str())
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().collect::<Vec<_>>().join(","))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = match lower.split_once("://") {
            Some((scheme, rest)) => (Some(Scheme::parse(scheme).ok_or_else(bad)?), rest),
            None => (None, lower.as_str()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if let Ok(address) = rest.parse::<Ipv6Addr>() {
            return Ok(Self {
                text: text.to_owned(),
                scheme,
                port: None,
                host: HostPattern::Address(address),
            });
        }
        // Brackets are an address only where they hold one; else they are a character class.
        if let Ok((host, port)) = split_port(rest)
            && let Ok(address) = host.parse::<Ipv6Addr>()
        {
            return Ok(Self {
                text: text.to_owned(),
                scheme,
                port,
                host: HostPattern::Address(address),
            });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| bad())?)),
            None => (rest, None),
        };
        let mut host = host.to_owned();
        // `glob` gives `**` a meaning of its own; in a host name it is just `*`.
        while host.contains("**") {
            host = host.replace("**", "*");
        }
        let fits = |b: u8| is_host_byte(b) || b"*?[]!".contains(&b);
        if host.is_empty() || !host.bytes().all(fits) {
            return Err(bad());
        }
        let host = HostPattern::Glob(glob::Pattern::new(&host).map_err(|_| bad())?);
        Ok(Self {
            text: text.to_owned(),
            scheme,
            port,
            host,
        })
    }

    fn matches(&self, origin: &Origin) -> bool {
        let host = match &self.host {
            HostPattern::Glob(pattern) => pattern.matches(&origin.host),
            HostPattern::Address(address) => origin.host.parse() == Ok(*address),
        };
        host && self.scheme.is_none_or(|s| s == origin.scheme)
            && self.port.is_none_or(|p| p == origin.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &str, origin: &str) -> bool {
        Patterns::parse_list(list)
            .unwrap()
            .allow(&Origin::parse(origin).unwrap())
    }

    #[test]
    fn canonical_origins() {
        for (text, shown) in [
            ("https://mlflow.example.com", "https://mlflow.example.com"),
            (
                "https://MLFLOW.example.com:443",
                "https://mlflow.example.com",
            ),
            ("http://localhost:5000", "http://localhost:5000"),
            ("http://[::1]:5000", "http://[::1]:5000"),
            ("http://[fe80::1%eth0]", "http://[fe80::1%eth0]"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "mlflow",
            "ftp://a",
            "HTTP://a",
            "http://",
            "http://:80",
            "http://a/",
            "http://a/b",
            "http://u@a",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:+80",
            "http://a:80:80",
            "http://a b",
            "http://a\\b",
            "http://a%2eb",
            "http://[::1",
            "http://[::1]x",
            "http://[a]",
            "http://a\n",
            "http://ä",
            "http://a?b",
            "http://a#b",
            "http://[::1%]",
        ] {
            assert!(Origin::parse(text).is_err(), "{text:?}");
        }
        assert!(Origin::parse(&format!("http://{}", "a".repeat(300))).is_err());
    }

    #[test]
    fn shell_patterns_on_the_host() {
        assert!(allows(
            "mlflow.example.com",
            "https://MLflow.example.com:8443"
        ));
        assert!(allows(" a , *.example.com ", "http://x.y.example.com"));
        assert!(!allows("*.example.com", "http://example.com"));
        assert!(!allows(
            "mlflow.example.com",
            "http://mlflow.example.com.evil.net"
        ));
        assert!(!allows("mlflow.example.com", "http://xmlflow.example.com"));
        assert!(allows("ml[a-f]low", "http://mlflow") && !allows("ml[!f]low", "http://mlflow"));
        assert!(allows("mlf?ow", "http://mlflow") && allows("**", "http://anything"));
        assert!(allows("::1", "http://[::1]:9") && allows("[::1]:9", "http://[::1]:9"));
        assert!(!allows("[::1]:9", "http://[::1]:8"));
    }

    #[test]
    fn a_pattern_may_narrow_itself() {
        assert!(
            allows("https://a:8443", "https://a:8443")
                && !allows("https://a:8443", "http://a:8443")
        );
        assert!(!allows("a:5000", "http://a:5001") && allows("http://a:5000/", "http://a:5000"));
        for bad in ["http://a/b", "a b", "a:b", "user@a", "ftp://a", "[a"] {
            assert!(Patterns::parse_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback() {
        for (text, is) in [
            ("http://127.9.0.1", true),
            ("http://[::1]", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(Origin::parse(text).unwrap().is_loopback(), is, "{text}");
        }
    }
}
