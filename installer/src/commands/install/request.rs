//! Makes the request for an installation from the settings and the cloud-config.

use crate::commands::network::of_kernel_line;
use crate::provision::{self, oem};
use crate::settings::{Setting, Settings, Source};
use cloud_config::CloudConfig;
use cloud_config::keys::unapplied;
use disk::plan::{Choice, Request};
use protocol::error_chain;
use std::path::Path;

/// `cloud_config` is merged from all its sources. `network` and `image` are as [`oem::files`] takes them.
pub fn request(
    settings: &Settings,
    cloud_config: &CloudConfig,
    network: &[(String, String)],
    image: &CloudConfig,
) -> Request {
    Request {
        device: choice(&settings.device),
        selector: choice(&settings.device_selector),
        wipe: *settings.wipe,
        erase_own_system: settings.wipe.source == Source::Answer,
        uefi_only: choice(&settings.force_efi),
        keep_partitions: choice(&settings.no_format),
        console: settings.tty.value.clone(),
        image: None,
        power_off: *settings.power_off,
        configuration: oem::files(settings, cloud_config, network, image),
        warnings: unapplied(cloud_config).iter().map(ToString::to_string).collect(),
    }
}

/// The request on the running machine, with the network that its kernel line asked for.
pub fn on_machine(root: &Path, settings: &Settings, cloud_config: &CloudConfig) -> Request {
    let image = provision::of_image(root).unwrap_or_else(|error| {
        // The installed system says so as well.
        tracing::warn!("{}", error_chain(&error));
        None
    });
    request(settings, cloud_config, &of_kernel_line(root), &image.unwrap_or_default())
}

fn choice<T: Clone>(setting: &Setting<T>) -> Choice<T> {
    Choice::new(setting.value.clone(), setting.source.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;
    use disk::fixtures::{blank_disk, plan_for};

    #[test]
    fn only_a_person_at_the_console_erases_the_machines_own_system() {
        let wiping = |source| Settings { wipe: Setting::new(true, source), ..Settings::default() };
        for (source, expected) in [(Source::Medium, false), (Source::Operator, false), (Source::Answer, true)] {
            let request = request(&wiping(source), &CloudConfig::default(), &[], &CloudConfig::default());
            assert_eq!((request.wipe, request.erase_own_system), (true, expected));
        }
    }

    #[test]
    fn a_plan_names_the_source_of_a_setting_and_hides_secrets() {
        let settings = Settings {
            registration_url: Setting::new(Some("https://h/v1-rancheros/registration/token".into()), Source::Medium),
            registration_secret: Setting::new(Some(Secret::new("s3cret")), Source::Medium),
            ..Settings::default()
        };
        let config = CloudConfig::parse("hostname: demo\npassword: topsecret\npackages: [vim]").unwrap();
        let request = request(&settings, &config, &[], &CloudConfig::default());
        let plan = plan_for(blank_disk("/dev/vda"), &request).unwrap();
        let shown = plan.to_string();
        assert!(shown.contains("packages"), "{shown}");
        let serialized = serde_json::to_string(&plan).unwrap();
        for text in [shown, serialized, format!("{plan:?} {request:?}")] {
            for secret in ["topsecret", "registration/token", "s3cret"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
        let settings = Settings { no_format: Setting::new(true, Source::Flag), ..Settings::default() };
        let kept = super::request(&settings, &CloudConfig::default(), &[], &CloudConfig::default());
        let error = plan_for(blank_disk("/dev/vda"), &kept).unwrap_err();
        assert!(error.to_string().contains("from the command line"), "{error}");
    }
}
