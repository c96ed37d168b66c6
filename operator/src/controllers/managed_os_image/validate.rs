//! Checks whether a roll-out is possible, and chooses who carries it out.

use super::discovery::Discovered;
use crate::rollout::desired::Rollout;
use api::{ManagedOSImage, Problem};

pub(super) fn validate(object: &ManagedOSImage, discovered: &Discovered) -> Result<Rollout, Problem> {
    Rollout::of(object, discovered.served, &discovered.registry)
}
