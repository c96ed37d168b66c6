//! The URL under which machines reach the operator, and whose certificate they see there: the first that exists.
//!
//! | URL                                                                | certificate that machines see        |
//! |--------------------------------------------------------------------|--------------------------------------|
//! | the URL given                                                      | the operator's, or that of `ROS_CA`  |
//! | Rancher's Setting `server-url`, with an ingress beside Rancher's  | Rancher's: Setting `cacerts`         |
//! | the address that the Service was given by a load balancer          | the operator's                       |
//! | the Service's name: reached from inside the cluster only           | the operator's                       |

use crate::kube::rancher_setting::rancher_setting;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::Api;

/// The options about the address.
#[derive(Clone, Debug, Default)]
pub struct AddressOptions {
    /// Such as `https://ros.example.org:8443`.
    pub server_url: Option<String>,
    /// Machines reach the operator under Rancher's URL, through an ingress beside Rancher's.
    pub beside_rancher: bool,
    /// Name of the operator's Service, in the operator's namespace.
    pub service: Option<String>,
    /// PEM of the authorities of a proxy that terminates TLS. Empty: the public ones.
    pub authorities: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Without a slash at the end.
    pub url: String,
    /// As in [`AddressOptions::authorities`]. `None`: machines see the operator's own certificate.
    pub authorities: Option<String>,
}

/// Why the address is not known.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("reading Rancher's Setting {name}")]
    Setting { name: &'static str, source: kube::Error },
    #[error("reading Service {service}")]
    Service { service: String, source: kube::Error },
    #[error(
        "there is no URL at which machines reach the operator: set --server-url (the chart's serverURL) or --service"
    )]
    NotGiven,
}

/// Rancher's Settings, if Rancher is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rancher {
    server_url: String,
    authorities: String,
}

#[derive(Clone)]
pub struct AddressFinder {
    client: Client,
    namespace: String,
    given: AddressOptions,
}

impl AddressFinder {
    pub fn new(client: Client, namespace: &str, given: AddressOptions) -> Self {
        Self { client, namespace: namespace.to_owned(), given }
    }

    /// Determines the address. Reads nothing if the URL is given.
    pub async fn find(&self) -> Result<Address, AddressError> {
        let given = &self.given;
        if given.server_url.is_some() {
            return choose(given, None, None, &self.namespace);
        }
        let rancher = if given.beside_rancher { self.rancher().await? } else { None };
        let service = match &given.service {
            Some(name) if rancher.is_none() => {
                let services = Api::<Service>::namespaced(self.client.clone(), &self.namespace);
                services.get_opt(name).await.map_err(|source| {
                    let service = format!("{}/{name}", self.namespace);
                    AddressError::Service { service, source }
                })?
            }
            _ => None,
        };
        choose(given, rancher, service.as_ref(), &self.namespace)
    }

    async fn rancher(&self) -> Result<Option<Rancher>, AddressError> {
        let setting = async |name: &'static str| {
            rancher_setting(&self.client, name).await.map_err(|source| AddressError::Setting { name, source })
        };
        let server_url = setting("server-url").await?;
        if server_url.is_empty() {
            return Ok(None);
        }
        Ok(Some(Rancher { server_url, authorities: setting("cacerts").await? }))
    }
}

fn choose(
    given: &AddressOptions,
    rancher: Option<Rancher>,
    service: Option<&Service>,
    namespace: &str,
) -> Result<Address, AddressError> {
    let (url, authorities) = match (&given.server_url, rancher, service) {
        (Some(url), _, _) => (url.clone(), None),
        (None, Some(rancher), _) => (rancher.server_url, Some(rancher.authorities)),
        (None, None, Some(service)) => (service_url(service, namespace), None),
        (None, None, None) => return Err(AddressError::NotGiven),
    };
    Ok(Address { url: url.trim_end_matches('/').to_owned(), authorities: given.authorities.clone().or(authorities) })
}

fn service_url(service: &Service, namespace: &str) -> String {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let outside = balancer.and_then(|balancer| {
        let first = balancer.ingress.as_ref()?.first()?;
        first.hostname.clone().or_else(|| first.ip.clone()).filter(|host| !host.is_empty())
    });
    let host = outside.unwrap_or_else(|| format!("{name}.{namespace}.svc"));
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    match ports.and_then(|ports| ports.first()).map(|port| port.port) {
        None | Some(443) => format!("https://{host}"),
        Some(port) => format!("https://{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::FakeApi;
    use serde_json::{Value, json};

    fn service(port: u16, ingress: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "ros"},
            "spec": {"ports": [{"port": port}]},
            "status": {"loadBalancer": {"ingress": ingress}},
        }))
        .unwrap()
    }
    fn url_of(service: &Service) -> String {
        choose(&AddressOptions::default(), None, Some(service), "ns").unwrap().url
    }

    #[test]
    fn a_service_has_the_address_of_its_load_balancer_or_its_name() {
        assert_eq!(url_of(&service(443, json!([{"ip": "192.0.2.1"}]))), "https://192.0.2.1");
        assert_eq!(url_of(&service(8443, json!([{"hostname": "lb.example.org"}]))), "https://lb.example.org:8443");
        assert_eq!(url_of(&service(443, json!([{"ip": "fd00::1"}]))), "https://[fd00::1]");
        assert_eq!(url_of(&service(443, json!([]))), "https://ros.ns.svc");
    }

    #[test]
    fn a_given_address_takes_precedence_and_a_missing_one_names_the_options() {
        let given = AddressOptions { server_url: Some("https://ros.example.org/".into()), ..AddressOptions::default() };
        let rancher = Rancher { server_url: "https://rancher.example.org".into(), authorities: "PEM".into() };
        let address = choose(&given, Some(rancher.clone()), None, "ns").unwrap();
        assert_eq!(address, Address { url: "https://ros.example.org".into(), authorities: None });
        let address = choose(&AddressOptions::default(), Some(rancher), None, "ns").unwrap();
        assert_eq!(address.authorities.as_deref(), Some("PEM"));
        let error = choose(&AddressOptions::default(), None, None, "ns").unwrap_err().to_string();
        assert!(error.contains("--server-url"), "{error}");
    }

    #[tokio::test]
    async fn ranchers_settings_are_read_if_rancher_is_installed() {
        let api = FakeApi::default();
        let given = AddressOptions { beside_rancher: true, service: Some("ros".into()), ..AddressOptions::default() };
        let finder = AddressFinder::new(api.client(), "ns", given);
        assert!(finder.find().await.is_err(), "neither Rancher nor the Service");
        api.install_rancher();
        for (name, value) in [("server-url", "https://rancher.example.org"), ("cacerts", "PEM")] {
            api.put(&format!("/apis/management.cattle.io/v3/settings/{name}"), json!({"value": value, "metadata": {}}));
        }
        let address = finder.find().await.unwrap();
        assert_eq!(address, Address { url: "https://rancher.example.org".into(), authorities: Some("PEM".into()) });
    }
}
