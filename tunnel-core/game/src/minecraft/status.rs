//! The status as JSON, and texts in it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    answer::{Answer, TEXT_MAX, plain_minecraft},
    error::ReadError,
};

/// What is read of a status. A picture and a list of names are passed over.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    version: Option<Version>,
    #[serde(default)]
    players: Option<Players>,
    #[serde(default)]
    description: Value,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    name: String,
    #[serde(default)]
    protocol: Option<i32>,
}

#[derive(Deserialize)]
struct Players {
    #[serde(default)]
    online: Option<i64>,
    #[serde(default)]
    max: Option<i64>,
}

/// Reads a status.
pub(super) fn read(json: &str) -> Result<Answer, ReadError> {
    // A list would be taken for the fields in their order.
    if !json.trim_start().starts_with('{') {
        return Err(ReadError::Json("it is no object".into()));
    }
    let status: Status = serde_json::from_str(json).map_err(|error| {
        // It may quote what it has read.
        ReadError::Json(error.to_string().chars().take(120).collect())
    })?;
    let mut name = String::new();
    append(&mut name, &status.description);
    // Some servers show less than nobody.
    let count = |count: Option<i64>| u32::try_from(count?.max(0)).ok();
    let (players, max) = status.players.map_or((None, None), |players| {
        (count(players.online), count(players.max))
    });
    let version = status.version.as_ref();
    Ok(Answer {
        name: plain_minecraft(&name),
        players,
        max,
        version: version.map_or(String::new(), |version| plain_minecraft(&version.name)),
        map: String::new(),
        protocol: version.and_then(|version| version.protocol),
    })
}

/// Writes a status. Who asks reads the protocol to see whether it fits; `protocol` is its own.
pub(super) fn write(answer: &Answer, protocol: i32) -> String {
    let mut status = json!({
        "version": { "name": answer.version, "protocol": answer.protocol.unwrap_or(protocol) },
        "description": text(&answer.name),
    });
    let mut players = serde_json::Map::new();
    for (key, count) in [("max", answer.max), ("online", answer.players)] {
        players.extend(count.map(|count| (key.into(), count.into())));
    }
    if !players.is_empty() {
        status["players"] = players.into();
    }
    status.to_string()
}

/// A text component.
pub(super) fn text(text: &str) -> Value {
    json!({ "text": text })
}

/// Appends the text of a component: a string, an object or a list of either. The JSON's depth is bounded by its reader, and
/// what is longer than is shown is passed over.
fn append(out: &mut String, component: &Value) {
    if out.len() > 4 * TEXT_MAX {
        return;
    }
    match component {
        Value::String(text) => out.push_str(text),
        Value::Array(list) => list.iter().for_each(|item| append(out, item)),
        Value::Object(object) => {
            let text = object.get("text").or_else(|| object.get("translate"));
            if let Some(Value::String(text)) = text {
                out.push_str(text);
            }
            if let Some(extra) = object.get("extra") {
                append(out, extra);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
