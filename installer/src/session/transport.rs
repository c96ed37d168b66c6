//! The transport of frames to the operator. It is a trait, so that tests need no network.

use super::ConnectError;

/// A way to reach the operator.
pub trait Transport {
    type Connection: Connection;
    fn connect(&mut self) -> impl Future<Output = Result<Self::Connection, ConnectError>>;
}

/// An open connection that carries frames.
pub trait Connection {
    fn send(&mut self, frame: String) -> impl Future<Output = Result<(), ConnectError>>;
    /// The next frame. Dropping the future loses none.
    fn receive(&mut self) -> impl Future<Output = Result<String, ConnectError>>;
}
