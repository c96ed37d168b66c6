//! Frames: a message as JSON text within its limit.

use super::MAX_FRAME;
use crate::refusal::{Refusal, RefusalCode};
use serde::{Deserialize, Serialize};

/// Reads one frame. The error is the refusal that its sender gets.
pub fn decode<T: MessageSet>(frame: &str) -> Result<T, Refusal> {
    if frame.len() > MAX_FRAME {
        return Err(Refusal::new(
            RefusalCode::MessageTooBig,
            format!("a message of {} bytes; the limit is {MAX_FRAME}", frame.len()),
        ));
    }
    #[derive(Deserialize)]
    struct Tag {
        #[serde(rename = "type")]
        kind: String,
    }
    let malformed = |error: serde_json::Error| Refusal::new(RefusalCode::MalformedMessage, error.to_string());
    let tag: Tag = serde_json::from_str(frame).map_err(malformed)?;
    T::read(&tag.kind, frame).map(|read| read.map_err(malformed)).unwrap_or_else(|| {
        // Only the first 40 characters of the sender's text: it may be long.
        let kind: String = tag.kind.chars().take(40).collect();
        let message = format!("the message type {kind:?} is not known; known types: {}", T::TYPES.join(", "));
        Err(Refusal::new(RefusalCode::UnknownMessage, message))
    })
}

/// Writes one frame.
pub fn encode<T: Serialize>(message: &T) -> Result<String, Refusal> {
    let frame = serde_json::to_string(message).map_err(|e| Refusal::new(RefusalCode::Internal, e.to_string()))?;
    if frame.len() > MAX_FRAME {
        return Err(Refusal::new(
            RefusalCode::MessageTooBig,
            format!("the answer would have {} bytes; the limit is {MAX_FRAME}", frame.len()),
        ));
    }
    Ok(frame)
}

/// The messages that one end may send.
pub trait MessageSet: Sized {
    /// The `type` values that it knows.
    const TYPES: &'static [&'static str];

    /// Reads a frame of this `type`; `None`: this set has no such type.
    fn read(kind: &str, frame: &str) -> Option<serde_json::Result<Self>>;
}
