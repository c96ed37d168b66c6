//! Reads the documents with settings: the file of the medium, and the document at `configURL`.

use super::Digest;
use boot_contract::paths::{MEDIUM_REGISTRATION, OEM_REGISTRATION};
use cloud_config::CloudConfig;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Paths relative to the root: the settings on the medium of a live system, and the registration of an installed one.
pub const MEDIUM_FILE: &str = MEDIUM_REGISTRATION.split_at(1).1;
pub const INSTALLED_FILE: &str = OEM_REGISTRATION.split_at(1).1;
/// One byte above the limit is read, so that the parser refuses larger documents.
const READ_LIMIT: u64 = CloudConfig::MAX_DOCUMENT as u64 + 1;
/// Limit of one attempt to fetch a document.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{name} is not a valid cloud-config: {problem}; {remedy}")]
    Malformed { name: String, problem: String, remedy: &'static str },
    #[error("configURL {name}: {scheme}:// is not supported here; serve the document by http, https, or as file://")]
    Scheme { name: String, scheme: String },
    #[error("configURL {name} is not a valid URL: {problem}")]
    Address { name: String, problem: String },
    #[error(
        "configURL {name}: plain http does not protect the document; set its SHA-256 in configSHA256, or serve it by \
         https"
    )]
    Unprotected { name: String },
    #[error(
        "the document at configURL {name} does not have the SHA-256 in configSHA256; correct the document or \
         configSHA256"
    )]
    Digest { name: String },
    #[error("downloading {name}")]
    Fetch { name: String, source: reqwest::Error },
}

impl DocumentError {
    /// Whether a retry may succeed, because the network or the server may come up.
    pub fn may_succeed_later(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => source
                .status()
                .is_none_or(|status| status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)),
            Self::Digest { .. } => true,
            _ => false,
        }
    }
}

/// Reads a cloud-config from a file. `None` if the file is absent or holds only comments, as on a medium that was not
/// customised.
pub fn read(path: &Path) -> Result<Option<CloudConfig>, DocumentError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(READ_LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => parse(&name, &bytes, remedy(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DocumentError::Read { path: path.to_owned(), source }),
    }
}

/// Makes one attempt to fetch the document at `url`. `ca` is PEM of authorities to trust beside those of the system.
/// `digest` is that of the document. Without it nothing is accepted over plain http, not even after a redirection.
pub async fn fetch(url: &str, ca: Option<&str>, digest: Option<Digest>) -> Result<CloudConfig, DocumentError> {
    let malformed = |problem: String| DocumentError::Address { name: without_secrets(url), problem };
    let parsed = reqwest::Url::parse(url).map_err(|error| malformed(error.to_string()))?;
    let name = without_secrets(url);
    let bytes = match parsed.scheme() {
        "file" => {
            let path = parsed.to_file_path().map_err(|()| malformed("it has no path of a file".to_owned()))?;
            let found = read(&path)?;
            let problem = "it is absent or empty".to_owned();
            return found.ok_or_else(|| DocumentError::Malformed { name, problem, remedy: remedy(&path) });
        }
        "http" if digest.is_none() => return Err(DocumentError::Unprotected { name }),
        "http" | "https" => download(parsed, ca, digest.is_some()).await.map_err(|source| {
            // The address in the source may hold a password. The message shows ours, without it.
            DocumentError::Fetch { name: name.clone(), source: source.without_url() }
        })?,
        scheme => return Err(DocumentError::Scheme { name, scheme: scheme.to_owned() }),
    };
    if digest.is_some_and(|digest| digest != Digest::of(&bytes)) {
        return Err(DocumentError::Digest { name });
    }
    const REMEDY: &str = "correct it at this address, then start this machine again";
    let document = parse(&name, &bytes, REMEDY)?;
    document.ok_or_else(|| DocumentError::Malformed { name, problem: "it is empty".to_owned(), remedy: REMEDY })
}

