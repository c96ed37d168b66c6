//! What the operator shows of itself: metrics.

pub mod metrics;
