//! Checks whether a roll-out is possible, and chooses its engine.

use super::discovery::Discovered;
use crate::rollout::desired::Desired;
use api::{ManagedOSImage, Problem};

pub(super) fn validate(object: &ManagedOSImage, discovered: &Discovered) -> Result<Desired, Problem> {
    Desired::of(object, discovered.served, &discovered.registry)
}
