//! The catalog: every operation there is, by name. A value that somebody holds, not a global.

use std::{collections::BTreeMap, sync::Arc};

use flowline_model::OperationSpec;

use crate::Operation;

/// What a component is, for lists and reference pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentInfo {
    /// What stands before the dot in the names of its operations.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
}

/// Every operation there is.
#[derive(Clone, Default)]
pub struct Catalog {
    operations: BTreeMap<String, Operation>,
}

impl Catalog {
    /// A catalog of these operations; of two with the same name the later one counts.
    pub fn new(operations: impl IntoIterator<Item = Operation>) -> Self {
        let named = |operation: Operation| (operation.spec.name.clone(), operation);
        Self { operations: operations.into_iter().map(named).collect() }
    }

    /// The operation with this name.
    pub fn get(&self, name: &str) -> Option<&Operation> {
        self.operations.get(name)
    }

    /// Every spec, by name.
    pub fn specs(&self) -> impl Iterator<Item = &Arc<OperationSpec>> {
        self.operations.values().map(|operation| &operation.spec)
    }
}
