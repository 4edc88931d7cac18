//! What the documents tell the reader to write is valid.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{
    process::{command, run},
    site::{Site, program},
};

#[test]
fn every_configuration_in_the_documents_holds() {
    let site = Site::start();
    let _node = site.node("node-1");
    fs::copy(
        site.path("node-1/client.psk"),
        site.path("relay/node-1.psk"),
    )
    .unwrap();
    let identity = fs::read_to_string(site.path("node-1/client.toml")).unwrap();
    let mut found = 0;
    for document in ["README.md", "docs/configuration.md"] {
        for block in blocks(
            &fs::read_to_string(repository().join(document)).unwrap(),
            "toml",
        ) {
            found += 1;
            let (binary, file, text) = if block.contains("[relay]") {
                ("relay-server", "relay/documented.toml", block)
            } else if block.contains("[client]") {
                ("relay-client", "node-1/documented.toml", block)
            } else {
                // What a reader adds to what `join` wrote.
                let whole = format!("{identity}\n{block}");
                ("relay-client", "node-1/documented.toml", whole)
            };
            let path = site.path(file);
            fs::write(&path, &text).unwrap();
            let mut check = command(program(binary));
            check.arg("check").arg("--config").arg(&path);
            let checked = run(&format!("{document}: {text}"), &mut check);
            assert!(!checked.stderr.contains("warning"), "{checked}");
            checked.success();
        }
    }
    assert!(found >= 3, "the documents have no examples any more?");
}

#[test]
fn every_form_of_expose_in_the_documents_holds() {
    let site = Site::start();
    let _node = site.node("node-1");
    let text = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let specs: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(cell, _)| cell)
        .filter(|cell| {
            ["tcp:", "udp:", "both:"]
                .iter()
                .any(|p| cell.starts_with(p))
        })
        .collect();
    assert!(specs.len() >= 4, "{specs:?}");
    for spec in specs {
        let mut check = command(program("relay-client"));
        check.arg("check").arg("--config");
        check.arg(site.path("node-1/client.toml"));
        check.args(["--expose", spec]);
        run(spec, &mut check).success();
    }
}

#[test]
fn every_command_that_the_units_start_is_there() {
    for unit in ["adit-relay.service", "adit-client.service"] {
        let path = repository().join("packaging").join(unit);
        let text = fs::read_to_string(path).unwrap();
        let start = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        let words: Vec<_> = start.unwrap().split(' ').collect();
        let [path, subcommand, option, _] = words[..] else {
            panic!("{words:?}");
        };
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let mut help = command(program(name));
        let help = run(name, help.args([subcommand, "--help"])).success();
        assert!(help.contains(option), "{help}");
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The fenced blocks of a language in a Markdown text.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    text.split(&opening)
        .skip(1)
        .filter_map(|rest| rest.split_once("\n```"))
        .map(|(block, _)| block.to_owned())
        .collect()
}
