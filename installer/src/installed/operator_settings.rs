//! The settings by which an installed system reaches its operator: the newest and the previous ones. Both files hold a
//! token, so only root can read them.

use crate::installed::files::{remove_if_present, write_secret};
use crate::path_error::PathError;
use crate::session::ExchangeError;
use crate::session::websocket::{EndpointError, WebSocketTransport};
use crate::settings::document::{self, DocumentError, INSTALLED_FILE, PREVIOUS_FILE};
use boot_contract::paths::below;
use cloud_config::CloudConfig;
use cloud_config::normal_key;
use protocol::OperatorSettings;
use serde_json::{Map, Value};
use std::path::Path;

const URL: &str = "registrationURL";
const AUTHORITIES: &str = "registrationCACert";
const REVISION: &str = "registrationRevision";

/// Which of the two stored settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Newest,
    Previous,
}

impl Kept {
    /// Path of the file, relative to the root.
    pub fn file(self) -> &'static str {
        match self {
            Self::Newest => INSTALLED_FILE,
            Self::Previous => PREVIOUS_FILE,
        }
    }
}

/// Why settings of the operator are not stored.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The settings break a rule of the protocol.
    #[error("{0}")]
    Unusable(&'static str),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Stores the settings that the operator sent when it was reached by the settings `proven`. Returns whether the address
/// or the authorities of the operator have changed. Unusable settings are an error and change nothing. Whenever the
/// power fails, one of the files holds proven settings. When the newest settings are proven, the previous ones are
/// removed, because an authority that was given up must not be trusted for ever.
pub fn keep(root: &Path, sent: &OperatorSettings, proven: Kept) -> Result<bool, KeepError> {
    sent.check().map_err(KeepError::Unusable)?;
    let [newest, previous] = [INSTALLED_FILE, PREVIOUS_FILE].map(|file| below(root, file));
    let before = document::read(&newest)?.unwrap_or_default();
    let after = with(&before, sent);
    let moves = [URL, AUTHORITIES].iter().any(|key| setting(&before, key) != setting(&after, key));
    if !moves && proven == Kept::Newest {
        remove_if_present(&previous).map_err(PathError::of("removing", &previous))?;
    }
    if after == before {
        return Ok(false);
    }
    let authorities = Some(sent.authorities.concat()).filter(|pem| !pem.is_empty());
    WebSocketTransport::new(&sent.registration_url, authorities.as_deref(), None)?;
    if moves && proven == Kept::Newest {
        write_secret(&previous, before.to_yaml().as_bytes()).map_err(PathError::of("writing", &previous))?;
    }
    write_secret(&newest, after.to_yaml().as_bytes()).map_err(PathError::of("writing", &newest))?;
    Ok(moves)
}

/// Tries the newest settings and, if they fail, the previous ones. If both fail, returns the failure of the newest,
/// unless only that of the previous may be temporary.
pub async fn by_either<W, R>(
    newest: &mut W,
    previous: Option<&mut W>,
    mut attempt: impl AsyncFnMut(&mut W) -> Result<R, ExchangeError>,
) -> Result<(Kept, R), ExchangeError> {
    let failure = match attempt(newest).await {
        Ok(result) => return Ok((Kept::Newest, result)),
        Err(failure) => failure,
    };
    let Some(previous) = previous else { return Err(failure) };
    match attempt(previous).await {
        Ok(result) => Ok((Kept::Previous, result)),
        Err(other) if other.may_succeed_later() && !failure.may_succeed_later() => Err(other),
        Err(_) => Err(failure),
    }
}

/// The document with these settings added. Everything else in it stays.
fn with(document: &CloudConfig, sent: &OperatorSettings) -> CloudConfig {
    let mut document = document.clone();
    let mut install = match document.0.get("rancheros").and_then(|rancheros| rancheros.get("install")) {
        Some(Value::Object(install)) => install.clone(),
        _ => Map::new(),
    };
    install.retain(|key, _| [URL, AUTHORITIES, REVISION].iter().all(|own| normal_key(own) != normal_key(key)));
    install.insert(URL.to_owned(), sent.registration_url.as_str().into());
    if !sent.authorities.is_empty() {
        install.insert(AUTHORITIES.to_owned(), sent.authorities.concat().into());
    }
    install.insert(REVISION.to_owned(), sent.revision.as_str().into());
    match document.0.get_mut("rancheros") {
        Some(Value::Object(rancheros)) => {
            rancheros.insert("install".to_owned(), install.into());
        }
        _ => {
            document.0.insert("rancheros".to_owned(), serde_json::json!({ "install": install }));
        }
    }
    document
}

fn setting(document: &CloudConfig, key: &str) -> Option<Value> {
    document.install().get(&normal_key(key)).copied().cloned()
}

#[cfg(test)]
mod tests {
    use super::Kept::{Newest, Previous};
    use super::*;
    use protocol::{Refusal, RefusalCode, error_chain};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::LazyLock;
    use tempfile::TempDir;

    fn system() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("oem")).unwrap();
        let file = "rancheros: {install: {registration_url: 'https://old/t0', registrationSecret: s3cret}}\n";
        fs::write(root.path().join(INSTALLED_FILE), file).unwrap();
        root
    }
    fn sent(revision: &str, url: &str) -> OperatorSettings {
        static AUTHORITY: LazyLock<String> = LazyLock::new(|| {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
        });
        let authorities = vec![AUTHORITY.clone()];
        OperatorSettings { revision: revision.parse().unwrap(), registration_url: url.into(), authorities }
    }
    fn kept(root: &TempDir, file: &str, key: &str) -> Option<Value> {
        setting(&document::read(&root.path().join(file)).unwrap().unwrap(), key)
    }

    #[test]
    fn the_newest_and_those_before_are_kept_for_root_alone() {
        let root = system();
        assert!(keep(root.path(), &sent("r1", "https://new/t1"), Newest).unwrap());
        assert_eq!(kept(&root, INSTALLED_FILE, URL), Some("https://new/t1".into()));
        assert_eq!(kept(&root, INSTALLED_FILE, "registrationSecret"), Some("s3cret".into()));
        assert_eq!(kept(&root, PREVIOUS_FILE, URL), Some("https://old/t0".into()));
        for file in [INSTALLED_FILE, PREVIOUS_FILE] {
            assert_eq!(fs::metadata(root.path().join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        assert!(!keep(root.path(), &sent("r1", "https://new/t1"), Previous).unwrap(), "nothing new");
        assert!(root.path().join(PREVIOUS_FILE).exists(), "the newest have not worked yet");
        assert!(!keep(root.path(), &sent("r1", "https://new/t1"), Newest).unwrap());
        assert!(!root.path().join(PREVIOUS_FILE).exists());
    }

    #[test]
    fn another_name_for_the_same_settings_leaves_those_before_in_place() {
        let root = system();
        keep(root.path(), &sent("r1", "https://new/t1"), Newest).unwrap();
        assert!(!keep(root.path(), &sent("r2", "https://new/t1"), Previous).unwrap());
        assert_eq!(kept(&root, INSTALLED_FILE, REVISION), Some("r2".into()));
        assert_eq!(kept(&root, PREVIOUS_FILE, URL), Some("https://old/t0".into()));
    }

    #[test]
    fn settings_that_never_worked_do_not_push_out_those_that_did() {
        let root = system();
        keep(root.path(), &sent("r1", "https://wrong/t1"), Newest).unwrap();
        assert!(keep(root.path(), &sent("r2", "https://right/t2"), Previous).unwrap());
        assert_eq!(kept(&root, INSTALLED_FILE, URL), Some("https://right/t2".into()));
        assert_eq!(kept(&root, PREVIOUS_FILE, URL), Some("https://old/t0".into()));
    }

    #[tokio::test]
    async fn the_newest_is_tried_first_and_then_what_was_before() {
        use RefusalCode::{Busy, UnknownToken};
        let reached = async |mut newest: Result<(), RefusalCode>, mut previous: Option<Result<(), RefusalCode>>| {
            let attempt = async |way: &mut Result<(), RefusalCode>| {
                way.map_err(|code| ExchangeError::from(Refusal::new(code, "")))
            };
            let result = by_either(&mut newest, previous.as_mut(), attempt).await;
            result.map(|(kept, ())| kept).map_err(|error| error.refusal().unwrap().code)
        };
        assert_eq!(reached(Ok(()), Some(Err(Busy))).await, Ok(Newest));
        assert_eq!(reached(Err(UnknownToken), Some(Ok(()))).await, Ok(Previous));
        assert_eq!(reached(Err(UnknownToken), Some(Err(Busy))).await, Err(Busy), "this one passes");
        assert_eq!(reached(Err(Busy), Some(Err(UnknownToken))).await, Err(Busy));
        assert_eq!(reached(Err(UnknownToken), None).await, Err(UnknownToken));
    }

    #[test]
    fn what_cannot_be_used_changes_nothing_and_is_not_shown() {
        let root = system();
        let broken = OperatorSettings { authorities: vec!["no PEM".into()], ..sent("r1", "https://new/t0ken") };
        for unfit in [sent("r1", "http://new/t0ken"), sent("r1", "https://[/t0ken"), broken] {
            let error = error_chain(&keep(root.path(), &unfit, Newest).unwrap_err());
            assert!(!error.contains("t0ken"), "{error}");
        }
        assert_eq!(kept(&root, INSTALLED_FILE, URL), Some("https://old/t0".into()));
        assert!(!root.path().join(PREVIOUS_FILE).exists());
    }
}
