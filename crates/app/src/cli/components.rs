//! The command line of components: what there is, and how more come in.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use flowline_model::Lapse;

use super::Data;

#[derive(Debug, Args)]
pub(crate) struct Components {
    #[command(subcommand)]
    pub(crate) command: Option<ComponentsCommand>,

    #[command(flatten)]
    pub(crate) list: ComponentsList,
}

#[derive(Debug, Args)]
pub(crate) struct ComponentsList {
    /// A component or an operation, such as `http` or `http.request`
    pub(crate) name: Option<String>,

    #[command(flatten)]
    pub(crate) data: Data,

    /// Print the specs as JSON
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,

    /// Write the reference pages into this folder
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "name")]
    pub(crate) markdown: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ComponentsCommand {
    /// List components, or show the reference of one
    List(ComponentsList),
    /// Register a component made for elastic.io: a folder to build, or an image
    Add(AddComponent),
    /// Forget a registered component
    Remove(RemoveComponent),
    /// Ask a registered component whether a credential works
    Verify(VerifyComponent),
    /// Ask a registered component what an operation takes and gives, or what may be chosen for a field
    Model(ComponentModel),
}

/// Where components that are built find Node.js.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeImage {
    /// The image that components without a Dockerfile are built on
    #[arg(long, env = "FLOWLINE_NODE_IMAGE", default_value = "flowline-node", value_name = "IMAGE")]
    pub(crate) node_image: String,
}

#[derive(Debug, Args)]
pub(crate) struct AddComponent {
    /// A folder with a component.json, or the name of an image
    #[arg(value_name = "DIR or IMAGE")]
    pub(crate) from: String,

    /// What stands before the dot in the names of its operations [default: from its own name]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// A variable of the environment that it asks for, not secret; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<Pair>,

    #[command(flatten)]
    pub(crate) node: NodeImage,

    #[command(flatten)]
    pub(crate) data: Data,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveComponent {
    /// The component
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) data: Data,
}

/// What a component is given for one question.
#[derive(Debug, Clone, Args)]
pub(crate) struct Given {
    /// A part of the credential that is not secret, as every process sees it; may be repeated.
    /// Secret parts come from FLOWLINE_CREDENTIAL_<KEY>, from a file, or are asked for
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) credential: Vec<Pair>,

    /// A YAML file of the credential, key: value, that nobody else can read
    #[arg(long, value_name = "FILE")]
    pub(crate) credential_file: Option<PathBuf>,

    /// A field of the operation; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) field: Vec<Pair>,

    /// How long it may take to answer
    #[arg(long, default_value = "1m", value_name = "LAPSE")]
    pub(crate) timeout: Lapse,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyComponent {
    /// The component
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) given: Given,

    #[command(flatten)]
    pub(crate) data: Data,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ComponentModel {
    /// The operation, such as `petstore.getPet`
    pub(crate) operation: String,

    /// The field whose values are asked for; without it, the schemas of input and output
    pub(crate) of: Option<String>,

    #[command(flatten)]
    pub(crate) given: Given,

    #[command(flatten)]
    pub(crate) data: Data,
}

/// A name and a value.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=•••", self.name)
    }
}

impl FromStr for Pair {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err("write NAME=VALUE".to_owned()),
        }
    }
}
