//! `ros-operator`: reads options and environment, and hands over to the library.

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use operator::identity::tpm_vendors;
use operator::inventory::limiter;
use operator::media::{self, Origin, Source};
use operator::registration::endpoint::address::AddressOptions;
use operator::rollout::DefaultRegistry;
use operator::run;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The C library's allocator took a fifth of the processor time of an exchange.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Installs, configures and lists machines for Kubernetes
#[derive(Parser)]
#[command(name = "ros-operator", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the registration server and the controllers until SIGTERM
    Run(Box<RunOptions>),
    /// Prints the CustomResourceDefinitions, for `kubectl apply -f -`
    Crd {
        /// Writes one file for each kind into this folder instead of printing
        #[arg(long)]
        directory: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct RunOptions {
    /// Address and port of the HTTPS server
    #[arg(long, env = "ROS_LISTEN", default_value = "[::]:8443")]
    listen: SocketAddr,
    /// URL at which machines reach this server; every registration URL starts with it
    #[arg(long, env = "ROS_SERVER_URL")]
    server_url: Option<String>,
    /// Without --server-url: use Rancher's Setting server-url; an ingress must route that URL to this server
    #[arg(long, env = "ROS_BESIDE_RANCHER")]
    beside_rancher: bool,
    /// Without --server-url and --beside-rancher: use the address of this Service in the operator's namespace
    #[arg(long, env = "ROS_SERVICE")]
    service: Option<String>,
    /// PEM of the certificate authorities that machines trust, if a proxy in front of this server terminates TLS
    #[arg(long, env = "ROS_CA")]
    ca: Option<String>,
    /// Folder with tls.crt, tls.key and optionally ca.crt, to use instead of the operator's own certificate
    #[arg(long, env = "ROS_CERTIFICATE")]
    certificate: Option<PathBuf>,
    /// Namespace in which the operator keeps its certificate
    #[arg(long, env = "ROS_NAMESPACE", default_value = "cattle-rancheros-operator-system")]
    namespace: String,
    /// PEM file of TPM vendors' authorities, for registrations that require an endorsement key certificate and have no
    /// trustedCAs
    #[arg(long, env = "ROS_TPM_VENDORS", value_name = "FILE")]
    tpm_vendors: Option<PathBuf>,
    /// Registry for upgrade images without a registry in their name; Rancher's Setting system-default-registry
    /// overrides it
    #[arg(long, env = "ROS_DEFAULT_REGISTRY", default_value = "")]
    default_registry: String,
    /// Limit of concurrent registrations; the limit of concurrent installations is eight times as high. Machines beyond
    /// it are told to try again later
    #[arg(long, env = "ROS_EXCHANGES", default_value_t = 256)]
    exchanges: usize,
    /// Limit of machines for a registration without spec.maxMachines; 0 means no limit
    #[arg(long, env = "ROS_MAX_MACHINES", default_value_t = 10_000)]
    max_machines: u32,
    /// Limit of writes to the API server per second for the machines of one registration; a burst may have 24 times as
    /// many. Machines beyond it are told to try again later. 0 means no limit
    #[arg(long, env = "ROS_WRITES_PER_SECOND", default_value_t = limiter::WRITES_PER_SECOND)]
    writes_per_second: u32,
    /// A live ISO or disk image (raw, qcow2) of `ros-image build`, or a folder of them, that the operator serves to each
    /// registration with the registration's settings in it
    #[arg(long, env = "ROS_MEDIA", value_name = "PATH")]
    media: Option<PathBuf>,
    /// URL of an ISO or disk image to download at the start, into the folder of --media
    #[arg(long, env = "ROS_MEDIA_URL", value_name = "URL", requires_all = ["media", "media_sha256"])]
    media_url: Option<String>,
    /// SHA-256 of the file at --media-url
    #[arg(long, env = "ROS_MEDIA_SHA256", value_name = "HEX", requires = "media_url")]
    media_sha256: Option<String>,
    /// Limit of concurrent downloads of media, and of files of network boots; clients beyond it are told to try again
    /// later [default: 32; with --memory, as many as a sixteenth of it holds]
    #[arg(long, env = "ROS_DOWNLOADS")]
    downloads: Option<usize>,
    /// Memory that the operator may use, in bytes
    #[arg(long, env = "ROS_MEMORY", value_name = "BYTES")]
    memory: Option<u64>,
    /// Address and port at which machines load the files of a network boot over plain HTTP, such as [::]:8080; without
    /// it there is no network boot. Everybody on the way can read the registration that they load
    #[arg(long, env = "ROS_BOOT_LISTEN", value_name = "ADDRESS", requires = "media")]
    boot_listen: Option<SocketAddr>,
    /// Port at which machines reach --boot-listen [default: the port of --boot-listen]
    #[arg(long, env = "ROS_BOOT_PORT", value_name = "PORT", requires = "boot_listen")]
    boot_port: Option<u16>,
    /// URL at which machines reach --boot-listen, such as http://ros.example.org:8080 [default: the host of the server
    /// URL, and --boot-port]
    #[arg(long, env = "ROS_BOOT_URL", value_name = "URL", requires = "boot_listen", value_parser = plain_http)]
    boot_url: Option<String>,
    /// Name of this replica in the Lease for leader election, usually the pod's name
    #[arg(long, env = "ROS_REPLICA", default_value = "ros-operator")]
    replica: String,
    /// Format of the log on stderr; RUST_LOG sets the level
    #[arg(long, env = "ROS_LOG", value_enum, default_value_t = LogForm::Json)]
    log: LogForm,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogForm {
    Json,
    Text,
}

/// A URL that boot loaders understand: they have no TLS. It becomes a part of scripts and commands.
fn plain_http(url: &str) -> Result<String, &'static str> {
    let host = url.strip_prefix("http://").ok_or("it does not start with http://")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]/".contains(&byte);
    if host.is_empty() || host.starts_with('/') || !host.bytes().all(is_plain) {
        return Err("it is not a host with an optional port and path");
    }
    Ok(url.to_owned())
}

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Crd { directory } => print_definitions(directory),
        Command::Run(options) => {
            start_log(options.log);
            go_without_huge_pages();
            runtime().context("starting the runtime")?.block_on(serve(*options))
        }
    }
}

