//! Packs the Helm chart into one file. `helm package` would write the present time into it.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};

use crate::build::tree::{Node, Tree};
use crate::cli::ChartOptions;
use crate::output;

const NAME: &str = "rancheros-operator";

/// Writes `<output>/rancheros-operator-<version>.tgz`; the image that it asks for has the same version.
pub fn run(options: &ChartOptions) -> Result<()> {
    let version = options.chart_version.as_str();
    let package = package(&options.chart, version, options.epoch)?;
    let path = options.output.join(format!("{NAME}-{version}.tgz"));
    fs::create_dir_all(&options.output).with_context(|| format!("creating {}", options.output.display()))?;
    output::replace(&path, |mut file| Ok(file.write_all(&package)?))?;
    println!("{}", path.display());
    Ok(())
}

fn package(chart: &Path, version: &str, epoch: u32) -> Result<Vec<u8>> {
    let path = chart.join("Chart.yaml");
    let metadata = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut files = Tree::default();
    files.lay_over(chart, NAME)?;
    files.insert(&format!("{NAME}/Chart.yaml"), Node::file(0o644, with_version(&metadata, version)?))?;
    let mut archive = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    files.write_tar(&mut archive, epoch)?;
    archive.flush().context("compressing the chart")?;
    archive.finish().context("compressing the chart")
}

/// Replaces the two versions in Chart.yaml: `version` of the chart and `appVersion` of the operator.
fn with_version(metadata: &str, version: &str) -> Result<String> {
    let mut replaced = 0;
    let lines = metadata.lines().map(|line| match line.split_once(':') {
        Some((key @ ("version" | "appVersion"), _)) => {
            replaced += 1;
            format!("{key}: {version:?}\n")
        }
        _ => format!("{line}\n"),
    });
    let text = lines.collect();
    ensure!(
        replaced == 2,
        "Chart.yaml must have one line `version:` and one line `appVersion:`; it has {replaced} of them"
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_packed_below_its_name_with_its_version_and_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("templates")).unwrap();
        fs::write(folder.path().join("templates/a.yaml"), "a").unwrap();
        let metadata = "name: x\nversion: 0.1.0\nappVersion: 0.1.0\n";
        fs::write(folder.path().join("Chart.yaml"), metadata).unwrap();
        let packed = package(folder.path(), "1.2.3", 7).unwrap();
        assert_eq!(packed, package(folder.path(), "1.2.3", 7).unwrap());
        let mut names = Vec::new();
        for entry in tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice())).entries().unwrap() {
            names.push(String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap());
        }
        assert!(names.contains(&format!("{NAME}/templates/a.yaml")), "{names:?}");
        assert_eq!(with_version(metadata, "1.2.3").unwrap(), "name: x\nversion: \"1.2.3\"\nappVersion: \"1.2.3\"\n");
        assert!(with_version("version: 1\n", "2").is_err());
    }
}
