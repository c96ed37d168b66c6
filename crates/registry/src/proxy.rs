//! A proxy for requests to registries and other servers.

use http::Uri;
use std::fmt;

/// Hosts that are never asked through a proxy: this machine.
const ITSELF: &str = "localhost,127.0.0.0/8,::1";

/// A proxy for HTTP and HTTPS, and what is reached without it. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    url: String,
    except: String,
}

impl Proxy {
    /// `url`: `http://[USER:PASSWORD@]HOST[:PORT]`. `except`: names, of which those below count as well, addresses and networks,
    /// with commas, as curl reads `NO_PROXY`. An error says what the URL must be.
    pub fn new(url: &str, except: &str) -> Result<Self, &'static str> {
        const FORM: &str = "http://[USER:PASSWORD@]HOST[:PORT]";
        let parsed: Uri = url.parse().map_err(|_| FORM)?;
        let is_bare = matches!(parsed.path(), "" | "/") && parsed.query().is_none();
        let has_host = parsed.host().is_some_and(|host| !host.is_empty());
        if parsed.scheme_str() != Some("http") || !is_bare || !has_host {
            return Err(FORM);
        }
        let except = [except.trim(), ITSELF].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
        Ok(Self { url: url.to_owned(), except })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What is reached without it, as curl reads `NO_PROXY`.
    pub fn except(&self) -> &str {
        &self.except
    }

    pub fn for_reqwest(&self) -> reqwest::Result<reqwest::Proxy> {
        let except = reqwest::NoProxy::from_string(&self.except);
        Ok(reqwest::Proxy::all(&self.url)?.no_proxy(except))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.rsplit(['@', '/']).find(|part| !part.is_empty()).unwrap_or_default();
        f.debug_struct("Proxy").field("host", &host).field("except", &self.except).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_host_and_shows_no_password() {
        let proxy = Proxy::new("http://me:s3cret@proxy.example.org:3128", "10.0.0.0/8, .svc").unwrap();
        let shown = format!("{proxy:?}");
        assert!(shown.contains("proxy.example.org:3128") && !shown.contains("s3cret"), "{shown}");
        assert_eq!(proxy.except(), "10.0.0.0/8, .svc,localhost,127.0.0.0/8,::1");
        assert!(Proxy::new("http://[fd00::1]:3128/", "").is_ok());
        for bad in
            ["", "proxy:3128", "https://proxy", "socks5://proxy", "http://proxy/path", "http://proxy?x", "http://"]
        {
            assert!(Proxy::new(bad, "").is_err(), "{bad}");
        }
    }
}
