//! Types, reasons and messages of conditions. `docs/conditions.md` is generated from this file.

/// Constants, and the list of them.
macro_rules! words {
    ($($(#[$meaning:meta])* pub const $name:ident: &str = $word:literal;)*) => {
        $($(#[$meaning])* pub const $name: &str = $word;)*

        pub const ALL: &[&str] = &[$($word),*];
    };
}

/// Condition types, shared by all kinds. `Ready` and `Stalled` have the meaning that kstatus gives them, so
/// `kubectl wait --for=condition=Ready` works on every kind.
pub mod condition_type {
    words! {
        /// The object works: machines can register, the machine runs and is healthy, or all selected nodes run the
        /// release.
        pub const READY: &str = "Ready";
        /// Nothing happens until a person acts; of several engines that carry out a roll-out, one has stopped. The message
        /// says who and how. Absent otherwise.
        pub const STALLED: &str = "Stalled";
        /// The machine proved its identity and received its configuration.
        pub const REGISTERED: &str = "Registered";
        /// The machine may receive its configuration.
        pub const APPROVED: &str = "Approved";
        /// The release was written to the disk and read back without a difference.
        pub const INSTALLED: &str = "Installed";
        /// The installed system started from its disk and reported to the operator.
        pub const BOOTED: &str = "Booted";
        /// Nine tenths of the machines that the registration admits have registered. Absent otherwise.
        pub const NEARLY_FULL: &str = "NearlyFull";
        /// The operator cannot send a new address, authority or token to installed machines. Absent otherwise.
        pub const SETTINGS_NOT_SENT: &str = "SettingsNotSent";
        /// The token with which the machine joins its cluster exists. Only on machines with a `clusterName`.
        pub const ASSIGNED: &str = "Assigned";
        /// The machine can be identified by its shared secret. Only on machines with a `machineTokenSecretName`.
        pub const SHARED_SECRET: &str = "SharedSecret";
        /// The machine was asked to install itself again and has not done so yet. Only on machines with a `reinstall`.
        pub const REINSTALL: &str = "Reinstall";
        /// The machine was asked to reset itself and has not done so yet. Only on machines with a `reset`.
        pub const RESET: &str = "Reset";
        /// `spec.config` has changed since the machine was installed, in keys that only an installation applies. The message
        /// names them. Absent otherwise.
        pub const CONFIG_NOT_APPLIED: &str = "ConfigNotApplied";
        /// Machines apply every key of `cloudConfig`. The message names the keys that they do not apply. Only on
        /// registrations with a `cloudConfig`.
        pub const CLOUD_CONFIG_APPLICABLE: &str = "CloudConfigApplicable";
        /// The engine does not use some fields of the spec; the message names them. Absent otherwise.
        pub const FIELDS_NOT_USED: &str = "FieldsNotUsed";
        /// No engine reaches some of the selected machines; the message names them. They are not restarted undrained.
        /// Absent otherwise.
        pub const NO_ENGINE: &str = "NoEngine";
        /// An older ManagedOSImage counts for some of the selected machines; the message names both. Absent otherwise.
        pub const OLDER_COUNTS: &str = "OlderCounts";
        /// Control planes are not upgraded before other nodes, or not one at a time; the message says what does. Absent
        /// otherwise.
        pub const CONTROL_PLANE_UNORDERED: &str = "ControlPlaneUnordered";
        /// The engine is about to change, or its kinds are not served at the moment; the message says what is waited
        /// for. Absent otherwise.
        pub const ENGINE_CHANGE: &str = "EngineChange";
    }
}

/// Reasons of conditions. They are stable, because scripts rely on them. docs/conditions.md is generated from the
/// comments here: a comment with the kind above each group, a doc comment with the meaning above each reason.
pub mod reason {
    words! {
        // MachineRegistration
        /// Machines can register.
        pub const AVAILABLE: &str = "Available";
        /// `machineName`, a label, an annotation or a string in `cloudConfig` is not a valid template.
        pub const INVALID_TEMPLATE: &str = "InvalidTemplate";
        /// Machines apply every key of `cloudConfig`.
        pub const ALL_KEYS_APPLIED: &str = "AllKeysApplied";
        /// Machines do not apply some keys of `cloudConfig`. See docs/cloud-config.md.
        pub const KEYS_NOT_APPLIED: &str = "KeysNotApplied";
        /// `cloudConfig` is too large for the message that carries it to a machine.
        pub const CLOUD_CONFIG_TOO_LARGE: &str = "CloudConfigTooLarge";
        /// The time in `expiresAt` has passed.
        pub const EXPIRED: &str = "Expired";
        /// As many machines as `maxMachines` allows have registered.
        pub const FULL: &str = "Full";
        /// Nine tenths of the machines that `maxMachines`, or the operator's default, allows have registered.
        pub const NEARLY_FULL: &str = "NearlyFull";
        /// There is no trusted authority: the Secret of `trustedCAs` does not exist, or a certificate is required and
        /// neither the registration nor the operator names an authority.
        pub const TRUST_MISSING: &str = "TrustedCAsMissing";
        /// The Secret of `trustedCAs` holds something that is not a PEM certificate.
        pub const TRUST_MALFORMED: &str = "TrustedCAsMalformed";
        /// There are more authorities than a machine can store. The message names authorities to remove.
        pub const TOO_MANY_AUTHORITIES: &str = "TooManyAuthorities";
        /// A machine could not store the operator's URL or one of its authorities.
        pub const SETTINGS_UNFIT: &str = "SettingsUnfit";
        // MachineInventory
        /// The inventory was created by hand, and the machine has not registered yet.
        pub const EXPECTED: &str = "Expected";
        /// `tpmHash` is not a valid TPM hash.
        pub const MALFORMED_IDENTITY: &str = "MalformedIdentity";
        /// Several inventories have this TPM hash, and the operator uses another one, or none because all were created
        /// by hand.
        pub const DUPLICATE_IDENTITY: &str = "DuplicateIdentity";
        /// The machine waits until a person sets `spec.approved` to true.
        pub const APPROVAL_PENDING: &str = "ApprovalPending";
        /// The machine may receive its configuration.
        pub const APPROVED: &str = "Approved";
        /// The machine proved that it has its TPM.
        pub const ATTESTED: &str = "Attested";
        /// The machine has registered and is not installed yet.
        pub const NOT_INSTALLED: &str = "NotInstalled";
        /// The installation runs. The message shows its progress.
        pub const INSTALLING: &str = "Installing";
        /// The release was written to the disk and read back without a difference.
        pub const INSTALLED: &str = "Installed";
        /// The machine is installed and has not started from its disk yet.
        pub const NOT_BOOTED: &str = "NotBooted";
        /// The machine has started from its disk.
        pub const BOOTED: &str = "Booted";
        /// The installed system reports that it is healthy.
        pub const HEALTHY: &str = "Healthy";
        /// The installed system has not reported that it is healthy.
        pub const NOT_HEALTHY: &str = "NotHealthy";
        /// The installation failed. `status.failure` says why.
        pub const INSTALLATION_FAILED: &str = "InstallationFailed";
        /// The machine proved its identity and fetched its configuration.
        pub const IDENTIFIED: &str = "Identified";
        /// The cluster's token for this machine exists.
        pub const TOKEN_ISSUED: &str = "TokenIssued";
        /// This API server does not serve Rancher's Clusters.
        pub const RANCHER_NOT_INSTALLED: &str = "RancherNotInstalled";
        /// The operator may not read Clusters, create tokens or upgrade nodes. The chart gives it the right to do so.
        pub const NOT_PERMITTED: &str = "NotPermitted";
        /// What the machine was given for its installation is not what `spec.config` says now.
        pub const CHANGED_SINCE_INSTALLATION: &str = "ChangedSinceInstallation";
        /// There is no Cluster with the name in `clusterName` in this namespace.
        pub const CLUSTER_NOT_FOUND: &str = "ClusterNotFound";
        /// Rancher does not manage the Cluster yet.
        pub const CLUSTER_NOT_READY: &str = "ClusterNotReady";
        /// Rancher has not issued the token yet.
        pub const TOKEN_NOT_ISSUED: &str = "TokenNotIssued";
        /// A token with the name for this machine belongs to something else. Delete it.
        pub const TOKEN_NAME_TAKEN: &str = "TokenNameTaken";
        /// The Secret of `machineTokenSecretName` holds a shared secret for this machine.
        pub const SECRET_READABLE: &str = "SecretReadable";
        /// There is no Secret with the name in `machineTokenSecretName` in this namespace.
        pub const SECRET_MISSING: &str = "SecretMissing";
        /// The Secret is not of type `rancheros.cattle.io/token`, or has no key `token`.
        pub const SECRET_MALFORMED: &str = "SecretMalformed";
        /// Another machine has the same shared secret. The operator accepts it from neither.
        pub const SECRET_NOT_UNIQUE: &str = "SecretNotUnique";
        /// The request in `reinstall` or `reset` was announced. In answer to its next report, the machine is told to erase
        /// its data, and to install itself again where that was asked for.
        pub const REQUESTED: &str = "Requested";
        /// The machine was told to carry out the request and has not reported that it has done so.
        pub const REQUEST_SENT: &str = "Sent";
        /// The machine has carried out the request.
        pub const REQUEST_DONE: &str = "Done";
        /// The machine cannot carry out the request. The message says why.
        pub const REQUEST_FAILED: &str = "Failed";
        /// The text of the request counts as honoured. Write another text to ask the machine again.
        pub const ALREADY_HONOURED: &str = "AlreadyHonoured";
        /// The machine's release does not support `reinstall` or `reset`.
        pub const NOT_SUPPORTED: &str = "NotSupported";
        // ManagedOSImage
        /// `osImage` is empty.
        pub const NO_IMAGE: &str = "NoImage";
        /// The spec is not valid. The message names the field.
        pub const INVALID_SPEC: &str = "InvalidSpec";
        /// `cloudConfig` contains a secret, which everybody who may read the Bundle could read.
        pub const SECRET_IN_CLOUD_CONFIG: &str = "SecretInCloudConfig";
        /// Nothing carries out the roll-out, or not what `engine` asks for; or nothing reaches some machines.
        pub const NO_ENGINE: &str = "NoEngine";
        /// The kinds of the engine so far are not served. It stays the engine until they have been absent for ten
        /// minutes, or `spec.engine` names another one.
        pub const ENGINE_ABSENT: &str = "EngineAbsent";
        /// Another engine takes over when the Jobs of the one so far have ended, at most at their deadline.
        pub const JOBS_RUNNING: &str = "JobsRunning";
        /// An object with the name that the operator would use belongs to somebody else. It is left alone.
        pub const NAME_TAKEN: &str = "NameTaken";
        /// The API server refused an object that the operator applied.
        pub const NOT_ACCEPTED: &str = "NotAccepted";
        /// Fleet has not applied the Bundle in every cluster yet.
        pub const NOT_APPLIED: &str = "NotApplied";
        /// `targets` select no cluster.
        pub const NO_TARGET_MATCHED: &str = "NoTargetMatched";
        /// `nodeSelector` selects no node, or no machine that upgrades itself.
        pub const NO_NODE_MATCHED: &str = "NoNodeMatched";
        /// The operator does not know which release the image contains. Set `spec.release`.
        pub const RELEASE_UNKNOWN: &str = "ReleaseUnknown";
        /// `concurrency` is 0, or the roll-out is paused.
        pub const PAUSED: &str = "Paused";
        /// Nodes are being upgraded.
        pub const PROGRESSING: &str = "Progressing";
        /// A machine could not fetch the release from its registry. It is told again by itself, and the others go on.
        pub const REGISTRY_UNREACHABLE: &str = "RegistryUnreachable";
        /// The objects were applied. No node has started its upgrade yet.
        pub const APPLIED_NOT_UPGRADED: &str = "AppliedNotUpgraded";
        /// No node has made progress for longer than an upgrade takes.
        pub const STUCK: &str = "Stuck";
        /// The upgrade of a node failed. `status.nodes` says of which one.
        pub const FAILED: &str = "Failed";
        /// `engine` is `Auto`, and machines upgrade themselves, which has no use for these fields.
        pub const NOT_USED_BY_MACHINE: &str = "NotUsedByMachine";
        /// An older ManagedOSImage selects some of the machines as well, and counts for them.
        pub const OLDER_COUNTS: &str = "OlderCounts";
        /// One upgrade Plan is for control planes and for others, and takes its nodes in any order.
        pub const ONE_PLAN: &str = "OnePlan";
        /// None of `windows` is open. The message says until when.
        pub const WINDOW_CLOSED: &str = "WindowClosed";
        /// Every selected node runs the release and is healthy.
        pub const UPGRADED: &str = "Upgraded";
    }
}

/// Messages of conditions that most machines have.
pub mod message {
    words! {
        pub const HOLDS_ITS_KEYS: &str = "the machine's TPM holds the keys that the machine sent";
        pub const HAS_ITS_SECRET: &str = "the machine has the shared secret of its inventory";
        pub const INSTALLATION_FOLLOWS: &str = "registered; the installation follows";
        pub const READ_BACK: &str = "the release was written to the disk and read back";
        pub const FIRST_BOOT_FOLLOWS: &str = "installed; the first boot from its disk follows";
        pub const APPROVE: &str = "set spec.approved to true to let the machine receive its configuration";
        pub const NOT_COME_YET: &str = "the machine has not registered yet";
    }
}
