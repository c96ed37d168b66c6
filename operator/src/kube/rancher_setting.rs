//! Rancher's settings: objects of the kind Setting of `management.cattle.io/v3`, only read.

use super::absence::is_absent;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;

/// The value of a Setting. Empty if there is none, or no Rancher.
pub async fn rancher_setting(client: &Client, name: &str) -> kube::Result<String> {
    let kind = GroupVersionKind::gvk("management.cattle.io", "v3", "Setting");
    let settings = ApiResource::from_gvk_with_plural(&kind, "settings");
    let setting = match Api::<DynamicObject>::all_with(client.clone(), &settings).get(name).await {
        Ok(setting) => setting.data,
        Err(kube::Error::Api(status)) if is_absent(&status) => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let text = |key: &str| setting.get(key).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
    Ok(text("value").or(text("default")).unwrap_or_default().to_owned())
}
