//! Registered components: one file each in the data folder, beside the built-in ones.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use flowline_descriptor::{Descriptor, LONGEST};
use flowline_sdk::{Catalog, Image};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Doing as _, Failure, Outcome};

/// Where registrations lie in the data folder.
const FOLDER: &str = "components";
/// The most registered components.
const MOST: usize = 1_000;
/// What a container of a component starts.
pub(crate) const COMMAND: [&str; 2] = ["node", "./node_modules/elasticio-sailor-nodejs/run.js"];

/// What is stored of a registered component.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) name: String,
    /// The image that holds its code.
    pub(crate) image: String,
    /// What is started in it.
    pub(crate) command: Vec<String>,
    /// Further environment, without secrets.
    pub(crate) environment: Vec<(String, String)>,
    /// Its component.json, metadata included.
    pub(crate) descriptor: Value,
}

/// A registered component.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    stored: Stored,
    descriptor: Descriptor,
}

/// Every registered component, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Vec<Registered>);

impl Registered {
    pub(crate) fn new(stored: Stored) -> Outcome<Self> {
        let descriptor = Descriptor::new(&stored.name, stored.descriptor.clone());
        let descriptor = descriptor.doing(|| format!("the component `{}`", stored.name))?;
        Ok(Self { stored, descriptor })
    }

    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub(crate) fn stored(&self) -> &Stored {
        &self.stored
    }

    fn image(&self) -> Image {
        let Stored { image, command, environment, .. } = self.stored.clone();
        Image { name: image, function: String::new(), command, environment }
    }
}

impl Registry {
    /// The registered components.
    pub(crate) fn components(&self) -> &[Registered] {
        &self.0
    }

    /// The component with this name.
    pub(crate) fn get(&self, name: &str) -> Outcome<&Registered> {
        let found = self.0.iter().find(|known| known.descriptor.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|known| known.descriptor.name()).collect();
            let failure = Failure::usage(format!("there is no registered component `{name}`"));
            match flowline_model::problem::nearest(name, &names) {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None => failure.hint("`flowline components add` registers one"),
            }
        })
    }

    /// Every operation: the built-in ones and those of registered components.
    pub(crate) fn catalog(&self) -> Catalog {
        let built_in = flowline_components::catalog();
        let names: Vec<String> = built_in.specs().map(|spec| spec.name.clone()).collect();
        let registered = self.0.iter().flat_map(|known| known.descriptor.operations(&known.image()));
        // Of two with the same name the later one counts: a built-in one is never hidden.
        Catalog::new(registered.chain(names.iter().filter_map(|name| built_in.get(name).cloned())))
    }
}

fn file(data: &Path, name: &str) -> PathBuf {
    data.join(FOLDER).join(format!("{name}.json"))
}

/// Reads what is registered in a data folder; nothing if there is no such folder.
pub(crate) fn read(data: &Path) -> Outcome<Registry> {
    let folder = data.join(FOLDER);
    let cannot = || format!("the registered components in {} cannot be read", folder.display());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Registry::default());
        }
        Err(error) => return Err(error).doing(cannot),
    };
    let mut paths = Vec::new();
    for entry in entries.take(MOST) {
        let path = entry.doing(cannot)?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read_one(path)).collect::<Outcome<Vec<_>>>().map(Registry)
}

fn read_one(path: &Path) -> Outcome<Registered> {
    let cannot = || format!("the registered component in {} cannot be read", path.display());
    let length = fs::metadata(path).doing(cannot)?.len();
    if length > 2 * LONGEST as u64 {
        return Err(Failure::new(format!("{}: the file is too large", cannot())));
    }
    let text = fs::read_to_string(path).doing(cannot)?;
    let stored: Stored = serde_json::from_str(&text).doing(cannot)?;
    Registered::new(stored)
        .map_err(|failure| Failure::new(format!("{}: {failure}", cannot())))
        .map_err(|failure| failure.hint("`flowline components add` registers it again"))
}

/// Stores a registration; one with the same name is replaced.
pub(crate) fn store(data: &Path, component: &Registered) -> Outcome<()> {
    let path = file(data, component.descriptor.name());
    let cannot = || format!("the component cannot be registered in {}", path.display());
    fs::create_dir_all(data.join(FOLDER)).doing(cannot)?;
    let text = serde_json::to_vec_pretty(&component.stored).doing(cannot)?;
    let mut fresh = tempfile::NamedTempFile::new_in(data.join(FOLDER)).doing(cannot)?;
    io::Write::write_all(&mut fresh, &text).doing(cannot)?;
    fresh.as_file().sync_all().doing(cannot)?;
    fresh.persist(&path).map_err(|error| error.error).doing(cannot)?;
    Ok(())
}

/// Forgets a registration.
pub(crate) fn remove(data: &Path, name: &str) -> Outcome<()> {
    read(data)?.get(name)?;
    let path = file(data, name);
    fs::remove_file(&path).doing(|| format!("{} cannot be removed", path.display()))
}
