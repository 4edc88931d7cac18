//! What is written about the API holds.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use crate::support::Relay;

#[tokio::test]
async fn the_page_has_every_endpoint_and_no_other() {
    let relay = Relay::start("");
    let document: Value = relay.admin().get("/api/openapi.json").await.unwrap().value;
    let mut served = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            served.insert(format!("{} {path}", method.to_uppercase()));
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "two operations are called {id}");
            assert!(
                operation["summary"].is_string(),
                "{method} {path} has no summary"
            );
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let page = fs::read_to_string(page).unwrap();
    let headings = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let written: BTreeSet<_> = headings.map(str::to_owned).collect();
    assert_eq!(written, served);
    relay.ends();
}
