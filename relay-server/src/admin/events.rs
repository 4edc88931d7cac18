//! The engine's events as the API tells them.

use adit_control::events::Ring;
use serde_json::{Value, json};
use tunnel_core::event::{Crowded, Event, Events};

/// Tells what the engine tells, until it has ended.
pub(super) async fn tell(mut events: Events, ring: &Ring) {
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let (kind, data) = told(&event);
                ring.publish(kind, &data);
            }
            Err(lagged) => ring.publish("events_lost", &json!({"lost": lagged.0})),
        }
    }
}

/// The kind of an event, and what more there is to know. `text` is the line of the log.
fn told(event: &Event) -> (&'static str, Value) {
    let (kind, mut data) = match event {
        Event::TunnelUp {
            client,
            peer,
            transport,
        } => {
            let address = peer.map(|peer| peer.to_string());
            let data = json!({"client": &**client, "address": address, "transport": transport.to_string()});
            ("client_connected", data)
        }
        Event::TunnelDown { client, reason } => (
            "client_disconnected",
            json!({"client": &**client, "reason": reason}),
        ),
        Event::Fallback { client, active } => (
            "client_fallback",
            json!({"client": &**client, "active": active}),
        ),
        Event::Suspect { client, suspect } => (
            "client_suspect",
            json!({"client": &**client, "suspect": suspect}),
        ),
        Event::PeerDraining { client, grace } => (
            "client_draining",
            json!({"client": &**client, "grace_seconds": grace.as_secs_f64()}),
        ),
        Event::Enrolled { client } => ("client_enrolled", json!({"client": &**client})),
        Event::Bound { instance } => ("instance_bound", json!({"instance": instance.as_str()})),
        Event::Unbound { instance } => ("instance_unbound", json!({"instance": instance.as_str()})),
        Event::Refused {
            instance,
            code,
            text,
            ..
        } => {
            let data =
                json!({"instance": instance.as_str(), "code": code.to_string(), "reason": text});
            ("instance_refused", data)
        }
        Event::HealthChanged {
            instance,
            service,
            state,
            refuses,
            reason,
        } => {
            let data = json!({
                "instance": instance.as_str(),
                "service": service.to_string(),
                "state": state.to_string(),
                "refuses": refuses,
                "reason": reason,
            });
            ("health_changed", data)
        }
        Event::Draining { grace } => (
            "relay_draining",
            json!({"grace_seconds": grace.as_secs_f64()}),
        ),
        Event::Crowded(crowded) => ("limit_hit", limit(crowded)),
        Event::Panicked { task } => ("panicked", json!({"task": task})),
        Event::Warning(_) => ("warning", json!({})),
        // What the engine learns to tell is told in words at least.
        _ => ("other", json!({})),
    };
    data["text"] = event.to_string().into();
    (kind, data)
}

fn limit(crowded: &Crowded) -> Value {
    json!({
        "instance": crowded.instance.as_str(),
        "service": crowded.service.as_ref().map(ToString::to_string),
        "port": crowded.port,
        "most": crowded.most,
        "address": crowded.address.map(|address| address.to_string()),
        "refuses": crowded.refuses,
    })
}

#[cfg(test)]
mod tests {
    use tunnel_core::{Transport, health::HealthState};

    use super::*;

    #[test]
    fn an_event_has_its_kind_its_parts_and_the_line_of_the_log() {
        let event = Event::TunnelUp {
            client: "node-1".into(),
            peer: Some("192.0.2.1:4433".parse().unwrap()),
            transport: Transport::Quic,
        };
        let (kind, data) = told(&event);
        let expected = json!({
            "client": "node-1",
            "address": "192.0.2.1:4433",
            "transport": "quic",
            "text": event.to_string(),
        });
        assert_eq!((kind, data), ("client_connected", expected));
        let (kind, data) = told(&Event::Warning("low".into()));
        assert_eq!((kind, data), ("warning", json!({"text": "low"})));
        let event = Event::HealthChanged {
            instance: "srv".parse().unwrap(),
            service: "game".parse().unwrap(),
            state: HealthState::Unhealthy,
            refuses: true,
            reason: "no answer".into(),
        };
        let (kind, data) = told(&event);
        let expected = json!({
            "instance": "srv",
            "service": "game",
            "state": "unhealthy",
            "refuses": true,
            "reason": "no answer",
            "text": event.to_string(),
        });
        assert_eq!((kind, data), ("health_changed", expected));
    }

    #[test]
    fn every_kind_of_event_and_every_part_stands_on_the_page() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (code, _) = include_str!("events.rs")
            .split_once("#[cfg(test)]")
            .unwrap();
        let quoted: Vec<_> = code.split('"').skip(1).step_by(2).collect();
        assert!(quoted.contains(&"client_connected"), "{quoted:?}");
        for word in quoted {
            assert!(
                page.contains(&format!("`{word}`")),
                "{word} is not on the page"
            );
        }
    }
}
