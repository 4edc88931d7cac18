//! A disk that is full.

use std::{fs, path::PathBuf, process::Command};

use adit_control::{
    model::{ClientView, Invited, Page},
    problem::Kind,
};
use serde_json::json;

use crate::{
    program::Running,
    support::{Relay, refused},
};

#[tokio::test]
async fn a_full_disk_changes_nothing_is_named_and_is_got_over() {
    let can_mount = Command::new("unshare").args(["--mount", "true"]).status();
    if !can_mount.is_ok_and(|status| status.success()) {
        assert!(
            std::env::var_os("ADIT_TEST_REQUIRE_ALL").is_none(),
            "no mount namespace is to be had"
        );
        eprintln!("skipped: a small disk takes a mount namespace, and that takes root");
        return;
    }
    let mut relay = Relay::prepare("");
    let config = fs::read_to_string(relay.path("relay.toml")).unwrap();
    let config = config.replace(
        "state_file = \"state.db\"",
        "state_file = \"small/state.db\"",
    );
    assert!(config.contains("small/state.db"), "{config}");
    fs::write(relay.path("relay.toml"), config).unwrap();
    fs::create_dir(relay.path("small")).unwrap();
    // The disk is the relay's alone, and goes with it.
    let script =
        "mount -t tmpfs -o size=512k tmpfs \"$1\" && echo $$ > \"$2\" && shift 2 && exec \"$@\"";
    let run = relay.command(&["run"]);
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .args([relay.path("small"), relay.path("pid")])
        .arg(run.get_program())
        .args(run.get_args())
        .env_remove("RUST_LOG");
    relay.adopt(Running::start(&mut command).ready());
    let pid = fs::read_to_string(relay.path("pid")).unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", pid.trim()));
    let filler = root.join(relay.path("small/filler").strip_prefix("/").unwrap());
    let admin = relay.admin();
    admin
        .post::<Invited>("/api/invites", &json!({"name": "node-1"}))
        .await
        .unwrap();
    // As much as there is room for: writing fails at the end.
    assert!(fs::write(&filler, vec![1; 1 << 20]).is_err());
    let names = async || {
        let page: Page<ClientView> = admin.get("/api/clients?limit=1000").await.unwrap().value;
        page.items.len()
    };
    let mut there = names().await;
    // The file's last page may have room for some more.
    let problem = loop {
        let body = json!({"name": format!("more-{there}")});
        match admin.post::<Invited>("/api/invites", &body).await {
            Ok(_) => there += 1,
            refused_now => break refused(refused_now),
        }
    };
    assert!(problem.is(Kind::InsufficientStorage), "{problem}");
    assert!(problem.detail.contains("Nothing was changed"), "{problem}");
    assert_eq!(names().await, there);
    fs::remove_file(&filler).unwrap();
    admin
        .post::<Invited>("/api/invites", &json!({"name": "after"}))
        .await
        .unwrap();
    assert_eq!(names().await, there + 1);
    let ran = relay.ends();
    assert!(
        ran.stderr.contains("written down in this log alone"),
        "{ran:?}"
    );
}
