//! `make node-image`: builds the image of a node with the kubelet that the tests build.

use clap::Parser;
use harness::node_image;

#[derive(Parser)]
struct Options {
    /// Version of the release
    #[arg(long = "version", value_name = "VERSION")]
    release_version: String,
}

fn main() -> anyhow::Result<()> {
    let version = Options::parse().release_version;
    let folder = node_image::build(&version, "iso,oci")?;
    println!("{}", node_image::medium(&folder, &version, "iso").display());
    Ok(())
}
