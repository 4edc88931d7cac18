//! TLS from files.

use std::{fs, process::Command};

use crate::support::Relay;

/// What curl gets that trusts one certificate alone; `None` where it mistrusts what it meets.
fn asks(relay: &Relay, trusted: &str) -> Option<String> {
    let url = format!(
        "https://{}/health/live",
        relay.api.to_string().replace("127.0.0.1", "localhost")
    );
    let output = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "20",
            "--write-out",
            "%{http_code}",
            "--cacert",
        ])
        .arg(relay.path(trusted))
        .args(["--connect-to", &format!("::{}", relay.api), &url])
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn a_certificate_is_read_again_with_the_configuration() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("ADIT_TEST_REQUIRE_ALL").is_none(),
            "curl is missing"
        );
        eprintln!("skipped: there is no curl");
        return;
    }
    let mut relay =
        Relay::prepare("tls_certificate_file = \"tls.pem\"\ntls_key_file = \"tls.key\"");
    let refused = relay.command(&["run"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.status.code() == Some(1) && said.contains("tls.pem"),
        "{said}"
    );
    let make = |relay: &Relay, kept: &str| {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        for name in ["tls.pem", kept] {
            fs::write(relay.path(name), made.cert.pem()).unwrap();
        }
        relay.secret("tls.key", &made.signing_key.serialize_pem());
    };
    make(&relay, "first.pem");
    relay.run();
    assert_eq!(asks(&relay, "first.pem").as_deref(), Some("204"));
    make(&relay, "second.pem");
    relay.running().signal("-HUP");
    relay
        .running()
        .says("the certificate of the API was read again");
    assert_eq!(asks(&relay, "second.pem").as_deref(), Some("204"));
    assert_eq!(asks(&relay, "first.pem"), None);
    // One that is damaged changes nothing, and is named.
    fs::write(relay.path("tls.key"), "nothing").unwrap();
    relay.running().signal("-HUP");
    relay.running().says("tls.key has no private key");
    assert_eq!(asks(&relay, "second.pem").as_deref(), Some("204"));
    relay.ends();
}
