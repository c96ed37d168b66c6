//! Commands on a machine over SSH.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::wait::{Poll, until};

/// An ed25519 key made for one test.
#[derive(Clone, Debug)]
pub struct SshKey {
    file: PathBuf,
    /// The line for `authorized_keys`.
    pub public: String,
}

impl SshKey {
    pub fn generate(folder: &Path) -> Result<Self> {
        let file = folder.join("id_ed25519");
        let output = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(&file)
            .output()
            .context("running ssh-keygen of the package openssh-client")?;
        if !output.status.success() {
            bail!("creating {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        let public =
            fs::read_to_string(file.with_extension("pub")).context("reading the public key")?.trim().to_owned();
        Ok(Self { file, public })
    }

    /// The command line that logs in through a port of this host.
    pub fn login(&self, user: &str, port: u16) -> Vec<String> {
        let file = self.file.display().to_string();
        // The machine made its host key a moment ago, so it cannot be known here.
        let options =
            ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "LogLevel=ERROR"];
        let mut command = vec!["ssh".to_owned(), "-i".to_owned(), file, "-p".to_owned(), port.to_string()];
        command.extend(options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
        command.push(format!("{user}@127.0.0.1"));
        command
    }

    /// Runs a command on the machine and gives its output. Tries again until the login succeeds.
    pub async fn run(&self, user: &str, port: u16, command: &str, limit: Duration) -> Result<String> {
        self.run_with(user, port, command, Path::new("/dev/null"), limit).await
    }

    /// The same for a command that reads a file of this host as its standard input.
    pub async fn run_with(
        &self,
        user: &str,
        port: u16,
        command: &str,
        input: &Path,
        limit: Duration,
    ) -> Result<String> {
        let login = self.login(user, port);
        until(&format!("{command:?} over ssh"), limit, async || {
            let input = fs::File::open(input).with_context(|| format!("opening {}", input.display()))?;
            let output = tokio::process::Command::new(&login[0])
                .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=20"])
                .args(&login[1..])
                .arg(command)
                .stdin(input)
                .kill_on_drop(true)
                .output()
                .await
                .context("running ssh of the package openssh-client")?;
            let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            match output.status.code() {
                Some(0) => Ok(Poll::Ready(String::from_utf8_lossy(&output.stdout).into_owned())),
                // ssh itself failed, before the command ran (ssh(1), EXIT STATUS).
                Some(255) => Ok(Poll::Pending(errors)),
                _ => bail!("{command:?} on the machine ended with {}: {errors}", output.status),
            }
        })
        .await
    }
}
