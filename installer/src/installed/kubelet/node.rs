//! A Node as the API server gives it.

use serde::Deserialize;

/// Largest Node that is read, in bytes. A Node with many images has a few dozen KiB.
const LARGEST: usize = 1 << 20;
/// Bytes of a message that are shown.
const SHOWN: usize = 200;

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    #[serde(default)]
    message: String,
}

/// The body of an answer, at most [`LARGEST`] bytes of it.
pub async fn read_bounded(mut answer: reqwest::Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(LARGEST - body.len())]);
    }
    Ok(body)
}

/// Whether the Node in this JSON document is Ready. The error says why not.
pub fn ready(json: &[u8]) -> Result<(), String> {
    let node: Node = serde_json::from_slice(json).map_err(|_| "the answer is no Node".to_owned())?;
    match node.status.conditions.iter().find(|condition| condition.type_ == "Ready") {
        None => Err("it has no condition Ready".to_owned()),
        Some(ready) if ready.status == "True" => Ok(()),
        Some(ready) => Err(protocol::bounded::cut(&ready.message, SHOWN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_condition_ready_decides() {
        let conditions = |text: &str| ready(format!(r#"{{"status": {{"conditions": {text}}}}}"#).as_bytes());
        assert_eq!(
            conditions(r#"[{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "True"}]"#),
            Ok(())
        );
        let waits = r#"[{"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}]"#;
        assert_eq!(conditions(waits), Err("Kubelet stopped posting node status.".into()));
        assert!(conditions("[]").unwrap_err().contains("Ready"));
        assert!(ready(b"[").unwrap_err().contains("no Node"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_node_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ready(&bytes);
        }
    }
}
