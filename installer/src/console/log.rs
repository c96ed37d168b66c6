//! The log, for finding causes. Messages for users go through [`crate::console`].

use crate::console;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::uptime;

/// Starts logging to stderr, or to all consoles after [`crate::console::take_all`]. Each line has the seconds since the
/// program began. `ROS_LOG` (as in `RUST_LOG`) overrides `debug`. The TPM library is silenced, because it logs expected
/// answers, such as a missing certificate, as failures.
pub fn begin(debug: bool) {
    let default =
        if debug { "warn,installer=debug,attest=debug,disk=debug,machine=debug" } else { "warn,tss_esapi=off" };
    let filter = EnvFilter::try_from_env("ROS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(console::log_output).with_timer(uptime()).init();
}
