//! Chooses the kernel modules of the initrd and the order in which they are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::lists;

/// The output of depmod for a kernel's modules, by module name with underscores.
#[derive(Debug, Default)]
pub struct ModuleIndex {
    /// Path below the module folder, and the names it depends on, in the order of `modules.dep`.
    files: BTreeMap<String, (String, Vec<String>)>,
    built_in: BTreeSet<String>,
    /// Soft dependencies (`pre:`) of a module, in the order of `modules.softdep`: names or aliases.
    used: BTreeMap<String, Vec<String>>,
    /// Pattern and module, in the order of `modules.alias`.
    aliases: Vec<(String, String)>,
}

/// The modules of an initrd. Files are named `<module>.ko`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ModulePlan {
    /// Path below the module folder, by file name.
    pub sources: BTreeMap<String, String>,
    /// Content of /modules/always: one file per line, dependencies first.
    pub always: String,
    /// Content of /modules/by-alias: `<pattern> <file>…`, dependencies first.
    pub by_alias: String,
    /// Content of /modules/watchdog-by-alias, in the same form.
    pub watchdog_by_alias: String,
    /// Content of /modules/no-watchdog, in the form of `always`.
    pub no_watchdog: String,
}

impl ModulePlan {
    /// Names of the modules, sorted.
    pub fn names(&self) -> Vec<String> {
        self.sources.keys().map(|file| module_name(file)).collect()
    }
}

impl ModuleIndex {
    pub fn read(modules: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = modules.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        Self::parse(
            &read("modules.dep")?,
            &read("modules.builtin")?,
            &read("modules.alias")?,
            &read("modules.softdep")?,
        )
    }

    fn parse(dependencies: &str, built_in: &str, aliases: &str, soft: &str) -> Result<Self> {
        let mut index = Self { built_in: built_in.lines().map(module_name).collect(), ..Self::default() };
        for line in dependencies.lines() {
            let (path, needed) = line.split_once(':').with_context(|| format!("modules.dep: no colon in {line:?}"))?;
            let needed = needed.split_whitespace().map(module_name).collect();
            index.files.insert(module_name(path), (path.to_owned(), needed));
        }
        for line in aliases.lines() {
            if let ["alias", pattern, module] = line.split(' ').collect::<Vec<_>>()[..] {
                index.aliases.push((pattern.to_owned(), module_name(module)));
            }
        }
        for line in soft.lines() {
            let mut words = line.split(' ');
            if let (Some("softdep"), Some(module)) = (words.next(), words.next()) {
                let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
                index.used.entry(module_name(module)).or_default().extend(before.map(str::to_owned));
            }
        }
        Ok(index)
    }

    /// Plans an initrd from a list in the format of `lists/initrd-modules.txt`.
    pub fn plan(&self, wanted: &str) -> Result<ModulePlan> {
        let mut plan = ModulePlan::default();
        let (mut always, mut no_watchdog) = (Vec::new(), Vec::new());
        for line in lists::lines(wanted) {
            let [kind, name] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                bail!("expected `<kind> <module>`, found {line:?}");
            };
            let (kind, optional) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
            if self.built_in.contains(name) {
                continue;
            }
            if !self.files.contains_key(name) {
                ensure!(optional, "the kernel has no module {name}, which the initrd needs");
                continue;
            }
            let mut order = Vec::new();
            self.resolve(name, &mut order)?;
            for module in &order {
                plan.sources.insert(format!("{module}.ko"), self.files[module].0.clone());
            }
            match kind {
                "always" => append(&mut always, order),
                "device" => self.add_aliases(name, &order, &mut plan.by_alias),
                "watchdog" => self.add_aliases(name, &order, &mut plan.watchdog_by_alias),
                "no-watchdog" => append(&mut no_watchdog, order),
                other => bail!("{other} is not a kind of module"),
            }
        }
        let files = |modules: &[String]| modules.iter().map(|module| format!("{module}.ko\n")).collect();
        (plan.always, plan.no_watchdog) = (files(&always), files(&no_watchdog));
        Ok(plan)
    }

    /// Appends the dependencies and soft dependencies of `name`, then `name`.
    fn resolve(&self, name: &str, order: &mut Vec<String>) -> Result<()> {
        if order.iter().any(|module| module == name) || self.built_in.contains(name) {
            return Ok(());
        }
        let (_, needed) = self.files.get(name).with_context(|| format!("modules.dep does not list {name}"))?;
        for module in needed {
            self.resolve(module, order)?;
        }
        for used in self.used.get(name).into_iter().flatten() {
            for module in self.modules_for(used) {
                self.resolve(module, order)?;
            }
        }
        order.push(name.to_owned());
        Ok(())
    }

    /// The modules with this name or alias. Several modules can share an alias, such as one algorithm for several
    /// processors.
    fn modules_for<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a String> {
        let own = module_name(name);
        let by_alias = self.aliases.iter().filter(move |(alias, _)| alias == name).map(|(_, module)| module);
        self.files.get_key_value(&own).map(|(module, _)| module).into_iter().chain(by_alias)
    }

    fn add_aliases(&self, name: &str, order: &[String], by_alias: &mut String) {
        for (pattern, _) in self.aliases.iter().filter(|(_, module)| module == name) {
            by_alias.push_str(pattern);
            for module in order {
                by_alias.push_str(&format!(" {module}.ko"));
            }
            by_alias.push('\n');
        }
    }
}

