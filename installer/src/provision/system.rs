//! Carries out changes below a root folder: `/` on a machine, a temporary folder in tests.

use super::accounts::{Accounts, Host};
use super::change::{Change, FileChange};
use super::password::{self, SALT_BYTES};
use crate::clock::unix_seconds;
use crate::path_error::PathError;
use aws_lc_rs::error::Unspecified;
use boot_contract::paths::{PERSISTENT, below};
use cloud_config::document::{CaCerts, Document};
use command::{Command, CommandError};
use nix::errno::Errno;
use protocol::error_chain;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder of marks for actions that are done once per installation. It is on COS_PERSISTENT, which each installation
/// makes anew.
const ONCE: &str = "/var/lib/ros/once";
/// Folder below [`ONCE`] with a mark for each kept file. Its name is the SHA-256 of the path and the number of earlier
/// files with the same path.
const FILES: &str = "files";
const SUDO: &str = "/usr/bin/sudo";
const SUDOERS: &str = "/etc/sudoers.d/90-cloud-config";
const CERTIFICATES: &str = "/usr/local/share/ca-certificates";

/// `bootcmd` holds up every service. The rest of the cloud-config is applied after it, however it ended.
pub(super) const BOOTCMD_LIMIT: Duration = Duration::from_secs(5 * 60);
/// `runcmd` may install a whole cluster over a slow line.
pub(super) const RUNCMD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// The system to change.
pub struct System {
    root: PathBuf,
}

