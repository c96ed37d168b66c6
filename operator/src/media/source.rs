//! The source of base media: a file or a folder, and a URL from which a medium is fetched into the folder once at the
//! start.

use super::base_medium::is_name;
use aws_lc_rs::digest::{Context, SHA256};
use release::digest;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tokio::task;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// An attempt without a byte for this long fails.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest medium in bytes. A medium has some hundred MB, and a wrong URL must not fill the disk of a node.
const LARGEST: u64 = 8 << 30;

/// Where base media come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// A file, or a folder whose `*.iso` files are served.
    pub path: PathBuf,
    /// A medium to fetch into the folder first.
    pub origin: Option<Origin>,
}

/// A checked URL, and the digest of the medium. `Debug` hides possible credentials.
#[derive(Clone)]
pub struct Origin {
    url: reqwest::Url,
    sha256: String,
    /// The last segment of the URL: the file name of the medium.
    name: String,
}

/// Why a medium cannot be fetched from where the options say.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error("parsing the medium's URL")]
    Url(#[source] <reqwest::Url as FromStr>::Err),
    #[error("the medium's URL starts with neither http:// nor https://")]
    Scheme,
    #[error("the medium's URL ends in {0:?}; it must end in a file name such as ros.iso")]
    FileName(String),
    #[error("the medium's SHA-256 must be 64 hex digits, as sha256sum prints them")]
    Digest,
}

/// Why a medium was not fetched. The caller names the URL, without possible secrets.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("creating an HTTP client")]
    Client(#[source] reqwest::Error),
    #[error("requesting the file")]
    Ask(#[source] reqwest::Error),
    #[error("receiving the file")]
    Receive(#[source] reqwest::Error),
    #[error("the file has more than {LARGEST} bytes")]
    TooLarge,
    #[error("the file has the SHA-256 {actual} instead of {expected}")]
    Digest { actual: String, expected: String },
    #[error("writing {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("renaming the download to {}", .0.display())]
    Rename(PathBuf, #[source] io::Error),
}

impl Origin {
    /// `sha256` in hex, as `sha256sum` prints it.
    pub fn new(url: &str, sha256: &str) -> Result<Self, OriginError> {
        let url: reqwest::Url = url.parse().map_err(OriginError::Url)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(OriginError::Scheme);
        }
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
        if !is_name(&name) {
            return Err(OriginError::FileName(name));
        }
        let sha256 = sha256.to_ascii_lowercase();
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_digest { Ok(Self { url, sha256, name }) } else { Err(OriginError::Digest) }
    }

    /// The URL for logs, without user, password and query.
    pub fn shown(&self) -> String {
        format!("{}://{}{}", self.url.scheme(), self.url.host_str().unwrap_or_default(), self.url.path())
    }

    /// Fetches the medium into the folder and checks its digest. A medium from before a restart is not fetched again.
    pub async fn fetch_into(&self, folder: &Path) -> Result<(), FetchError> {
        let path = folder.join(&self.name);
        if let Ok(file) = File::open(&path).await
            && sha256(file).await.map_err(|error| FetchError::Read(path.clone(), error))? == self.sha256
        {
            return Ok(());
        }
        tracing::info!(url = self.shown(), "downloading a medium");
        let part = folder.join(format!("{}.part", self.name));
        let fetched = self.download(&part).await;
        if fetched.is_err() {
            // Frees the space for the next attempt. An error here would hide the first one.
            let _ = fs::remove_file(&part).await;
        }
        fetched?;
        fs::rename(&part, &path).await.map_err(|error| FetchError::Rename(path, error))
    }

    async fn download(&self, part: &Path) -> Result<(), FetchError> {
        let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
        let answer = client.map_err(FetchError::Client)?.get(self.url.clone()).send().await;
        // The caller logs the URL, without possible secrets.
        let answer = answer.and_then(reqwest::Response::error_for_status).map_err(reqwest::Error::without_url);
        let mut answer = answer.map_err(FetchError::Ask)?;
        let unwritten = |error| FetchError::Write(part.to_owned(), error);
        let mut file = File::create(part).await.map_err(unwritten)?;
        let mut context = Context::new(&SHA256);
        let mut size = 0;
        let lost = |error: reqwest::Error| FetchError::Receive(error.without_url());
        while let Some(bytes) = answer.chunk().await.map_err(lost)? {
            size += bytes.len() as u64;
            if size > LARGEST {
                return Err(FetchError::TooLarge);
            }
            context.update(&bytes);
            file.write_all(&bytes).await.map_err(unwritten)?;
        }
        file.flush().await.map_err(unwritten)?;
        let actual = hex::encode(context.finish());
        if actual != self.sha256 {
            return Err(FetchError::Digest { actual, expected: self.sha256.clone() });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

async fn sha256(file: File) -> io::Result<String> {
    let file = file.into_std().await;
    let (digest, _) = task::spawn_blocking(|| digest::of_reader(file)).await??;
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::extract::State;
    use axum::routing::get;
    use protocol::error_chain;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpListener;

    const CONTENT: &[u8] = b"a medium";

    /// Serves one medium. Returns its URL and the number of requests for it.
    async fn serve() -> (String, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let give = |State(asked): State<Arc<AtomicUsize>>| async move {
            asked.fetch_add(1, Ordering::SeqCst);
            CONTENT
        };
        let router = Router::new().route("/media/a.iso", get(give)).with_state(asked.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/media/a.iso?token=s3cret", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, asked)
    }

    #[tokio::test]
    async fn a_medium_is_fetched_once_and_only_with_its_digest() {
        let (url, asked) = serve().await;
        let folder = tempfile::tempdir().unwrap();
        let fetch = async |url: &str, sha256: &str| Origin::new(url, sha256).unwrap().fetch_into(folder.path()).await;
        let good = digest::of_bytes(CONTENT);
        let error = error_chain(&fetch(&url, &"0".repeat(64)).await.unwrap_err());
        assert!(error.contains(&good), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays of what is wrong");
        for _ in 0..2 {
            fetch(&url, &good.to_uppercase()).await.unwrap();
            assert_eq!(std::fs::read(folder.path().join("a.iso")).unwrap(), CONTENT);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let missing = url.replace("/media/", "/nothing/");
        std::fs::remove_file(folder.path().join("a.iso")).unwrap();
        let error = error_chain(&fetch(&missing, &good).await.unwrap_err());
        assert!(error.contains("404") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_url_names_a_medium_and_its_credentials_are_not_shown() {
        let digest = "ab".repeat(32);
        let origin = Origin::new("https://user:s3cret@a.test/x/ros-1.iso?sig=s3cret", &digest).unwrap();
        assert_eq!((origin.name.as_str(), format!("{origin:?}").as_str()), ("ros-1.iso", "https://a.test/x/ros-1.iso"));
        for (url, sha256, told) in [
            ("https://a.test/", digest.as_str(), "must end in a file name"),
            ("https://a.test/a%20b.iso", &digest, "must end in a file name"),
            ("ftp://a.test/a.iso", &digest, "neither http://"),
            ("a.iso", &digest, "the medium's URL"),
            ("https://a.test/a.iso", "abc", "64 hex digits"),
        ] {
            let error = error_chain(&Origin::new(url, sha256).unwrap_err());
            assert!(error.contains(told), "{url}: {error}");
        }
    }
}
