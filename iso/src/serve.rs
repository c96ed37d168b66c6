//! Starts machines from the network, beside the DHCP server that is there: proxyDHCP, TFTP and HTTP on one interface. It
//! serves what it was given and hands out no addresses.
//!
//! ```text
//! packet ─► request ─► architecture ─► proxy_dhcp ─► answer      dhcp: its sockets
//!                                                    files  ─►   tftp, http
//! ```

mod architecture;
mod dhcp;
mod event;
mod files;
mod http;
mod interface;
mod proxy_dhcp;
mod request;
mod tftp;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ServeOptions;
use crate::customize;
use event::{Event, Reporter};
use files::{Files, Source};
use interface::Interface;
use proxy_dhcp::Server;

/// The file of Debian's package `ipxe`.
const DEBIAN_UNDIONLY: &str = "/usr/lib/ipxe/undionly.kpxe";

pub fn run(options: &ServeOptions) -> Result<()> {
    let registration = options.registration.as_deref().map(customize::settings).transpose()?;
    let registration = registration.as_ref().map(|settings| settings.text.as_str());
    let source = match &options.pxe {
        Some(folder) if registration.is_none() && !files::has_settings(folder) => {
            bail!("{} has no settings: give --registration", folder.display())
        }
        Some(folder) => Source::Folder(folder),
        None => Source::Iso(options.iso.as_deref().context("give --iso or --pxe")?),
    };
    let interface = Interface::find(&options.interface, options.address)?;
    let server = Server { address: interface.address, http_port: options.port };
    let mut files = Files::open(&source, registration, server.http())?;
    let reporter = Reporter { json: options.json };
    match &options.undionly {
        Some(path) => files.add_undionly(path)?,
        None if files.add_undionly(Path::new(DEBIAN_UNDIONLY)).is_ok() => {}
        None => reporter.warn(format_args!(
            "{DEBIAN_UNDIONLY} is not there, so machines with BIOS whose network card has no iPXE cannot start: install \
             Debian's package ipxe, or give --undionly"
        )),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let served = runtime.block_on(serve(&interface, server, files, reporter));
    // Transfers end with the program.
    runtime.shutdown_background();
    served
}

/// Serves until SIGINT or SIGTERM.
async fn serve(interface: &Interface, server: Server, files: Files, reporter: Reporter) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let mut terminated = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let dhcp = dhcp::Sockets::open(interface)?;
    let tftp = tftp::Tftp::open(interface)?;
    let http = TcpListener::from_std(interface.tcp_listener(server.http_port)?).context("listening for HTTP")?;
    let files = Arc::new(files);
    reporter.tell(&Event::Serving { interface: &interface.name, address: interface.address, http: server.http() });
    tokio::select! {
        () = dhcp.serve(server, &files, reporter) => {}
        () = tftp.serve(&files, reporter) => {}
        () = http::serve(http, files.clone(), reporter) => {}
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}
