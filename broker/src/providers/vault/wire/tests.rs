//! Against a stand-in: what goes over the wire, and to whom.

use std::sync::atomic::{AtomicUsize, Ordering};

use mlflow_secrets_auth_core::variables::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that answers from a script, by path; returns its address and what it was sent.
async fn server(
    script: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (log, script) = (Arc::clone(&seen), Arc::new(script));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (log, script) = (Arc::clone(&log), Arc::clone(&script));
            tokio::spawn(async move {
                let mut buffer = vec![0; 8192];
                let count = stream.read(&mut buffer).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                log.lock().unwrap().push(request);
                let _ = stream.write_all(script(&path).as_bytes()).await;
            });
        }
    });
    (address, seen)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn sent_on(location: &str) -> String {
    format!(
        "HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

fn wire(address: &str, more: &[(&'static str, &str)]) -> Arc<Wire> {
    let mut settings = Settings::default();
    settings.set("VAULT_ADDR", Secret::new(address));
    settings.set("VAULT_TOKEN", Secret::new("s.unused"));
    for (name, value) in more {
        settings.set(name, Secret::new(*value));
    }
    Wire::new(&Plan::new(settings).unwrap()).unwrap()
}

async fn read(wire: &Wire) -> Result<Reply, Failure> {
    wire.send(
        &Call::mount("secret/x".into()),
        Some(&Secret::new("s.hunter2")),
    )
    .await
}

#[test]
fn base_paths_and_escapes() {
    let of = |base: &str, path: &str| url(&Url::parse(base).unwrap(), path).to_string();
    assert_eq!(
        of("http://v:1/", "\t/auth/token/renew-self"),
        "http://v:1/v1/auth/token/renew-self"
    );
    assert_eq!(of("http://v/base/", "a/b"), "http://v/base/v1/a/b");
    assert_eq!(
        of("http://v/", "a/b c/?#%2f/ü"),
        "http://v/v1/a/b%20c/%3F%23%252f/%C3%BC"
    );
}

#[test]
fn who_may_be_sent_a_token() {
    let same = |a: &str, b: &str| same_server(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
    assert!(same("https://v:8200/v1/a", "https://v:8200/v1/b"));
    assert!(same("http://v/", "https://v/"));
    assert!(!same("https://v/", "http://v/"));
    assert!(!same("https://v:8200/", "https://v:8201/"));
    assert!(!same("https://v/", "https://w/"));
    assert!(!same("https://v/", "https://v.evil.example/"));
}

#[tokio::test]
async fn headers() {
    let (address, seen) = server(|_| ok("{}")).await;
    let reply = read(&wire(&address, &[("VAULT_NAMESPACE", "team/ml")]))
        .await
        .unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{}"[..]));
    let request = seen.lock().unwrap()[0].to_ascii_lowercase();
    assert!(request.starts_with("get /v1/sys/internal/ui/mounts/secret/x "));
    for header in [
        "x-vault-token: s.hunter2",
        "x-vault-namespace: team/ml",
        "x-vault-request: true",
    ] {
        assert!(request.contains(header), "{header}");
    }
}

#[tokio::test]
async fn a_token_never_goes_to_another_host() {
    let (other, stolen) = server(|_| ok("{}")).await;
    let target = other.clone();
    let (address, seen) = server(move |path| {
        if path == "/v1/sys/leader" {
            ok(r#"{"ha_enabled":true,"leader_address":"http://127.0.0.9:8200"}"#)
        } else {
            sent_on(&format!("{target}/v1/x"))
        }
    })
    .await;
    let failure = read(&wire(&address, &[])).await.err().unwrap();
    assert_eq!(failure.class, Class::Unreachable);
    assert!(
        failure.cause.contains("no token was sent there"),
        "{failure}"
    );
    assert!(stolen.lock().unwrap().is_empty());
    let seen = seen.lock().unwrap();
    assert!(seen[1].starts_with("GET /v1/sys/leader ") && !seen[1].contains("hunter2"));
}

#[tokio::test]
async fn a_standby_s_leader_is_followed() {
    let (leader, asked) = server(|_| ok("{}")).await;
    let announced = leader.clone();
    let (address, seen) = server(move |path| {
        if path == "/v1/sys/leader" {
            ok(&format!(
                r#"{{"ha_enabled":true,"leader_address":"{announced}"}}"#
            ))
        } else {
            sent_on(&format!("{announced}{path}"))
        }
    })
    .await;
    let wire = wire(&address, &[]);
    for _ in 0..2 {
        assert_eq!(read(&wire).await.unwrap().status, 200);
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].contains("s.hunter2"));
    assert_eq!(
        seen.lock().unwrap().len(),
        3,
        "the leader is asked for once"
    );
}

#[tokio::test]
async fn circles_end() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let (address, _) = server(move |path| {
        counted.fetch_add(1, Ordering::Relaxed);
        sent_on(path)
    })
    .await;
    let failure = read(&wire(&address, &[])).await.err().unwrap();
    assert!(failure.cause.contains("circles"), "{failure}");
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn login_pages_half_answers_and_retry_after() {
    let page = "HTTP/1.1 302 Found\r\nLocation: https://sso.example.com/login?x=hunter2\r\nContent-Length: 0\r\n\r\n";
    let (address, _) = server(move |_| page.to_owned()).await;
    let failure = read(&wire(&address, &[])).await.err().unwrap();
    assert!(
        failure.cause.contains("does not look like Vault"),
        "{failure}"
    );
    assert!(
        failure.cause.contains("https://sso.example.com") && !failure.cause.contains("hunter2")
    );

    let (address, _) =
        server(|_| "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"da".to_owned()).await;
    let failure = read(&wire(&address, &[])).await.err().unwrap();
    assert!(failure.cause.contains("half-way"), "{failure}");

    let slowly =
        "HTTP/1.1 429 X\r\nRetry-After: 3\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (address, _) = server(move |_| slowly.to_owned()).await;
    let reply = read(&wire(&address, &[])).await.unwrap();
    assert_eq!(
        (reply.status, reply.retry_after),
        (429, Some(Duration::from_secs(3)))
    );

    let (address, _) = server(|_| "SSH-2.0-OpenSSH_9.2\r\n".to_owned()).await;
    let failure = read(&wire(&address, &[])).await.err().unwrap();
    assert_eq!(failure.class, Class::Unreachable, "{failure}");
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = read(&wire(&address, &[])).await.err().unwrap();
    assert_eq!(failure.class, Class::Unreachable);
    assert!(failure.cause.contains("onnection refused"), "{failure}");
}
