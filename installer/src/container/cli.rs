//! The command line of `ros-installer` in the upgrade image.

use clap::{Args, Parser, Subcommand};
use protocol::RequestText;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Upgrades the RancherOS host on which this container runs.
#[derive(Debug, Parser)]
#[command(name = "ros-installer", version, max_term_width = 100, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a release to the slot of the host that does not run, and see it through
    ///
    /// Ends well when the release runs and its slot is marked as good. After a restart the same command finds out what
    /// became of the release: it waits for one that is on trial, and gives the reason for one that did not come up,
    /// which it does not try again unless `--retry` says so.
    Upgrade(UpgradeOptions),
}

#[derive(Debug, Args)]
pub struct UpgradeOptions {
    /// Folder with release.json and the files that it names
    #[arg(long, value_name = "FOLDER")]
    pub release: PathBuf,
    /// Where the root folder of the host is mounted, with everything below it
    #[arg(long, value_name = "FOLDER")]
    pub host: PathBuf,
    /// Restart the host when the release is on its disk
    #[arg(long)]
    pub reboot: bool,
    /// Asks for one more try of a release that did not come up on this host; the host counts each text once for a release
    #[arg(long, value_name = "TEXT", env = "ROS_RETRY")]
    pub retry: Option<RequestText>,
    /// Cloud-config to merge over that of the host, if the file exists; a Plan's Secret is there
    #[arg(long, value_name = "FILE", default_value = "/run/data/cloud-config")]
    pub cloud_config: PathBuf,
    /// File for the reason of a failure, if it exists: terminationMessagePath of the container
    #[arg(long, value_name = "FILE", env = "ROS_TERMINATION_MESSAGE", default_value = "/dev/termination-log")]
    pub termination_message: PathBuf,
}

/// The name by which Plans of System Upgrade Controller run an image, as they did that of the first release.
const PLAN_NAME: &str = "suc-upgrade";
const OF_PLAN: [&str; 6] = ["upgrade", "--release", "/release", "--host", "/host", "--reboot"];

/// The words of a command line, completed where the program was started by its name in Plans.
pub fn words(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = given.into_iter().collect();
    let name = words.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == PLAN_NAME) {
        words.splice(1..1, OF_PLAN.map(OsString::from));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(line: &[&str]) -> UpgradeOptions {
        let Command::Upgrade(options) = Cli::parse_from(words(line.iter().map(OsString::from))).command;
        options
    }

    #[test]
    fn a_plan_needs_no_arguments_and_may_give_some() {
        Cli::command().debug_assert();
        let options = parsed(&["/usr/sbin/suc-upgrade"]);
        assert_eq!((options.release.to_str(), options.host.to_str()), (Some("/release"), Some("/host")));
        assert!(options.reboot && options.termination_message.ends_with("dev/termination-log"));
        let options = parsed(&["suc-upgrade", "--termination-message", "/t", "--host", "/elsewhere", "--reboot"]);
        assert!(options.reboot && options.termination_message == Path::new("/t"));
        assert_eq!(options.host, Path::new("/elsewhere"), "the last one counts");
        let options = parsed(&["ros-installer", "upgrade", "--release", "/r", "--host", "/h"]);
        assert!(!options.reboot && options.host == Path::new("/h"));
    }
}
