//! Types, reasons and messages of conditions. `docs/conditions.md` is made from this file.

/// Constants, and the list of them.
macro_rules! words {
    ($($(#[$meaning:meta])* pub const $name:ident: &str = $word:literal;)*) => {
        $($(#[$meaning])* pub const $name: &str = $word;)*

        pub const ALL: &[&str] = &[$($word),*];
    };
}

/// Condition types, shared by all kinds; docs/conditions.md is made from here. `Ready` and `Stalled` are kstatus's:
/// `kubectl wait --for=condition=Ready` works everywhere, and `Stalled` says that nothing will change until somebody acts.
pub mod condition_type {
    words! {
        /// What the object is for can be had: machines can register; the machine runs and is healthy.
        pub const READY: &str = "Ready";
        /// Nothing will change until somebody acts; the message says who and how. Absent otherwise.
        pub const STALLED: &str = "Stalled";
        /// The machine proved its identity and was given its configuration.
        pub const REGISTERED: &str = "Registered";
        /// The machine may have its configuration.
        pub const APPROVED: &str = "Approved";
        /// The disk holds the release and was read back.
        pub const INSTALLED: &str = "Installed";
        /// The installed system started from its disk and said so.
        pub const BOOTED: &str = "Booted";
        /// Nine tenths of the machines that a registration admits have come. Absent otherwise.
        pub const NEARLY_FULL: &str = "NearlyFull";
        /// Installed machines cannot be told of a new address, authority or token. Absent otherwise.
        pub const SETTINGS_NOT_SENT: &str = "SettingsNotSent";
        /// The token with which the machine joins its cluster is there. Only on machines with a `clusterName`.
        pub const ASSIGNED: &str = "Assigned";
        /// The machine can be told by its shared secret. Only on machines with a `machineTokenSecretName`.
        pub const SHARED_SECRET: &str = "SharedSecret";
        /// The machine is asked to install itself again, and has not done so. Only on machines with a `reinstall`.
        pub const REINSTALL: &str = "Reinstall";
        /// Machines apply all of `cloudConfig`; the message names what they do not. Only on registrations that have one.
        pub const CLOUD_CONFIG_APPLICABLE: &str = "CloudConfigApplicable";
    }
}

/// Reasons of conditions: CamelCase, stable, counted on by scripts. docs/conditions.md is made from here: above each
/// group a comment with the kind, above each reason one line.
pub mod reason {
    words! {
        // MachineRegistration
        /// Machines can register.
        pub const AVAILABLE: &str = "Available";
        /// `machineName`, a label, an annotation or a text of `cloudConfig` is no template that can be filled in.
        pub const INVALID_TEMPLATE: &str = "InvalidTemplate";
        /// Machines apply all of `cloudConfig`.
        pub const ALL_KEYS_APPLIED: &str = "AllKeysApplied";
        /// Machines do not apply all of `cloudConfig`: docs/cloud-config.md.
        pub const KEYS_NOT_APPLIED: &str = "KeysNotApplied";
        /// `cloudConfig` does not fit into an answer.
        pub const CLOUD_CONFIG_TOO_LARGE: &str = "CloudConfigTooLarge";
        /// `expiresAt` has passed.
        pub const EXPIRED: &str = "Expired";
        /// `maxMachines` have come.
        pub const FULL: &str = "Full";
        /// Nine tenths of `maxMachines`, or of the operator's default, have come.
        pub const NEARLY_FULL: &str = "NearlyFull";
        /// There is no authority to trust: the Secret with them does not exist, or a certificate is required and none is given.
        pub const TRUST_MISSING: &str = "TrustedCAsMissing";
        /// The Secret with trusted authorities holds something else.
        pub const TRUST_MALFORMED: &str = "TrustedCAsMalformed";
        /// There are more authorities than a machine keeps; the message names some to remove.
        pub const TOO_MANY_AUTHORITIES: &str = "TooManyAuthorities";
        /// A machine could not keep the operator's URL, or one of its authorities.
        pub const SETTINGS_UNFIT: &str = "SettingsUnfit";
        // MachineInventory
        /// Made by hand; the machine has not come.
        pub const EXPECTED: &str = "Expected";
        /// `tpmHash` is no TPM hash.
        pub const MALFORMED_IDENTITY: &str = "MalformedIdentity";
        /// Another inventory counts for the machine, or none of several that were made by hand does.
        pub const DUPLICATE_IDENTITY: &str = "DuplicateIdentity";
        /// Somebody must set `spec.approved`.
        pub const APPROVAL_PENDING: &str = "ApprovalPending";
        /// The machine may have its configuration.
        pub const APPROVED: &str = "Approved";
        /// The machine proved that it has its TPM.
        pub const ATTESTED: &str = "Attested";
        /// Registered, and not installed yet.
        pub const NOT_INSTALLED: &str = "NotInstalled";
        /// The installation runs; the message says how far it is.
        pub const INSTALLING: &str = "Installing";
        /// The disk holds the release and was read back.
        pub const INSTALLED: &str = "Installed";
        /// Installed, and not started from its disk yet.
        pub const NOT_BOOTED: &str = "NotBooted";
        /// Started from its disk.
        pub const BOOTED: &str = "Booted";
        /// The installed system says that it is well.
        pub const HEALTHY: &str = "Healthy";
        /// The installed system has not said that it is well.
        pub const NOT_HEALTHY: &str = "NotHealthy";
        /// The installation failed; `status.failure` says why.
        pub const INSTALLATION_FAILED: &str = "InstallationFailed";
        /// The machine proved who it is, and fetched its configuration.
        pub const IDENTIFIED: &str = "Identified";
        /// The cluster's token for this machine is there.
        pub const TOKEN_ISSUED: &str = "TokenIssued";
        /// No clusters of Rancher are served by this API server.
        pub const RANCHER_NOT_INSTALLED: &str = "RancherNotInstalled";
        /// The operator may not read clusters or make tokens; the chart's rights are too few.
        pub const NOT_PERMITTED: &str = "NotPermitted";
        /// `clusterName` names no Cluster in this namespace.
        pub const CLUSTER_NOT_FOUND: &str = "ClusterNotFound";
        /// Rancher does not manage the Cluster yet.
        pub const CLUSTER_NOT_READY: &str = "ClusterNotReady";
        /// Rancher has not issued the token yet.
        pub const TOKEN_NOT_ISSUED: &str = "TokenNotIssued";
        /// A token of this name is not the machine's; delete it.
        pub const TOKEN_NAME_TAKEN: &str = "TokenNameTaken";
        /// The Secret holds this machine's shared secret.
        pub const SECRET_READABLE: &str = "SecretReadable";
        /// `machineTokenSecretName` names no Secret in this namespace.
        pub const SECRET_MISSING: &str = "SecretMissing";
        /// The Secret is not of type `rancheros.cattle.io/token`, or holds no `token`.
        pub const SECRET_MALFORMED: &str = "SecretMalformed";
        /// Another machine has the same shared secret; neither is believed.
        pub const SECRET_NOT_UNIQUE: &str = "SecretNotUnique";
        /// The text in `reinstall` was announced; with its next report the machine is told to erase its data and install again.
        pub const REINSTALL_REQUESTED: &str = "Requested";
        /// The machine was told to install itself again, and has not said that it is done.
        pub const REINSTALL_SENT: &str = "Sent";
        /// The machine has installed itself again.
        pub const REINSTALL_DONE: &str = "Done";
        /// The machine cannot install itself again; the message says why.
        pub const REINSTALL_FAILED: &str = "Failed";
        /// The text in `reinstall` counts as honoured: nothing is asked of the machine until somebody writes another one.
        pub const ALREADY_HONOURED: &str = "AlreadyHonoured";
        /// The machine's release does not know `reinstall`.
        pub const NOT_SUPPORTED: &str = "NotSupported";
        // ManagedOSImage
        /// `osImage` is empty: there is nothing to upgrade to.
        pub const NO_IMAGE: &str = "NoImage";
        /// The spec cannot be carried out; the message names the field.
        pub const INVALID_SPEC: &str = "InvalidSpec";
        /// `cloudConfig` holds a secret, which others could read in a Bundle.
        pub const SECRET_IN_CLOUD_CONFIG: &str = "SecretInCloudConfig";
        /// Neither Fleet's Bundles nor Plans are served, or not the ones that `engine` asks for.
        pub const NO_ENGINE: &str = "NoEngine";
        /// The API server refuses what is to be applied.
        pub const NOT_ACCEPTED: &str = "NotAccepted";
        /// Fleet has not applied the Bundle everywhere yet.
        pub const NOT_APPLIED: &str = "NotApplied";
        /// `targets` select no cluster.
        pub const NO_TARGET_MATCHED: &str = "NoTargetMatched";
        /// `nodeSelector` selects no node.
        pub const NO_NODE_MATCHED: &str = "NoNodeMatched";
        /// Which release the image holds is not known: set `spec.release`.
        pub const RELEASE_UNKNOWN: &str = "ReleaseUnknown";
        /// `concurrency` is 0, or the roll-out is paused.
        pub const PAUSED: &str = "Paused";
        /// Nodes are being upgraded.
        pub const PROGRESSING: &str = "Progressing";
        /// Applied; no node has begun yet.
        pub const APPLIED_NOT_UPGRADED: &str = "AppliedNotUpgraded";
        /// Nothing has moved for longer than an upgrade takes.
        pub const STUCK: &str = "Stuck";
        /// A node could not be upgraded; `status.nodes` says which.
        pub const FAILED: &str = "Failed";
        /// Every node concerned runs the release and is healthy.
        pub const UPGRADED: &str = "Upgraded";
    }
}

/// Messages of conditions that most machines have.
pub mod message {
    words! {
        pub const HOLDS_ITS_KEYS: &str = "its TPM holds the keys it showed";
        pub const HAS_ITS_SECRET: &str = "it has the shared secret of its inventory";
        pub const INSTALLATION_FOLLOWS: &str = "registered; the installation follows";
        pub const READ_BACK: &str = "written and read back";
        pub const FIRST_BOOT_FOLLOWS: &str = "installed; the first boot from its disk follows";
        pub const APPROVE: &str = "set spec.approved to true to let it have its configuration";
        pub const NOT_COME_YET: &str = "the machine has not registered yet";
    }
}
