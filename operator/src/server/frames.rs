//! The text frames of an exchange, over a websocket.

use axum::Error;
use axum::extract::ws::Message;
use futures::{Sink, SinkExt, Stream, StreamExt};
use protocol::{Refusal, RefusalCode};
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Deadline of sending one message, for peers that do not read.
const SENDING: Duration = Duration::from_secs(10);

/// A websocket, or its replacement in a test.
pub trait Socket: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Send + Unpin {}
impl<S: Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Send + Unpin> Socket for S {}

/// Why an exchange ends early.
#[derive(Debug)]
pub(super) enum End {
    /// The operator refuses the machine.
    Refused(Refusal),
    /// The machine closed the connection.
    HungUp,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        End::Refused(refusal)
    }
}

pub(super) struct Frames<S>(S);

impl<S: Socket> Frames<S> {
    pub(super) fn new(socket: S) -> Self {
        Self(socket)
    }

    /// The next text frame.
    pub(super) async fn next(&mut self) -> Result<String, End> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Binary(_))) => {
                    let message = "a binary frame was sent; this exchange uses JSON text frames";
                    return Err(Refusal::new(RefusalCode::MalformedMessage, message).into());
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Err(End::HungUp),
                Some(Err(error)) => return Err(read_error(error)),
            }
        }
    }

    pub(super) async fn send(&mut self, frame: String) -> Result<(), End> {
        sent(timeout(SENDING, self.0.send(Message::Text(frame.into()))).await)
    }

    /// Sends the last frame together with the close frame, which saves a packet.
    pub(super) async fn send_last(&mut self, frame: String) -> Result<(), End> {
        let both = async {
            self.0.feed(Message::Text(frame.into())).await?;
            self.0.send(Message::Close(None)).await
        };
        sent(timeout(SENDING, both).await)
    }

    pub(super) async fn close(&mut self) {
        // The peer may have closed the connection already.
        let _ = timeout(SENDING, self.0.send(Message::Close(None))).await;
    }
}

fn sent(result: Result<Result<(), Error>, Elapsed>) -> Result<(), End> {
    match result {
        Ok(Ok(())) => Ok(()),
        _ => Err(End::HungUp),
    }
}

fn read_error(error: Error) -> End {
    use tokio_tungstenite::tungstenite::Error as Tungstenite;
    match error.into_inner().downcast_ref::<Tungstenite>() {
        Some(Tungstenite::Capacity(error)) => {
            Refusal::new(RefusalCode::MessageTooBig, format!("a message exceeds the limit: {error}")).into()
        }
        Some(Tungstenite::Utf8(_)) => Refusal::new(RefusalCode::MalformedMessage, "a text frame is not UTF-8").into(),
        _ => End::HungUp,
    }
}