/// Disables huge pages. Many distributions enable them for all processes. They took a quarter of the memory of a large
/// index and saved no time.
fn go_without_huge_pages() {
    if let Err(error) = prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages could not be disabled; the operator uses more memory");
    }
}

/// Worker threads for half of the processors. The two writes for a machine cost an API server some five times what the
/// machine costs the operator. On the same number of processors the operator waits for the API server, and fewer
/// threads wake each other up less often.
fn runtime() -> std::io::Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    runtime::Builder::new_multi_thread().worker_threads(processors.div_ceil(2)).enable_all().build()
}

async fn serve(options: RunOptions) -> anyhow::Result<()> {
    let media = source(&options)?;
    let tpm_vendors = options.tpm_vendors.as_deref().map(tpm_vendors::read).transpose()?.unwrap_or_default();
    let config =
        kube::Config::infer().await.context("reading the cluster's address from KUBECONFIG or the service account")?;
    let settings = run::Settings {
        listen: options.listen,
        address: AddressOptions {
            server_url: options.server_url,
            beside_rancher: options.beside_rancher,
            service: options.service,
            authorities: options.ca,
        },
        certificate: options.certificate,
        namespace: options.namespace,
        tpm_vendors,
        default_registry: DefaultRegistry::new(&options.default_registry),
        exchanges: options.exchanges,
        max_machines: options.max_machines,
        writes_per_second: options.writes_per_second,
        media,
        downloads: options.downloads.unwrap_or_else(|| media::downloads_within(options.memory)),
        boot_listen: options.boot_listen,
        boot_port: options.boot_port,
        boot_url: options.boot_url,
        open_files: open_files().context("reading the limit of open files")?,
        replica: options.replica,
    };
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run::run(config, settings, stop).await
}

fn source(options: &RunOptions) -> anyhow::Result<Option<Source>> {
    let Some(path) = options.media.clone() else { return Ok(None) };
    let origin = match (&options.media_url, &options.media_sha256) {
        (Some(url), Some(sha256)) => Some(Origin::new(url, sha256)?),
        _ => None,
    };
    Ok(Some(Source { path, origin }))
}

/// Raises the limit of open files to the allowed maximum and returns it. A process often starts with 1024.
fn open_files() -> nix::Result<usize> {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let allowed = setrlimit(Resource::RLIMIT_NOFILE, most, most).map_or(now, |()| most);
    Ok(allowed.try_into().unwrap_or(usize::MAX))
}

fn start_log(form: LogForm) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match form {
        LogForm::Json => log.json().flatten_event(true).init(),
        LogForm::Text => log.init(),
    }
}

fn print_definitions(directory: Option<PathBuf>) -> anyhow::Result<()> {
    for (file, definition) in api::definitions() {
        let yaml = api::to_yaml(&definition).with_context(|| format!("writing {file}"))?;
        match &directory {
            None => print!("---\n{yaml}"),
            Some(directory) => {
                let path = directory.join(&file);
                std::fs::write(&path, yaml).with_context(|| format!("writing {}", path.display()))?;
            }
        }
    }
    Ok(())
}
