//! Collects the settings of all sources and resolves them again when one is added.

use super::document::{self, DocumentError, MEDIUM_FILE};
use super::{Layer, Resolved, SettingError, Settings, Source, resolve};
use cloud_config::{CloudConfig, Lists};
use std::path::Path;

/// The settings so far. The cloud-config is merged from all documents: a stronger one overrides a weaker one.
#[derive(Clone, Debug)]
pub struct Gathered {
    layers: Vec<(Source, Layer)>,
    resolved: Resolved,
    cloud_config: CloudConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Setting(#[from] SettingError),
}

impl Gathered {
    /// The settings that need no network: those of the settings file (the medium's, unless `file` names another), the
    /// kernel command line, and flags.
    pub fn from_machine(root: &Path, file: Option<&Path>, flags: Layer) -> Result<Self, GatherError> {
        let medium = root.join(MEDIUM_FILE);
        Ok(Self::with_document(root, document::read(file.unwrap_or(&medium))?, flags)?)
    }

    /// The same with the settings of a medium that were read before.
    pub fn with_document(root: &Path, document: Option<CloudConfig>, flags: Layer) -> Result<Self, SettingError> {
        // An unreadable command line counts as empty; every kernel has one.
        let line = std::fs::read_to_string(root.join("proc/cmdline")).unwrap_or_default();
        let mut gathered =
            Self { layers: Vec::new(), resolved: Resolved::default(), cloud_config: CloudConfig::default() };
        gathered.add_document(Source::Medium, document.unwrap_or_default())?;
        gathered.add(Source::KernelCommandLine, Layer::from_kernel_command_line(&line))?;
        gathered.add(Source::Flag, flags)?;
        Ok(gathered)
    }

    /// Adds a document: its settings, and its other keys as cloud-config.
    pub fn add_document(&mut self, source: Source, document: CloudConfig) -> Result<(), SettingError> {
        self.add(source, Layer::from_cloud_config(source, &document))?;
        self.cloud_config.merge(document, Lists::Replace);
        Ok(())
    }

    /// Adds settings. The order of calls does not matter: the precedence of the source decides.
    pub fn add(&mut self, source: Source, layer: Layer) -> Result<(), SettingError> {
        self.layers.push((source, layer));
        self.layers.sort_by_key(|(source, _)| *source);
        self.resolved = resolve(self.layers.iter().map(|(_, layer)| layer))?;
        Ok(())
    }

    pub fn settings(&self) -> &Settings {
        &self.resolved.settings
    }

    /// One line for each value that is left out.
    pub fn left_out(&self) -> &[String] {
        &self.resolved.left_out
    }

    pub fn cloud_config(&self) -> &CloudConfig {
        &self.cloud_config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_decides_and_documents_are_laid_over_each_other() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/ros/medium")).unwrap();
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        let medium = "hostname: a\nntp: {enabled: true}\nrancheros: {install: {device: /dev/sda, tty: ttyS0}}\n";
        std::fs::write(root.path().join(MEDIUM_FILE), medium).unwrap();
        std::fs::write(root.path().join("proc/cmdline"), "quiet rancheros.install.tty=ttyS1").unwrap();
        let mut flags = Layer::new(Source::Flag);
        flags.set("device", "/dev/vdb");
        let mut gathered = Gathered::from_machine(root.path(), None, flags).unwrap();
        let fetched = "hostname: b\nrancheros: {install: {device: /dev/sdc, tty: ttyS2, colour: red}}\n";
        gathered.add_document(Source::ConfigUrl, CloudConfig::parse(fetched).unwrap()).unwrap();
        let settings = gathered.settings();
        assert_eq!((settings.device.as_deref(), settings.tty.as_deref()), (Some("/dev/vdb"), Some("ttyS2")));
        assert_eq!(gathered.cloud_config().0["hostname"], "b");
        assert_eq!(gathered.cloud_config().0["ntp"]["enabled"], true);
        let unknown =
            "colour, from the document at configURL, is not a known setting and is ignored; check its spelling";
        assert_eq!(gathered.left_out(), [unknown]);
    }
}
