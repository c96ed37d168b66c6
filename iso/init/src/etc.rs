//! `/etc` of an installed system: an overlay over the files of the image. Changes are lost at each restart.

use std::path::Path;

use boot_contract::paths;

use crate::Result;
use crate::mount::overlay;

pub fn make_writable(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    overlay(&etc, &Path::new(paths::RUN).join("etc"), &etc)
}
