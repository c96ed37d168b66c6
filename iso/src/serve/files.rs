//! The files that are served: those of a network boot, and `undionly.kpxe`. Nothing of an ISO is copied: its files are
//! parts of it, and are read when they are sent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use media::composed::Composed;
use media::iso9660::{Extent, Volume};
use media::network_set::{
    GRUB_SCRIPT, GRUB_START, IPXE_SCRIPT, NetworkSet, NetworkSetError, REGISTRATION_ARCHIVE, grub_script, grub_start,
    ipxe_script, registration_archive,
};
use thiserror::Error;

use super::architecture::{IPXE_REFUSAL, ipxe_refusal};

/// iPXE for network cards without it, from Debian's package `ipxe`. It uses the driver in the card.
pub const UNDIONLY: &str = "undionly.kpxe";
/// `undionly.kpxe` has 70 kB.
const UNDIONLY_LIMIT: u64 = 1 << 20;

/// Where the files of a network boot are.
#[derive(Debug)]
pub enum Source<'a> {
    Iso(&'a Path),
    /// A folder that `ros-image build` or `customize` has written.
    Folder(&'a Path),
}

#[derive(Debug, Error)]
pub enum FilesError {
    #[error("opening {}", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("reading {}", .path.display())]
    Set { path: PathBuf, source: NetworkSetError },
    #[error("archiving the settings")]
    Archive(#[source] io::Error),
    #[error("{} is larger than 1 MiB, so it is not {UNDIONLY}", .0.display())]
    NotUndionly(PathBuf),
}

/// All files that are served, by their paths without a slash at the beginning.
#[derive(Debug)]
pub struct Files(BTreeMap<&'static str, ServedFile>);

/// One file. Its clones share the content.
#[derive(Clone, Debug)]
pub struct ServedFile {
    pub name: &'static str,
    content: Arc<Composed>,
    /// `None`: the content is in memory.
    source: Option<Arc<File>>,
}

impl Files {
    /// `registration`: the text of the settings. In a folder, `None` stands for those that are in it. `http`: the address
    /// of the HTTP server, from which GRUB loads the large files.
    pub fn open(source: &Source, registration: Option<&str>, http: SocketAddrV4) -> Result<Self, FilesError> {
        let mut files = Self(BTreeMap::new());
        match source {
            Source::Iso(path) => files.add_iso(path, http)?,
            Source::Folder(path) => files.add_folder(path)?,
        }
        files.add_text(GRUB_START, &grub_start());
        files.add_text(IPXE_REFUSAL, &ipxe_refusal());
        if let Some(text) = registration {
            files.add(REGISTRATION_ARCHIVE, registration_archive(text.as_bytes()).map_err(FilesError::Archive)?);
        }
        Ok(files)
    }

    fn add_iso(&mut self, path: &Path, http: SocketAddrV4) -> Result<(), FilesError> {
        let opening = |source| FilesError::Open { path: path.to_owned(), source };
        let file = Arc::new(File::open(path).map_err(opening)?);
        let set = Volume::open(&*file).map_err(Into::into).and_then(|mut volume| NetworkSet::of_iso(&mut volume));
        let set = set.map_err(|source| FilesError::Set { path: path.to_owned(), source })?;
        for name in NetworkSet::FILES {
            let Some(content) = set.file(name) else { continue };
            let content = Arc::new(content.clone());
            self.0.insert(name, ServedFile { name, content, source: Some(file.clone()) });
        }
        self.add_text(IPXE_SCRIPT, &ipxe_script("", &set.arguments));
        // In a virtual machine GRUB took 58 s by TFTP, which waits for an answer to each kilobyte, and 36 s by HTTP.
        self.add_text(GRUB_SCRIPT, &grub_script(&format!("(http,{http})/"), &set.arguments));
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), FilesError> {
        for name in NetworkSet::FILES.into_iter().chain([IPXE_SCRIPT, GRUB_SCRIPT, REGISTRATION_ARCHIVE]) {
            let path = folder.join(name);
            let opening = |source| FilesError::Open { path: path.clone(), source };
            let file = File::open(&path).map_err(opening)?;
            let size = file.metadata().map_err(opening)?.len();
            let content = Arc::new(Composed::from(Extent { offset: 0, size }));
            self.0.insert(name, ServedFile { name, content, source: Some(file.into()) });
        }
        Ok(())
    }

    /// Adds [`UNDIONLY`] from this file.
    pub fn add_undionly(&mut self, path: &Path) -> Result<(), FilesError> {
        let opening = |source| FilesError::Open { path: path.to_owned(), source };
        let mut content = Vec::new();
        File::open(path).map_err(opening)?.take(UNDIONLY_LIMIT + 1).read_to_end(&mut content).map_err(opening)?;
        if content.len() as u64 > UNDIONLY_LIMIT {
            return Err(FilesError::NotUndionly(path.to_owned()));
        }
        self.add(UNDIONLY, content);
        Ok(())
    }

    fn add_text(&mut self, name: &'static str, text: &str) {
        self.add(name, text.as_bytes().to_vec());
    }

    fn add(&mut self, name: &'static str, bytes: Vec<u8>) {
        let mut content = Composed::default();
        content.push_bytes(&bytes);
        self.0.insert(name, ServedFile { name, content: content.into(), source: None });
    }

    /// The file at a path of a request. Shim doubles the first slash, and some firmware writes backslashes.
    pub fn find(&self, path: &str) -> Option<&ServedFile> {
        self.0.get(path.trim_start_matches(['/', '\\']).replace('\\', "/").as_str())
    }
}

impl ServedFile {
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.content.size()
    }

    /// Reads the bytes of `range`, which lies within the size.
    pub fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.content.read(range, |part| {
            let source = self.source.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let mut bytes = vec![0; (part.end - part.start) as usize];
            source.read_exact_at(&mut bytes, part.start)?;
            Ok(bytes)
        })
    }
}

/// Whether the folder has its own settings. An archive with empty settings is small.
pub fn has_settings(folder: &Path) -> bool {
    let empty = registration_archive(&[]).map_or(0, |archive| archive.len() as u64);
    fs::metadata(folder.join(REGISTRATION_ARCHIVE)).is_ok_and(|archive| archive.len() > empty)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use media::network_set::SHIM;

    const HTTP: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(192, 0, 2, 1), 8080);

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in NetworkSet::FILES.into_iter().chain([IPXE_SCRIPT, GRUB_SCRIPT]) {
            fs::write(folder.path().join(name), format!("content of {name}")).unwrap();
        }
        fs::write(folder.path().join(REGISTRATION_ARCHIVE), registration_archive(&[]).unwrap()).unwrap();
        folder
    }

    /// The files of such a folder, which is deleted; they stay open.
    pub(crate) fn files() -> Files {
        Files::open(&Source::Folder(folder().path()), None, HTTP).unwrap()
    }

    fn text(files: &Files, path: &str) -> Option<String> {
        let file = files.find(path)?;
        Some(String::from_utf8(file.read(0..file.size()).unwrap()).unwrap())
    }

    #[test]
    fn paths_are_those_that_firmware_and_boot_loaders_write() {
        let folder = folder();
        let files = Files::open(&Source::Folder(folder.path()), None, HTTP).unwrap();
        for path in ["shimx64.efi", "/shimx64.efi", "//shimx64.efi", "\\shimx64.efi"] {
            assert_eq!(text(&files, path).unwrap(), format!("content of {SHIM}"), "{path}");
        }
        assert_eq!(text(&files, "/grub/grub.cfg").unwrap(), grub_start());
        assert_eq!(text(&files, "\\grub\\grub.cfg").unwrap(), grub_start());
        for path in ["", "/", "/etc/passwd", "../shimx64.efi", "/grub", "grub/../shimx64.efi", "SHIMX64.EFI"] {
            assert!(files.find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn settings_that_are_given_take_the_place_of_those_in_the_folder() {
        let folder = folder();
        let source = Source::Folder(folder.path());
        assert!(!has_settings(folder.path()));
        let files = Files::open(&source, Some("a: 1\n"), HTTP).unwrap();
        assert_eq!(text(&files, REGISTRATION_ARCHIVE).unwrap().as_bytes(), registration_archive(b"a: 1\n").unwrap());
        fs::write(folder.path().join(REGISTRATION_ARCHIVE), registration_archive(b"b: 1\n").unwrap()).unwrap();
        assert!(has_settings(folder.path()));
        let files = Files::open(&source, None, HTTP).unwrap();
        assert_eq!(text(&files, REGISTRATION_ARCHIVE).unwrap().as_bytes(), registration_archive(b"b: 1\n").unwrap());
    }

    #[test]
    fn undionly_is_small() {
        let folder = folder();
        let path = folder.path().join(UNDIONLY);
        let mut files = Files::open(&Source::Folder(folder.path()), None, HTTP).unwrap();
        assert!(matches!(files.add_undionly(&path), Err(FilesError::Open { .. })));
        fs::write(&path, "iPXE").unwrap();
        files.add_undionly(&path).unwrap();
        assert_eq!(text(&files, UNDIONLY).unwrap(), "iPXE");
        File::create(&path).unwrap().set_len(UNDIONLY_LIMIT + 1).unwrap();
        assert!(matches!(files.add_undionly(&path), Err(FilesError::NotUndionly(_))));
    }
}
