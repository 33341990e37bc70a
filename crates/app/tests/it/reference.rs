//! The committed reference pages say what the specs say. `UPDATE=1 cargo test -p flowline-app`
//! writes them anew.

use std::{fs, path::Path};

use crate::harness::Folder;

#[test]
fn the_reference_pages_are_current() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/components");
    let folder = Folder::new();
    let target = if std::env::var_os("UPDATE").is_some() { committed.clone() } else { folder.path().join("pages") };
    assert!(folder.run(&["components", "--markdown", target.to_str().unwrap()]).status.success());
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&committed), names(&target), "a page is missing, or one too many");
    for name in names(&target) {
        let (old, new) = (fs::read_to_string(committed.join(&name)), fs::read_to_string(target.join(&name)));
        let name = name.to_string_lossy();
        assert_eq!(old.unwrap(), new.unwrap(), "{name} is stale: run `UPDATE=1 cargo test -p flowline-app reference`");
    }
}
