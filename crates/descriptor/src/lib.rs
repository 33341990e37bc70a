//! `component.json`, the descriptor of components made for elastic.io, as specs of operations.
//!
//! Pure: it reads no file, starts nothing and knows no image. What a descriptor says wrongly is
//! left out; only what leaves nothing to run is an error.
#![warn(missing_docs)]

mod dialect;
mod example;
mod fields;
mod operations;
mod plain;

use flowline_model::OperationSpec;
use flowline_sdk::{Image, Operation};
use serde_json::{Map, Value};

pub use fields::CredentialField;

/// The longest descriptor, in bytes.
pub const LONGEST: usize = 4 << 20;
/// The most operations of one component.
const MOST_OPERATIONS: usize = 500;

/// Why a descriptor is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// It is longer than it may be.
    #[error("component.json is larger than 4 MiB")]
    TooLarge,
    /// It is not JSON.
    #[error("component.json is not JSON, at line {line} column {column}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// It is something else.
    #[error("component.json describes no component: it is not a map")]
    NotAMap,
    /// There is nothing that a flow could use.
    #[error("component.json has no triggers and no actions")]
    NoOperations,
    /// The component cannot have this name.
    #[error("`{0}` cannot be a component's name: use 1 to 40 of a-z, 0-9 and `-`, and start with a letter")]
    Name(String),
}

/// A component as its descriptor describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    name: String,
    document: Map<String, Value>,
}

/// Whether a component can be called so; it is part of the names of operations and images.
fn is_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    name.len() <= 40 && name.bytes().all(allowed) && name.bytes().next().is_some_and(|c| c.is_ascii_lowercase())
}

/// The nearest name that a component can have, such as `pet-store` for `Pet Store Component`.
pub fn suggested_name(title: &str) -> Option<String> {
    let lower = title.to_ascii_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("-");
    let name = name.trim_end_matches("-component").trim_start_matches("elasticio-");
    let name: String = name.trim_start_matches(|c: char| !c.is_ascii_lowercase()).chars().take(40).collect();
    Some(name.trim_end_matches('-').to_owned()).filter(|name| is_name(name))
}

impl Descriptor {
    /// Reads a descriptor; `name` is what stands before the dot in the names of the operations.
    ///
    /// # Errors
    ///
    /// If the name cannot be one, or if there is nothing to run.
    pub fn read(name: &str, text: &str) -> Result<Self, DescriptorError> {
        if text.len() > LONGEST {
            return Err(DescriptorError::TooLarge);
        }
        let document = serde_json::from_str(text)
            .map_err(|error| DescriptorError::NotJson { line: error.line(), column: error.column() })?;
        Self::new(name, document)
    }

    /// Takes a descriptor that was read already.
    ///
    /// # Errors
    ///
    /// As [`Descriptor::read`].
    pub fn new(name: &str, document: Value) -> Result<Self, DescriptorError> {
        if !is_name(name) {
            return Err(DescriptorError::Name(name.chars().take(80).collect()));
        }
        let Value::Object(document) = document else { return Err(DescriptorError::NotAMap) };
        let descriptor = Self { name: name.to_owned(), document };
        if descriptor.entries().next().is_none() { Err(DescriptorError::NoOperations) } else { Ok(descriptor) }
    }

    /// The component's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor as it is written.
    pub fn document(&self) -> &Map<String, Value> {
        &self.document
    }

    /// What people call the component.
    pub fn title(&self) -> &str {
        let title = text(&self.document, "title");
        if title.is_empty() { &self.name } else { title }
    }

    /// One sentence about it, or its title.
    pub fn summary(&self) -> &str {
        let description = text(&self.document, "description");
        if description.is_empty() { self.title() } else { description.lines().next().unwrap_or_default() }
    }

    /// Its version, as far as it can be part of an image's tag; `latest` if it has none.
    pub fn version(&self) -> String {
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let version: String = text(&self.document, "version").chars().filter(allowed).take(60).collect();
        let version = version.trim_start_matches(['.', '-']);
        if version.is_empty() { "latest".to_owned() } else { version.to_owned() }
    }

    /// What a credential consists of; empty if the component takes none.
    pub fn credential_fields(&self) -> Vec<CredentialField> {
        fields::credential_fields(&self.document)
    }

    /// The variables of the environment that the component must be given.
    pub fn required_variables(&self) -> Vec<&str> {
        let variables = self.document.get("envVars").and_then(Value::as_object).into_iter().flatten();
        let required = variables.filter(|(_, about)| about.get("required") == Some(&Value::Bool(true)));
        required.map(|(name, _)| name.as_str()).collect()
    }

    /// The metadata that stands in files of their own, as their paths within the component.
    pub fn metadata_files(&self) -> Vec<String> {
        let metadata = self.entries().filter_map(|entry| entry.about.get("metadata").and_then(Value::as_object));
        let sides = metadata.flat_map(|metadata| ["in", "out"].into_iter().filter_map(|side| metadata.get(side)));
        sides.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Puts the content of such files in place of their paths; a path without content goes.
    #[must_use]
    pub fn with_metadata(mut self, content: impl Fn(&str) -> Option<Value>) -> Self {
        for group in ["triggers", "actions"] {
            let operations = self.document.get_mut(group).and_then(Value::as_object_mut);
            let metadata =
                operations.into_iter().flat_map(Map::values_mut).filter_map(|about| about.get_mut("metadata"));
            for metadata in metadata.filter_map(Value::as_object_mut) {
                metadata.retain(|_, side| match side.as_str().map(&content) {
                    None => true,
                    Some(found) => found.map(|found| *side = found).is_some(),
                });
            }
        }
        self
    }

    /// What its operations say of themselves.
    pub fn specs(&self) -> Vec<OperationSpec> {
        self.entries().map(|entry| operations::spec(self, &entry)).collect()
    }

    /// Its operations, to be run in an image. `function` of the image is set for each.
    pub fn operations(&self, image: &Image) -> Vec<Operation> {
        let operation = |entry: Entry<'_>| {
            let image = Image { function: entry.key.to_owned(), ..image.clone() };
            Operation::image(operations::spec(self, &entry), image)
        };
        self.entries().map(operation).collect()
    }

    /// Every trigger and action that has a name. Of two with one name the trigger counts.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let group = |name| self.document.get(name).and_then(Value::as_object);
        let triggers = group("triggers");
        let is_free = move |key: &str| triggers.is_none_or(|triggers| !triggers.contains_key(key));
        let of_triggers = triggers.into_iter().flatten().map(|(key, about)| (key, about, true));
        let of_actions = group("actions").into_iter().flatten().map(|(key, about)| (key, about, false));
        let named = of_triggers.chain(of_actions.filter(move |(key, ..)| is_free(key)));
        let described = named.filter_map(|(key, about, is_trigger)| {
            Some(Entry { key, about: about.as_object().filter(|_| is_key(key))?, is_trigger })
        });
        described.take(MOST_OPERATIONS)
    }
}

/// A trigger or an action of a descriptor.
pub(crate) struct Entry<'a> {
    /// Its key: what a container is told to run.
    pub(crate) key: &'a str,
    pub(crate) about: &'a Map<String, Value>,
    pub(crate) is_trigger: bool,
}

impl Entry<'_> {
    pub(crate) fn is_polling(&self) -> bool {
        self.is_trigger && text(self.about, "type") == "polling"
    }
}

fn is_key(key: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    !key.is_empty() && key.len() <= 64 && key.bytes().all(allowed)
}

/// The text under a key; empty if there is none.
pub(crate) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default().trim()
}