/// Why a change was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("a hostname has up to 64 letters, digits, hyphens and dots")]
    HostnameMalformed,
    #[error("setting the hostname")]
    Hostname(#[source] Errno),
    #[error("owner: there is no such {0}")]
    NoOwner(&'static str),
    #[error("there is no user {0:?}")]
    NoUser(String),
    #[error("this system has no {SUDO}: log in as root instead")]
    NoSudo,
    #[error("{} is or contains a symbolic link: remove the link", .0.display())]
    Link(PathBuf),
    #[error("there is no such time zone in /usr/share/zoneinfo")]
    NoTimezone,
    #[error("reading random bytes for a salt")]
    Salt(#[from] Unspecified),
    #[error("writing the script")]
    Script(#[source] io::Error),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl System {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Carries out one change. Returns one line for each part that failed although the rest was done.
    pub fn carry_out(&self, change: &Change) -> Result<Vec<String>, ChangeError> {
        match change {
            Change::BootCommands(script) => self.shell(script, BOOTCMD_LIMIT)?,
            Change::File(file) => self.file(file)?,
            Change::Hostname(name) => self.hostname(name)?,
            Change::Accounts(document) => return self.accounts(document),
            Change::Sudo(rules) => self.sudo(rules)?,
            Change::AuthorizedKeys { user, keys } => self.authorized_keys(user, keys)?,
            Change::Timezone(zone) => self.timezone(zone)?,
            Change::Disable(unit) => {
                Command::new("systemctl").args(["mask", "--runtime", "--now", "--no-block", unit]).run()?;
            }
            Change::CaCertificates(certificates) => self.certificates(certificates)?,
            Change::RunCommands(script) => {
                if self.mark("runcmd")? {
                    self.shell(script, RUNCMD_LIMIT)?;
                }
            }
        }
        Ok(Vec::new())
    }

    fn path(&self, path: &str) -> PathBuf {
        below(&self.root, path)
    }

    fn is_running_system(&self) -> bool {
        self.root == Path::new("/")
    }

    fn once(&self, what: &str) -> PathBuf {
        self.path(ONCE).join(what)
    }

    /// Sets a mark. Returns false if it was set before.
    fn mark(&self, what: &str) -> Result<bool, PathError> {
        let note = self.once(what);
        let folder = note.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(PathError::of("creating", folder))?;
        match OpenOptions::new().write(true).create_new(true).open(&note) {
            Ok(file) => file.sync_all().map_err(PathError::of("writing", &note)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(PathError::of("writing", &note)(error)),
        }
    }

    /// Writes a file once per installation, as cloud-init does. Where `/etc` is new at each boot, that means at each
    /// boot. A kept file has a mark, which is set when the file is written.
    fn file(&self, file: &FileChange) -> Result<(), ChangeError> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, file.path.as_bytes());
        let note = format!("{FILES}/{}-{}", hex::encode(digest), file.earlier);
        let is_kept = self.is_kept(&file.path);
        if is_kept && self.once(&note).exists() {
            return Ok(());
        }
        let accounts = self.read_accounts()?;
        let (user, group) = (file.owner.0.as_str(), file.owner.1.as_str());
        let account = accounts.find(user).ok_or(ChangeError::NoOwner("user"))?;
        let gid = match group {
            "" => account.gid,
            group => accounts.group_id(group).ok_or(ChangeError::NoOwner("group"))?,
        };
        let path = self.path(&file.path);
        let folder = path.parent().unwrap_or(&self.root);
        // Folders that are created for a file get its owner, as with cloud-init.
        let new: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
        fs::create_dir_all(folder).map_err(PathError::of("creating", folder))?;
        for folder in new {
            chown(folder, Some(account.uid), Some(gid)).map_err(PathError::of("changing the owner of", folder))?;
        }
        let written = write_for(&path, &file.content, file.mode, file.append, Some((account.uid, gid)))?;
        if is_kept {
            written.sync_all().map_err(PathError::of("writing", &path))?;
            self.mark(&note)?;
        }
        Ok(())
    }

    /// Whether a path is on the persistent partition. The file need not exist.
    fn is_kept(&self, path: &str) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let Some(persistent) = device(&self.path(PERSISTENT)) else { return false };
        self.path(path).ancestors().find_map(device) == Some(persistent)
    }

    fn hostname(&self, name: &str) -> Result<(), ChangeError> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        if name.is_empty() || name.len() > 64 || !plain || name.starts_with(['-', '.']) {
            return Err(ChangeError::HostnameMalformed);
        }
        write(&self.path("/etc/hostname"), format!("{name}\n").as_bytes(), 0o644, false)?;
        self.resolve_own_name(name)?;
        if self.is_running_system() {
            nix::unistd::sethostname(name).map_err(ChangeError::Hostname)?;
        }
        Ok(())
    }

    /// Lets the machine find its own name without a DNS server, as sudo and others expect. 127.0.1.1 is Debian's address
    /// for that.
    fn resolve_own_name(&self, name: &str) -> Result<(), ChangeError> {
        let path = self.path("/etc/hosts");
        let mut hosts = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(PathError::of("reading", &path))?,
        };
        let names =
            |line: &str| line.split('#').next().unwrap_or_default().split_whitespace().skip(1).any(|n| n == name);
        if hosts.lines().any(names) {
            return Ok(());
        }
        if !hosts.is_empty() && !hosts.ends_with('\n') {
            hosts.push('\n');
        }
        hosts.push_str(&format!("127.0.1.1 {name}\n"));
        Ok(write(&path, hosts.as_bytes(), 0o644, false)?)
    }

    fn read_accounts(&self) -> Result<Accounts, PathError> {
        let [passwd, shadow, group] = ["passwd", "shadow", "group"].map(|name| {
            let path = self.path("/etc").join(name);
            fs::read_to_string(&path).map_err(PathError::of("reading", &path))
        });
        Ok(Accounts::parse(&passwd?, &shadow?, &group?))
    }

    fn accounts(&self, document: &Document) -> Result<Vec<String>, ChangeError> {
        let mut accounts = self.read_accounts()?;
        let owner = |home: &str| fs::metadata(self.path(home)).map(|home| (home.uid(), home.gid())).ok();
        let salt = random_salt()?;
        let hash = |password: &str| password::hash(password, salt);
        let today = unix_seconds() / 86400;
        let mut problems = accounts.apply(document, &Host { owner: &owner, hash: &hash, today });
        for (name, text) in ["passwd", "shadow", "group"].iter().zip(accounts.to_texts()) {
            let path = self.path("/etc").join(name);
            let metadata = fs::metadata(&path).map_err(PathError::of("reading", &path))?;
            // The file is replaced and not overwritten, so that other programs read either the old or the new one.
            let new = path.with_extension("ros-new");
            write(&new, text.as_bytes(), metadata.mode() & 0o7777, false)?;
            chown(&new, Some(metadata.uid()), Some(metadata.gid())).map_err(PathError::of("writing", &path))?;
            fs::rename(&new, &path).map_err(PathError::of("writing", &path))?;
        }
        for user in document.users.iter().filter(|user| !user.no_create_home && !user.system) {
            if let Some(account) = accounts.find(&user.name)
                && let Err(error) = self.home(&account.home, account.uid, account.gid)
            {
                problems.push(format!("{}: its home: {}", user.at, error_chain(&error)));
            }
        }
        Ok(problems)
    }

    /// Creates a home with the content of `/etc/skel`. An existing one is not changed.
    fn home(&self, home: &str, uid: u32, gid: u32) -> Result<(), PathError> {
        let path = self.path(home);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&path).map_err(PathError::of("creating", &path))?;
        for entry in fs::read_dir(self.path("/etc/skel")).into_iter().flatten().flatten() {
            let copy = path.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                fs::copy(entry.path(), &copy).map_err(PathError::of("writing", &copy))?;
                chown(&copy, Some(uid), Some(gid)).map_err(PathError::of("changing the owner of", &copy))?;
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700))
            .map_err(PathError::of("setting the mode of", &path))?;
        chown(&path, Some(uid), Some(gid)).map_err(PathError::of("changing the owner of", &path))
    }

    fn sudo(&self, rules: &str) -> Result<(), ChangeError> {
        if !self.path(SUDO).exists() {
            return Err(ChangeError::NoSudo);
        }
        let path = self.path(SUDOERS);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(PathError::of("creating", folder))?;
        Ok(write(&path, rules.as_bytes(), 0o440, false)?)
    }

    fn authorized_keys(&self, user: &str, keys: &[String]) -> Result<(), ChangeError> {
        let account = self.read_accounts()?.find(user).ok_or_else(|| ChangeError::NoUser(user.to_owned()))?;
        let folder = self.path(&account.home).join(".ssh");
        let path = folder.join("authorized_keys");
        // Links that the user made must not lead root to other files.
        if folder.is_symlink() || path.is_symlink() {
            return Err(ChangeError::Link(folder));
        }
        fs::create_dir_all(&folder).map_err(PathError::of("creating", &folder))?;
        let present = fs::read_to_string(&path).unwrap_or_default();
        let present_lines: BTreeSet<&str> = present.lines().map(str::trim).collect();
        let mut text = present.clone();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for key in keys.iter().map(|key| key.trim()).filter(|key| !present_lines.contains(key)) {
            text.push_str(key);
            text.push('\n');
        }
        write(&path, text.as_bytes(), 0o600, false)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))
            .map_err(PathError::of("setting the mode of", &folder))?;
        for path in [&folder, &path] {
            chown(path, Some(account.uid), Some(account.gid)).map_err(PathError::of("changing the owner of", path))?;
        }
        Ok(())
    }

    fn timezone(&self, zone: &str) -> Result<(), ChangeError> {
        let inside = zone.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !inside || !self.path("/usr/share/zoneinfo").join(zone).is_file() {
            return Err(ChangeError::NoTimezone);
        }
        let link = self.path("/etc/localtime");
        let _ = fs::remove_file(&link);
        symlink(format!("../usr/share/zoneinfo/{zone}"), &link).map_err(PathError::of("linking", &link))?;
        Ok(write(&self.path("/etc/timezone"), format!("{zone}\n").as_bytes(), 0o644, false)?)
    }

    fn certificates(&self, certificates: &CaCerts) -> Result<(), ChangeError> {
        let folder = self.path(CERTIFICATES);
        fs::create_dir_all(&folder).map_err(PathError::of("creating", &folder))?;
        for (number, certificate) in (1..).zip(&certificates.trusted) {
            let path = folder.join(format!("cloud-config-{number}.crt"));
            write(&path, format!("{}\n", certificate.trim()).as_bytes(), 0o644, false)?;
        }
        if certificates.remove_defaults {
            write(&self.path("/etc/ca-certificates.conf"), b"", 0o644, false)?;
        }
        if self.is_running_system() {
            let update = Command::new("update-ca-certificates");
            if certificates.remove_defaults { update.arg("--fresh").run() } else { update.run() }?;
        }
        Ok(())
    }

    /// Runs a script of the cloud-config with the shell. The author of the cloud-config chose the shell. A script whose
    /// time is over is killed with the commands that it runs.
    fn shell(&self, script: &str, limit: Duration) -> Result<(), ChangeError> {
        let file = tempfile::Builder::new().prefix("ros-script-").tempfile().map_err(ChangeError::Script)?;
        file.as_file().write_all(script.as_bytes()).map_err(ChangeError::Script)?;
        Ok(Command::new("/bin/sh").arg(file.path()).run_visibly_within(limit)?)
    }
}

/// Writes a file and sets its mode, regardless of its previous mode and of the umask.
fn write(path: &Path, content: &[u8], mode: u32, append: bool) -> Result<(), PathError> {
    write_for(path, content, mode, append, None).map(drop)
}

/// The same with a user and a group. The mode is set last, because a change of owner removes setuid and setgid.
fn write_for(
    path: &Path,
    content: &[u8],
    mode: u32,
    append: bool,
    owner: Option<(u32, u32)>,
) -> Result<fs::File, PathError> {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    if append {
        options.append(true)
    } else {
        options.write(true).truncate(true)
    };
    let mut file = options.open(path).map_err(PathError::of("writing", path))?;
    file.write_all(content).map_err(PathError::of("writing", path))?;
    if let Some((user, group)) = owner {
        fchown(&file, Some(user), Some(group)).map_err(PathError::of("changing the owner of", path))?;
    }
    file.set_permissions(Permissions::from_mode(mode)).map_err(PathError::of("setting the mode of", path))?;
    Ok(file)
}

fn random_salt() -> Result<[u8; SALT_BYTES], Unspecified> {
    let mut salt = [0; SALT_BYTES];
    aws_lc_rs::rand::fill(&mut salt)?;
    Ok(salt)
}