/// Appends the modules that the list does not have yet.
fn append(list: &mut Vec<String>, modules: Vec<String>) {
    for module in modules {
        if !list.contains(&module) {
            list.push(module);
        }
    }
}

/// `kernel/drivers/virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> ModuleIndex {
        let dependencies = "kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz\n\
                            kernel/lib/libcrc32c.ko.xz:\n\
                            kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz kernel/drivers/ata/libata.ko.xz\n\
                            kernel/drivers/ata/libahci.ko.xz: kernel/drivers/ata/libata.ko.xz\n\
                            kernel/drivers/ata/libata.ko.xz:\n";
        let aliases = "# comment\nalias pci:v*bc01sc06i01* ahci\nalias fs-erofs erofs\n";
        ModuleIndex::parse(dependencies, "kernel/fs/ext4/ext4.ko\n", aliases, "").unwrap()
    }

    #[test]
    fn dependencies_come_first_and_built_in_ones_cost_nothing() {
        let plan = index().plan("always erofs\nalways ext4\ndevice ahci\nalways? gone\n").unwrap();
        assert_eq!(plan.always, "libcrc32c.ko\nerofs.ko\n");
        assert_eq!(plan.by_alias, "pci:v*bc01sc06i01* libata.ko libahci.ko ahci.ko\n");
        assert_eq!(plan.sources["ahci.ko"], "kernel/drivers/ata/ahci.ko.xz");
        assert_eq!(plan.names(), ["ahci", "erofs", "libahci", "libata", "libcrc32c"]);
    }

    #[test]
    fn soft_dependencies_come_first_too() {
        let dependencies = "erofs.ko: libcrc32c.ko\nlibcrc32c.ko:\ncrc32c-intel.ko:\ncrc32c_generic.ko:\nnet.ko:\n";
        let aliases = "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\n";
        let soft = "# comment\nsoftdep libcrc32c pre: crc32c post: net\nsoftdep erofs pre: built-in\n";
        let index = ModuleIndex::parse(dependencies, "built_in.ko\n", aliases, soft).unwrap();
        let plan = index.plan("always erofs\n").unwrap();
        assert_eq!(plan.always, "crc32c_intel.ko\ncrc32c_generic.ko\nlibcrc32c.ko\nerofs.ko\n");
    }

    #[test]
    fn watchdogs_have_lists_of_their_own() {
        let dependencies = "watchdog.ko:\ni6300esb.ko: watchdog.ko\nsoftdog.ko: watchdog.ko\n";
        let index = ModuleIndex::parse(dependencies, "", "alias pci:v8086* i6300esb\n", "").unwrap();
        let plan = index.plan("watchdog? i6300esb\nwatchdog? hpwdt\nno-watchdog? softdog\n").unwrap();
        assert_eq!((plan.always.as_str(), plan.by_alias.as_str()), ("", ""));
        assert_eq!(plan.watchdog_by_alias, "pci:v8086* watchdog.ko i6300esb.ko\n");
        assert_eq!(plan.no_watchdog, "watchdog.ko\nsoftdog.ko\n");
        assert_eq!(plan.names(), ["i6300esb", "softdog", "watchdog"]);
    }

    #[test]
    fn a_needed_module_that_is_missing_is_named() {
        assert!(index().plan("always gone").unwrap_err().to_string().contains("gone"));
        assert!(index().plan("sometimes erofs").is_err());
    }
}
