//! The connection to the operator. The commands install, register and report share it.

use crate::console::{self, announce};
use crate::exit_code::{ExitCode, OrExit};
use crate::session::identity::{Identity, SecretIdentity};
use crate::session::websocket::{WebSocketConnection, WebSocketTransport};
use crate::session::{Exchange, ExchangeError, with_retries};
use crate::settings::{Gathered, Layer, Secret, Settings, Source};
use anyhow::Context;
use attest::{DeviceTpm, TpmError, TpmIdentity};
use boot_contract::Milestone;
use machine::Machine;
use machine::addresses::addresses;
use protocol::error_chain;
use protocol::message::{Config, MachineReport};
use registry::Proxy;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};

/// Name of this program in the operator's log.
const CLIENT: &str = concat!("ros-installer/", env!("CARGO_PKG_VERSION"));

/// An identity that is prepared in the background.
pub struct PendingIdentity(Preparing);

enum Preparing {
    Begun(JoinHandle<Result<TpmIdentity, TpmError>>),
    Ended(Result<TpmIdentity, TpmError>),
}

/// Limit of the wait for the TPM's keys when they are needed only to tell which machine a disk belongs to.
const NAMING: Duration = Duration::from_secs(30);

impl PendingIdentity {
    /// Starts to create the TPM's keys on a separate thread.
    pub fn begin(tcti: String, root: PathBuf) -> Self {
        let prepare = move || TpmIdentity::prepare(Box::new(DeviceTpm::open(&tcti)?), &root, CLIENT.to_owned());
        Self(Preparing::Begun(tokio::task::spawn_blocking(prepare)))
    }

    /// The known names that an installation's marker may use for this machine. The identity that it proves is first.
    pub async fn names(&mut self, settings: &Settings) -> Vec<String> {
        if let Preparing::Begun(task) = &mut self.0
            && let Ok(ended) = tokio::time::timeout(NAMING, task).await
        {
            self.0 = Preparing::Ended(unwound(ended));
        }
        let by_tpm = match &self.0 {
            Preparing::Ended(Ok(identity)) => Some(Identity::Tpm(identity.clone())),
            _ => None,
        };
        let by_secret = settings.registration_secret.as_ref().map(|secret| by_secret(secret.clone()));
        by_tpm.iter().chain(&by_secret).map(Identity::name).collect()
    }

    /// The identity by TPM. On a machine without one, the identity by the shared secret of the settings, if there is
    /// one.
    pub async fn ready(self, settings: &Settings) -> anyhow::Result<Identity> {
        let prepared = match self.0 {
            Preparing::Begun(task) => unwound(task.await),
            Preparing::Ended(prepared) => prepared,
        };
        match (prepared, &*settings.registration_secret) {
            (Ok(identity), _) => Ok(Identity::Tpm(identity)),
            (Err(TpmError::Absent(_)), Some(secret)) => Ok(by_secret(secret.clone())),
            (Err(error), _) => Err(ExitCode::from(&error).with(error).context("preparing this machine's identity")),
        }
    }
}

fn by_secret(secret: Secret) -> Identity {
    Identity::SharedSecret(SecretIdentity::new(secret, CLIENT.to_owned()))
}

fn unwound<T>(ended: Result<T, JoinError>) -> T {
    match ended {
        Ok(value) => value,
        Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
    }
}

/// The transport for these settings. `None` without a registration URL.
pub fn transport(settings: &Settings) -> anyhow::Result<Option<WebSocketTransport>> {
    let Some(url) = settings.registration_url.as_deref() else { return Ok(None) };
    let transport = WebSocketTransport::new(url, settings.registration_ca_cert.as_deref(), proxy(settings)?.as_ref());
    let origin = || format!("using registrationURL, from {}", settings.registration_url.source);
    transport.or_exit(ExitCode::Settings).with_context(origin).map(Some)
}

/// The settings in a file of an installed system, and those of its kernel command line.
pub fn installed(root: &Path, file: &Path) -> anyhow::Result<Gathered> {
    let gathered = Gathered::from_machine(root, Some(file), Layer::new(Source::Flag));
    gathered.or_exit(ExitCode::Settings).context("resolving the settings")
}

/// The proxy of these settings.
pub fn proxy(settings: &Settings) -> anyhow::Result<Option<Proxy>> {
    let Some(url) = settings.proxy.as_ref() else { return Ok(None) };
    let proxy = Proxy::new(url.expose(), settings.no_proxy.as_deref().unwrap_or_default());
    let must_be = |form| anyhow::anyhow!("proxy, from {}, must be {form}", settings.proxy.source);
    proxy.map_err(|form| ExitCode::Settings.with(must_be(form))).map(Some)
}

/// Registers the machine and returns the open exchange with the operator's answer; see [`retry`].
pub async fn register(
    transport: &mut WebSocketTransport,
    identity: &Identity,
    machine: &Machine,
    notify: Option<RetryNotice>,
) -> anyhow::Result<(Exchange<WebSocketConnection>, Config)> {
    let attempt = async || {
        let mut exchange = Exchange::open(transport, identity).await?;
        let mut hardware = machine.hardware.clone();
        hardware.tpm = identity.tpm_info().cloned();
        let report = MachineReport { smbios: machine.smbios.clone(), hardware, addresses: addresses() };
        let mut config = exchange.configure(report).await?;
        identity.complete(&mut config.cloud_config);
        Ok((exchange, config))
    };
    retry(attempt, notify).await
}

/// Called with the cause of a failed attempt and the wait before the next one.
pub type RetryNotice = fn(&ExchangeError, Duration);

/// Retries `attempt` until it succeeds or fails permanently. Without `notify` there is one attempt. The error has the
/// exit code.
pub async fn retry<R>(
    mut attempt: impl AsyncFnMut() -> Result<R, ExchangeError>,
    notify: Option<RetryNotice>,
) -> anyhow::Result<R> {
    let result = match notify {
        Some(notify) => with_retries(attempt, jitter, notify).await,
        None => attempt().await,
    };
    result.map_err(|error| ExitCode::from(&error).with(error))
}

/// Prints the notice for a person at the console of the machine.
pub fn note_retry_on_console(error: &ExchangeError, wait: Duration) {
    if error.is_refusal() {
        announce(Milestone::Refused, reason(error, wait));
    } else {
        console::note(reason(error, wait));
    }
}

/// Prints the notice for a command whose standard output is data.
pub fn note_retry_on_stderr(error: &ExchangeError, wait: Duration) {
    console::note(reason(error, wait));
}

fn reason(error: &ExchangeError, wait: Duration) -> String {
    format!("{}; next attempt in {} s", error_chain(error), wait.as_secs_f64().ceil())
}

/// A random number from 0 up to but excluding 1.
pub fn jitter() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness the waits have no jitter but are still made.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
