//! Downloads documents with settings, and tries again while the network or the server may come up.

use super::network::wait_for_network;
use super::operator;
use crate::console;
use crate::exit_code::{ExitCode, OrExit};
use crate::session::Backoff;
use crate::settings::sources::{self, FetchError};
use crate::settings::{Gathered, Source};
use cloud_config::CloudConfig;
use protocol::error_chain;

/// Adds the document at `url`, with further settings and cloud-config.
pub async fn add_config_url(gathered: &mut Gathered, url: &str, network_is_up: &mut bool) -> anyhow::Result<()> {
    if sources::needs_network(url) {
        wait_for_network(network_is_up).await;
    }
    let ca = gathered.settings().registration_ca_cert.clone().value;
    // A document on a server can be corrected while this machine is on. A file of the medium cannot.
    let code = if sources::needs_network(url) { ExitCode::Configuration } else { ExitCode::Settings };
    let proxy = operator::proxy(gathered.settings())?;
    let digest = gathered.settings().config_sha256.value;
    let document: CloudConfig =
        retry_download(code, async || sources::fetch(url, ca.as_deref(), proxy.as_ref(), digest).await).await?;
    gathered.add_document(Source::ConfigUrl, document).or_exit(code)
}

/// Retries a download until it succeeds or fails permanently. `code` is the exit code of a failure.
pub async fn retry_download<R>(
    code: ExitCode,
    mut attempt: impl AsyncFnMut() -> Result<R, FetchError>,
) -> anyhow::Result<R> {
    let mut backoff = Backoff::local();
    loop {
        match attempt().await {
            Err(error) if error.may_succeed_later() => {
                let wait = backoff.next(None, operator::jitter());
                console::note(format!("{}; next attempt in {} s", error_chain(&error), wait.as_secs_f64().ceil()));
                tokio::time::sleep(wait).await;
            }
            result => return result.or_exit(code),
        }
    }
}
