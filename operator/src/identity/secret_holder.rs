//! Which machines may use a shared secret in place of a TPM: those with an inventory that was created by hand and has
//! no TPM hash. A secret can be copied, so it never replaces a TPM.

use crate::identity::shared_secret::SharedSecrets;
use crate::inventory::index::{InventoryIndex, KnownMachine};
use crate::inventory::lookup::starting;
use crate::registration::Registration;
use api::EkCertificatePolicy;
use protocol::{Refusal, RefusalCode, SharedSecret};
use std::sync::Arc;

/// The machine whose shared secret has this digest, and the secret. The machine must still prove that it has it.
pub async fn claimed(
    inventories: &InventoryIndex,
    secrets: &SharedSecrets,
    digest: &[u8],
) -> Result<(Arc<KnownMachine>, SharedSecret), Refusal> {
    if !inventories.is_complete() {
        return Err(starting());
    }
    secrets.find_claimed(inventories, digest).await
}

/// Checks that a machine that has proved its shared secret may use this registration.
pub fn accept(registration: &Registration, machine: &KnownMachine) -> Result<(), Refusal> {
    let refused = |message: String| Err(Refusal::new(RefusalCode::SharedSecretNotAccepted, message));
    let policy = registration.spec.attestation.as_ref().and_then(|policy| policy.ek_certificate);
    if policy == Some(EkCertificatePolicy::Required) {
        let message = "the registration requires an endorsement key certificate (spec.attestation.ekCertificate), and \
                       a shared secret does not replace it; register the machine with another registration";
        return refused(message.to_owned());
    }
    if machine.hash.is_some() || machine.malformed_identity {
        return refused(format!(
            "MachineInventory {}/{} has a TPM hash, so the machine must identify itself by that TPM; for a shared \
             secret, use an inventory without tpmHash",
            machine.namespace, machine.name
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use serde_json::{Value, json};

    fn registration(spec: Value) -> Registration {
        Registration::for_tests("n", "door", serde_json::from_value(spec).unwrap())
    }
    fn machine(spec: Value) -> KnownMachine {
        KnownMachine::of(fixtures::inventory("a", spec))
    }
    fn code(registration: &Registration, machine: &KnownMachine) -> Option<RefusalCode> {
        accept(registration, machine).err().map(|refusal| refusal.code)
    }

    #[test]
    fn a_shared_secret_never_replaces_a_required_tpm() {
        let by_secret = machine(json!({"machineTokenSecretName": "s"}));
        let certificates = |policy: &str| registration(json!({"attestation": {"ekCertificate": policy}}));
        assert_eq!(code(&registration(json!({})), &by_secret), None);
        assert_eq!(code(&certificates("IfPresent"), &by_secret), None);
        let refused = Some(RefusalCode::SharedSecretNotAccepted);
        assert_eq!(code(&certificates("Required"), &by_secret), refused);
        for identity in ["d68795c6192af9922692f050b1a4fe2bda5c93a1d8c0d8f1c8a0a7a8f6b1e3c4", "no hash"] {
            let by_both = machine(json!({"machineTokenSecretName": "s", "tpm": identity}));
            assert_eq!(code(&registration(json!({})), &by_both), refused);
        }
    }
}
