//! What the operator shows of itself: metrics, and the documentation that is made from the code.

#[cfg(test)]
mod docs;
pub mod metrics;
