//! `--expose SPEC`: any text.

use crate::client_config::check_service;

/// A SPEC that is read is one valid service, and says the same when it is written out in full.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let instance = match relay_client::fuzz_support::expose(text) {
        Ok(instance) => instance,
        Err(error) => {
            assert!(error.len() < 1_000, "{error}");
            return;
        }
    };
    let [service] = instance.services() else {
        panic!("a SPEC is one service");
    };
    check_service(service);
    let full = format!(
        "{}:{}={},optimize={},redundancy={},proxy_protocol={},source={},name={}",
        service.protocol(),
        service.public(),
        service.target(),
        service.optimize(),
        service.redundancy(),
        service.proxy_protocol(),
        service.source(),
        instance.id()
    );
    assert_eq!(relay_client::fuzz_support::expose(&full), Ok(instance));
}
