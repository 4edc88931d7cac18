//! `relay.toml`: any text.

use std::collections::HashSet;

use adit_daemon::config::Loaded;

use crate::client_config::{KEY, check_invalid, check_remarks};

/// A configuration is read as a whole, or refused with remarks that have a place and an end.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let relay = match relay_server::fuzz_support::parse(text, KEY) {
        Ok(Loaded { value, warnings }) => {
            check_remarks(text, &warnings);
            value
        }
        Err(invalid) => return check_invalid(text, &invalid),
    };
    assert_ne!(relay.listen.port(), 0);
    assert!(!relay.ports.is_empty());
    assert_eq!(relay.ports.to_string().parse(), Ok(relay.ports.clone()));
    let mut names = HashSet::new();
    let mut keys = HashSet::from([relay.public_key]);
    for (name, key, ports) in &relay.clients {
        assert!(names.insert(name) && keys.insert(*key), "{name}");
        for range in ports.iter().flat_map(|ports| ports.ranges()) {
            assert!(relay.ports.covers(*range), "{range} is not the relay's");
        }
    }
}
