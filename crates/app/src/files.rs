//! Flow documents on the disk: which files a command means, and what they say.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use flowline_model::document;

use crate::{
    config::DEFAULT_FILES,
    failure::{Doing as _, Failure, Outcome},
};

/// The flow documents that paths name: files as they are, of folders every YAML and JSON file
/// directly in them.
pub(crate) fn find(paths: &[PathBuf]) -> Outcome<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    for path in paths {
        let what = fs::metadata(path).doing(|| format!("{} cannot be read", path.display()))?;
        if what.is_dir() {
            found.extend(in_folder(path).doing(|| format!("the folder {} cannot be read", path.display()))?);
        } else {
            found.insert(path.clone());
        }
    }
    Ok(found.into_iter().collect())
}

/// Every flow document directly in a folder.
pub(crate) fn in_folder(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_flow(&path) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a file in a folder is a flow document by its name: hidden files and the configuration
/// are not.
fn is_flow(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    matches!(ending, "yaml" | "yml" | "json") && !name.starts_with('.') && !DEFAULT_FILES.contains(&name)
}

/// The text of a document; of one that is too long only so much that checking says so.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(document::LONGEST as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// The text of a document, or why there is none.
pub(crate) fn text(path: &Path) -> Outcome<String> {
    read(path).map_err(|error| {
        let failure = Failure::new(format!("the file {} cannot be read: {error}", path.display()));
        if error.kind() == io::ErrorKind::InvalidData { failure.hint("save it as UTF-8") } else { failure }
    })
}
