//! The files on COS_OEM, with which the installed system configures itself.

use crate::settings::Settings;
use cloud_config::CloudConfig;
use cloud_config::normal_key;
use disk::plan::ConfigFile;
use serde_json::{Map, Value, json};

/// File that `ros-installer apply` reads at each boot.
pub const CLOUD_CONFIG: &str = "cloud-config.yaml";
/// File in which `ros-installer report` finds its operator.
pub const REGISTRATION: &str = "registration.yaml";

/// The files of COS_OEM: the cloud-config without the keys for the installer, and the registration if there is one. `network`:
/// files, path and content, for a system whose cloud-config says nothing about the network. `image`: the cloud-config of the
/// image, over which this one is laid.
pub fn files(
    settings: &Settings,
    cloud_config: &CloudConfig,
    network: &[(String, String)],
    image: &CloudConfig,
) -> Vec<ConfigFile> {
    let mut document = installed(settings, cloud_config);
    let is_said = document.0.contains_key("network") || image.0.contains_key("network");
    if !network.is_empty() && !is_said {
        let more =
            network.iter().map(|(path, content)| json!({"path": path, "content": content, "permissions": "0644"}));
        // A list of this document stands for that of the image, so it begins with what the image has.
        let of_image = || image.0.get("write_files").cloned().unwrap_or_else(|| json!([]));
        // A value that is no list cannot be applied, which is told elsewhere.
        if let Value::Array(files) = document.0.entry("write_files").or_insert_with(of_image) {
            files.extend(more);
        }
    }
    let mut files = vec![file(CLOUD_CONFIG, document)];
    if let Some(url) = &*settings.registration_url {
        let mut install = Map::from_iter([("registrationURL".to_owned(), Value::from(url.as_str()))]);
        if let Some(certificate) = &*settings.registration_ca_cert {
            install.insert("registrationCACert".into(), certificate.as_str().into());
        }
        if let Some(secret) = &*settings.registration_secret {
            install.insert("registrationSecret".into(), secret.expose().into());
        }
        if let Some(proxy) = &*settings.proxy {
            install.insert("proxy".into(), proxy.expose().into());
        }
        if let Some(except) = &*settings.no_proxy {
            install.insert("noProxy".into(), except.as_str().into());
        }
        let document = Map::from_iter([("rancheros".to_owned(), json!({ "install": install }))]);
        files.push(file(REGISTRATION, CloudConfig(document)));
    }
    files
}

fn installed(settings: &Settings, cloud_config: &CloudConfig) -> CloudConfig {
    let mut document = cloud_config.0.clone();
    if let Some(Value::Object(rancheros)) = document.get_mut("rancheros") {
        rancheros.retain(|key, _| normal_key(key) != "install");
        if rancheros.is_empty() {
            document.remove("rancheros");
        }
    }
    // A password in the cloud-config overrides the installer's setting, because it is newer.
    if let Some(password) = settings.password.as_ref().filter(|_| !document.contains_key("password")) {
        document.insert("password".into(), password.expose().into());
    }
    CloudConfig(document)
}

fn file(name: &str, content: CloudConfig) -> ConfigFile {
    ConfigFile::new(name, content.to_yaml())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Secret, Setting, Source};

    fn parsed(file: &ConfigFile) -> Value {
        Value::Object(CloudConfig::parse(file.content()).unwrap().0)
    }

    #[test]
    fn the_installers_own_keys_stay_behind() {
        let config: CloudConfig =
            serde_yaml::from_str("hostname: h\nrancheros:\n  install: {password: p, device: /dev/vda}").unwrap();
        let files = files(&Settings::default(), &config, &[], &CloudConfig::default());
        assert_eq!(files.len(), 1);
        assert_eq!(parsed(&files[0]), json!({"hostname": "h"}));
    }

    #[test]
    fn the_network_of_the_kernel_line_is_kept_unless_the_cloud_config_has_one() {
        let network = [("/etc/systemd/network/70-eth0.network".to_owned(), "[Match]\n".to_owned())];
        let over = |image: &str, text: &str| {
            let [image, own] = [image, text].map(|text| CloudConfig::parse(text).unwrap());
            parsed(&files(&Settings::default(), &own, &network, &image)[0])["write_files"].take()
        };
        let of = |text: &str| over("", text);
        let added = json!({"path": network[0].0, "content": network[0].1, "permissions": "0644"});
        assert_eq!(of("write_files: [{path: /a, content: b}]"), json!([{"path": "/a", "content": "b"}, added]));
        assert_eq!(of("hostname: h"), json!([added]));
        assert_eq!(of("network: {version: 2}"), Value::Null);
        assert_eq!(over("network: {version: 2}", "hostname: h"), Value::Null);
        let image = "write_files: [{path: /of/image, content: c}]";
        assert_eq!(over(image, "hostname: h"), json!([{"path": "/of/image", "content": "c"}, added]));
    }

    #[test]
    fn registration_and_password_come_from_the_settings() {
        let settings = Settings {
            registration_url: Setting::new(Some("https://h/x".into()), Source::Medium),
            registration_ca_cert: Setting::new(Some("PEM\nPEM\n".into()), Source::Medium),
            registration_secret: Setting::new(Some(Secret::new("s3cret")), Source::Medium),
            proxy: Setting::new(Some(Secret::new("http://p:3128")), Source::KernelCommandLine),
            no_proxy: Setting::new(Some("10.0.0.0/8".into()), Source::KernelCommandLine),
            password: Setting::new(Some(Secret::new("$6$hash")), Source::Answer),
            ..Settings::default()
        };
        let files = files(&settings, &CloudConfig::default(), &[], &CloudConfig::default());
        assert_eq!(parsed(&files[0]), json!({"password": "$6$hash"}));
        let install = json!({"registrationURL": "https://h/x", "registrationCACert": "PEM\nPEM\n",
            "registrationSecret": "s3cret", "proxy": "http://p:3128", "noProxy": "10.0.0.0/8"});
        assert_eq!(parsed(&files[1]), json!({"rancheros": {"install": install}}));
    }
}
