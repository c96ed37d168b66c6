//! `rancheros.release.keys`: the public keys by which a machine takes releases, beside those of its image.

use crate::keys::Unapplied;
use crate::{CloudConfig, normal_key};
use serde_json::Value;

/// The keys as PEM, one text or a list of them. A value that is no public key is an error and costs the whole list:
/// with a key left out, a machine could be left without any, and would take releases that nobody signed.
pub fn release_keys(config: &CloudConfig) -> Result<Vec<&str>, Unapplied> {
    let (keys, problems) = read(config);
    problems.into_iter().find(|problem| problem.why.is_some()).map_or(Ok(keys), Err)
}

/// The keys that can be used, and everything else below `rancheros.release`.
pub(crate) fn read(config: &CloudConfig) -> (Vec<&str>, Vec<Unapplied>) {
    let mut keys = Vec::new();
    let mut problems = Vec::new();
    for (own, release, value) in sections(config) {
        let path = format!("{own}.{release}");
        let refused = |path: String, why| Unapplied { path, why: Some(why) };
        let Value::Object(settings) = value else {
            problems.push(refused(path, "it must be a mapping"));
            continue;
        };
        for (name, value) in settings.iter().filter(|(_, value)| !value.is_null()) {
            let path = format!("{path}.{name}");
            if normal_key(name) != "keys" {
                problems.push(Unapplied { path, why: None });
                continue;
            }
            let items = match value {
                Value::Array(items) => {
                    items.iter().enumerate().map(|(i, item)| (format!("{path}[{i}]"), item)).collect()
                }
                one => vec![(path, one)],
            };
            for (path, item) in items {
                match item.as_str().filter(|text| text.contains("-----BEGIN PUBLIC KEY-----")) {
                    Some(pem) => keys.push(pem),
                    None => problems.push(refused(path, "it must be a public key as PEM")),
                }
            }
        }
    }
    (keys, problems)
}

/// The values of `rancheros.release` that are not null, with both keys as they are spelled.
fn sections(config: &CloudConfig) -> impl Iterator<Item = (&str, &str, &Value)> {
    let own = config.0.iter().filter(|(key, _)| normal_key(key) == "rancheros");
    own.flat_map(|(own, value)| {
        let below = value.as_object().into_iter().flatten();
        let release = below.filter(|(key, value)| normal_key(key) == "release" && !value.is_null());
        release.map(move |(release, value)| (own.as_str(), release.as_str(), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::unapplied;

    fn config(text: &str) -> CloudConfig {
        CloudConfig::parse(text).unwrap()
    }

    #[test]
    fn keys_are_found_however_they_are_spelled() {
        let pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        let quoted = serde_json::to_string(pem).unwrap();
        for text in [
            format!("rancheros: {{release: {{keys: [{quoted}]}}}}"),
            format!("RancherOS: {{Release: {{Keys: {quoted}}}, install: {{}}}}"),
        ] {
            let config = config(&text);
            assert_eq!(release_keys(&config).unwrap(), [pem], "{text}");
            assert_eq!(unapplied(&config), []);
        }
        for none in
            ["{}", "rancheros: {install: {}}", "rancheros: {release: null}", "rancheros: {release: {keys: null}}"]
        {
            assert_eq!(release_keys(&config(none)).unwrap(), Vec::<&str>::new(), "{none}");
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_costs_the_list() {
        let good = "\"-----BEGIN PUBLIC KEY-----\\n\"";
        let cases = [
            (format!("rancheros: {{release: {{keys: [{good}, s3cr3t]}}}}"), "rancheros.release.keys[1]"),
            (format!("rancheros: {{release: {{keys: [{good}, null]}}}}"), "rancheros.release.keys[1]"),
            ("rancheros: {release: {keys: {a: s3cr3t}}}".into(), "rancheros.release.keys"),
            ("rancheros: {release: s3cr3t}".into(), "rancheros.release"),
        ];
        for (text, place) in cases {
            let config = config(&text);
            let problem = release_keys(&config).unwrap_err();
            assert_eq!(problem.path, place, "{text}");
            assert!(!problem.to_string().contains("s3cr3t"));
            assert_eq!(unapplied(&config), [problem]);
        }
        // A setting of a later version is named, and the keys count.
        let config = config(&format!("rancheros: {{release: {{keys: [{good}], channel: x}}}}"));
        assert_eq!(release_keys(&config).unwrap().len(), 1);
        assert_eq!(unapplied(&config)[0].path, "rancheros.release.channel");
    }
}
