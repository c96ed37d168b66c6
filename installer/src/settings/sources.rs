//! Fetches the document with settings at `configURL`.

use super::Digest;
use super::document::{DocumentError, READ_LIMIT, parse, read, remedy};
use cloud_config::CloudConfig;
use registry::Proxy;
use std::time::Duration;

/// Limit of one attempt to fetch a document.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Document(#[from] DocumentError),
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

impl FetchError {
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

/// Makes one attempt to fetch the document at `url`. `ca` is PEM of authorities to trust beside those of the system.
/// `digest` is that of the document. Without it nothing is accepted over plain http, not even after a redirection. Without a
/// proxy the variables of the environment count.
pub async fn fetch(
    url: &str,
    ca: Option<&str>,
    proxy: Option<&Proxy>,
    digest: Option<Digest>,
) -> Result<CloudConfig, FetchError> {
    let malformed = |problem: String| FetchError::Address { name: without_secrets(url), problem };
    let parsed = reqwest::Url::parse(url).map_err(|error| malformed(error.to_string()))?;
    let name = without_secrets(url);
    let bytes = match parsed.scheme() {
        "file" => {
            let path = parsed.to_file_path().map_err(|()| malformed("it has no path of a file".to_owned()))?;
            let found = read(&path)?;
            let problem = "it is absent or empty".to_owned();
            return found.ok_or_else(|| DocumentError::Malformed { name, problem, remedy: remedy(&path) }.into());
        }
        "http" if digest.is_none() => return Err(FetchError::Unprotected { name }),
        "http" | "https" => download(parsed, ca, proxy, digest.is_some()).await.map_err(|source| {
            // The address in the source may hold a password. The message shows ours, without it.
            FetchError::Fetch { name: name.clone(), source: source.without_url() }
        })?,
        scheme => return Err(FetchError::Scheme { name, scheme: scheme.to_owned() }),
    };
    if digest.is_some_and(|digest| digest != Digest::of(&bytes)) {
        return Err(FetchError::Digest { name });
    }
    const REMEDY: &str = "correct it at this address, then start this machine again";
    let document = parse(&name, &bytes, REMEDY)?;
    document.ok_or_else(|| DocumentError::Malformed { name, problem: "it is empty".to_owned(), remedy: REMEDY }.into())
}

/// Whether the document at `url` is on another machine.
pub fn needs_network(url: &str) -> bool {
    !url.starts_with("file:")
}

/// Makes one attempt to fetch text.
pub async fn download_text(url: &str, proxy: Option<&Proxy>) -> Result<String, FetchError> {
    let name = without_secrets(url);
    let parsed = reqwest::Url::parse(url)
        .map_err(|error| FetchError::Address { name: name.clone(), problem: error.to_string() })?;
    let bytes = download(parsed, None, proxy, false)
        .await
        .map_err(|source| FetchError::Fetch { name, source: source.without_url() })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn download(
    url: reqwest::Url,
    ca: Option<&str>,
    proxy: Option<&Proxy>,
    by_plain_http: bool,
) -> Result<Vec<u8>, reqwest::Error> {
    let mut client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).https_only(!by_plain_http);
    if let Some(proxy) = proxy {
        client = client.proxy(proxy.for_reqwest()?);
    }
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
    use std::io::Read;

    fn fetched(url: &str) -> Result<CloudConfig, FetchError> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(fetch(url, None, None, None))
    }

    #[tokio::test]
    async fn what_comes_by_plain_http_is_taken_for_its_digest_only() {
        const DOCUMENT: &str = "hostname: h\n";
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/c.yaml", listener.local_addr().unwrap());
        let error = fetch(&url, None, None, None).await.unwrap_err();
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
        let right = fetch(&url, None, None, Some(Digest::of(DOCUMENT.as_bytes()))).await.unwrap();
        assert_eq!(right.0["hostname"], "h");
        let wrong = fetch(&url, None, None, Some(Digest::of(b"another"))).await.unwrap_err();
        assert!(matches!(wrong, FetchError::Digest { .. }) && wrong.may_succeed_later(), "{wrong}");
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
