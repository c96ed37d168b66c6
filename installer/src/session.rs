//! The session with the operator: the machine's identity, the exchange, the transport below it, and retries after
//! failures.

mod error;
mod exchange;
pub mod identity;
pub mod relay;
mod retry;
mod transport;
mod tunnel;
pub mod websocket;

pub use error::{ConnectError, ExchangeError};
pub use exchange::Exchange;
pub use retry::{Backoff, with_retries};
pub use transport::{Connection, Transport};

#[cfg(test)]
mod tests;