/// Whether the document at `url` is on another machine.
pub fn needs_network(url: &str) -> bool {
    !url.starts_with("file:")
}

/// What to do about a file that cannot be used.
fn remedy(path: &Path) -> &'static str {
    if path.ends_with(MEDIUM_FILE) {
        "put corrected settings into the medium with `ros-image customize`, then start this machine again"
    } else {
        "correct the file, then try again"
    }
}

/// Makes one attempt to fetch text.
pub async fn download_text(url: &str, ca: Option<&str>) -> Result<String, DocumentError> {
    let name = without_secrets(url);
    let parsed = reqwest::Url::parse(url)
        .map_err(|error| DocumentError::Address { name: name.clone(), problem: error.to_string() })?;
    let bytes = download(parsed, ca, false)
        .await
        .map_err(|source| DocumentError::Fetch { name, source: source.without_url() })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn download(url: reqwest::Url, ca: Option<&str>, by_plain_http: bool) -> Result<Vec<u8>, reqwest::Error> {
    let mut client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).https_only(!by_plain_http);
    if let Some(pem) = ca {
        client = client.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
    }
    let mut response = client.build()?.get(url).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 >= READ_LIMIT {
            break;
        }
    }
    Ok(bytes)
}

fn parse(name: &str, bytes: &[u8], remedy: &'static str) -> Result<Option<CloudConfig>, DocumentError> {
    let malformed = |problem: String| DocumentError::Malformed { name: name.to_owned(), problem, remedy };
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let document = CloudConfig::parse(text).map_err(|error| malformed(error.to_string()))?;
    Ok(Some(document).filter(|document| !document.0.is_empty()))
}

/// The address without user, password, query and fragment, so that it may be shown.
pub fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(url: &str) -> Result<CloudConfig, DocumentError> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(fetch(url, None, None))
    }

    #[test]
    fn an_uncustomised_medium_says_nothing_and_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registration.yaml");
        assert_eq!(read(&path).unwrap(), None);
        std::fs::write(&path, "#cloud-config\n".to_owned() + &"\n".repeat(65_000)).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        std::fs::write(&path, "#cloud-config\nrancheros: {install: {automatic: true}}\n\n\n").unwrap();
        assert_eq!(read(&path).unwrap().unwrap().0["rancheros"]["install"]["automatic"], true);
        for broken in ["a: [", "just words", "- a list", "\u{0}"] {
            std::fs::write(&path, broken).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("registration.yaml is not a valid cloud-config"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_comes_by_plain_http_is_taken_for_its_digest_only() {
        const DOCUMENT: &str = "hostname: h\n";
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/c.yaml", listener.local_addr().unwrap());
        let error = fetch(&url, None, None).await.unwrap_err();
        assert!(error.to_string().contains("configSHA256") && !error.may_succeed_later(), "{error}");
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                assert!(connection.read(&mut [0; 4096]).unwrap() > 0);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{DOCUMENT}",
                    DOCUMENT.len()
                );
                std::io::Write::write_all(&mut connection, answer.as_bytes()).unwrap();
            }
        });
        let right = fetch(&url, None, Some(Digest::of(DOCUMENT.as_bytes()))).await.unwrap();
        assert_eq!(right.0["hostname"], "h");
        let wrong = fetch(&url, None, Some(Digest::of(b"another"))).await.unwrap_err();
        assert!(matches!(wrong, DocumentError::Digest { .. }) && wrong.may_succeed_later(), "{wrong}");
    }

    #[test]
    fn a_file_address_is_read_and_other_schemes_name_the_alternative() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.yaml"), "hostname: h\n").unwrap();
        let url = format!("file://{}/c.yaml", folder.path().display());
        assert_eq!(fetched(&url).unwrap().0["hostname"], "h");
        let error = fetched("tftp://user:secret@10.0.0.1/c?token=x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "configURL tftp://10.0.0.1/c: tftp:// is not supported here; serve the document by http, https, or as file://"
        );
        assert!(!error.may_succeed_later());
    }
}
