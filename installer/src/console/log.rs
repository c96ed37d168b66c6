//! The log for whoever looks for a cause; what everybody should see goes through [`crate::console`].

use crate::console;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::uptime;

/// Starts logging on stderr, or on all consoles where they were taken, with seconds since the program began. `ROS_LOG` (as in `RUST_LOG`) beats `debug`.
/// The TPM's library speaks of failures that are answers here, such as a certificate that is not there.
pub fn begin(debug: bool) {
    let default =
        if debug { "warn,installer=debug,attest=debug,disk=debug,machine=debug" } else { "warn,tss_esapi=off" };
    let filter = EnvFilter::try_from_env("ROS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(console::log_output).with_timer(uptime()).init();
}
