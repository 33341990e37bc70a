//! `flowline components add` and `remove`: components made for elastic.io become known here.

use std::{
    collections::HashMap,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use flowline_descriptor::{Descriptor, suggested_name};
use serde_json::{Value, json};

use crate::{
    cli::{AddComponent, RemoveComponent},
    commands::print_json,
    docker::{Engine, Plan},
    failure::{Doing as _, Failure, Outcome},
    lookup, reference,
    registry::{self, COMMAND, Registered, Stored},
};

/// What describes a component, in its folder.
const DESCRIPTOR: &str = "component.json";

/// Where a component comes from.
enum Origin {
    Folder(PathBuf),
    Image(String),
}

pub(super) async fn run(options: AddComponent) -> Outcome {
    let origin = origin(&options.from);
    let descriptor = match &origin {
        Origin::Folder(folder) => in_folder(folder, options.name.as_deref())?,
        Origin::Image(image) => in_image(&Engine::connect().await?, image, options.name.as_deref()).await?,
    };
    refuse_built_in(descriptor.name())?;
    refuse_missing_variables(&descriptor, &options)?;
    let image = match origin {
        Origin::Folder(folder) => build(&options, &folder, &descriptor).await?,
        Origin::Image(image) => image,
    };
    let component = Registered::new(Stored {
        name: descriptor.name().to_owned(),
        image,
        command: COMMAND.map(str::to_owned).into(),
        environment: options.env.iter().map(|pair| (pair.name.clone(), pair.value.clone())).collect(),
        descriptor: Value::Object(descriptor.document().clone()),
    })?;
    registry::store(&options.data.data, &component)?;
    tell(&options, &component).await
}

/// A folder if there is one with a descriptor or it is written as a path, an image otherwise.
fn origin(from: &str) -> Origin {
    let path = Path::new(from);
    let is_path = from.starts_with(['.', '/', '~']) || path.join(DESCRIPTOR).is_file();
    if is_path { Origin::Folder(path.to_owned()) } else { Origin::Image(from.to_owned()) }
}

fn in_folder(folder: &Path, name: Option<&str>) -> Outcome<Descriptor> {
    let path = folder.join(DESCRIPTOR);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::new(format!("{} cannot be read: {error}", path.display()))
            .hint("name the folder of a component: the one that holds its component.json")
    })?;
    let package = std::fs::read(folder.join("package.json")).unwrap_or_default();
    let package: Value = serde_json::from_slice(&package).unwrap_or_default();
    let own =
        package.get("name").and_then(Value::as_str).map(|name| name.rsplit('/').next().unwrap_or(name).to_owned());
    let called = std::fs::canonicalize(folder).ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let name = named(name, [own, called, title(&text)])?;
    let descriptor = read(&name, &text)?;
    Ok(descriptor.with_metadata(|path| {
        let file = within(folder, path)?;
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }))
}

/// A file within a folder; none if the path leads out of it.
fn within(folder: &Path, path: &str) -> Option<PathBuf> {
    let root = std::fs::canonicalize(folder).ok()?;
    let file = std::fs::canonicalize(root.join(path.trim_start_matches('/'))).ok()?;
    let length = std::fs::metadata(&file).ok()?.len();
    (file.starts_with(&root) && length <= flowline_descriptor::LONGEST as u64).then_some(file)
}

async fn in_image(engine: &Engine, image: &str, name: Option<&str>) -> Outcome<Descriptor> {
    let about = engine.about(image).await?.ok_or_else(|| {
        Failure::new(format!("there is no image {image} here, and no folder {image} with a {DESCRIPTOR}"))
            .hint(format!("`docker pull {image}` fetches an image"))
    })?;
    let inside = |path: &str| format!("{}/{}", about.folder.trim_end_matches('/'), path.trim_start_matches("./"));
    let text = match about.label {
        Some(label) => label,
        None => {
            let path = inside(DESCRIPTOR);
            let content = engine.files(image, std::slice::from_ref(&path)).await?.remove(&path);
            let content = content.ok_or_else(|| {
                Failure::new(format!("the image {image} holds no component: it has neither a label nor {path}"))
            })?;
            String::from_utf8(content).doing(|| format!("{path} in the image {image}"))?
        }
    };
    let repository = image.split('@').next().unwrap_or(image).rsplit('/').next().unwrap_or(image);
    let own = repository.split(':').next().map(str::to_owned);
    let name = named(name, [own, title(&text), None])?;
    let descriptor = read(&name, &text)?;
    let paths: Vec<String> = descriptor.metadata_files().iter().map(|path| inside(path)).collect();
    let files = if paths.is_empty() { HashMap::new() } else { engine.files(image, &paths).await? };
    Ok(descriptor.with_metadata(|path| serde_json::from_slice(files.get(&inside(path))?).ok()))
}

fn title(text: &str) -> Option<String> {
    let document: Value = serde_json::from_str(text).ok()?;
    document.get("title")?.as_str().map(str::to_owned)
}

fn named(name: Option<&str>, candidates: [Option<String>; 3]) -> Outcome<String> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let suggested = candidates.into_iter().flatten().find_map(|candidate| suggested_name(&candidate));
    suggested
        .ok_or_else(|| Failure::usage("the component has no name that can be used").hint("give it one with `--name`"))
}

fn read(name: &str, text: &str) -> Outcome<Descriptor> {
    Descriptor::read(name, text).map_err(|error| Failure::new(error.to_string()))
}

fn refuse_built_in(name: &str) -> Outcome<()> {
    if flowline_components::COMPONENTS.iter().any(|known| known.name == name) {
        return Err(Failure::usage(format!("`{name}` is a built-in component")).hint("give it another with `--name`"));
    }
    Ok(())
}

fn refuse_missing_variables(descriptor: &Descriptor, options: &AddComponent) -> Outcome<()> {
    let given = |name: &str| options.env.iter().any(|pair| pair.name == name);
    let missing: Vec<&str> = descriptor.required_variables().into_iter().filter(|name| !given(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let example = missing.iter().map(|name| format!("--env {name}=…")).collect::<Vec<_>>().join(" ");
    Err(Failure::usage(format!("the component needs the environment variables {}", missing.join(", ")))
        .hint(format!("give them with `{example}`")))
}

async fn build(options: &AddComponent, folder: &Path, descriptor: &Descriptor) -> Outcome<String> {
    let image = format!("flowline-component-{}:{}", descriptor.name(), descriptor.version());
    let on_terminal = std::io::stderr().is_terminal();
    let follow = move |line: &str| {
        if on_terminal {
            anstream::eprintln!("\x1b[2m{line}\x1b[0m");
        }
    };
    let plan = Plan { folder, image: &image, node_image: &options.node.node_image, follow: &follow };
    Engine::connect().await?.build(&plan).await?;
    Ok(image)
}

async fn tell(options: &AddComponent, component: &Registered) -> Outcome {
    let (descriptor, stored) = (component.descriptor(), component.stored());
    let specs = descriptor.specs();
    if options.json {
        return print_json(&json!({ "name": stored.name, "image": stored.image, "operations": specs }));
    }
    anstream::println!("{} is registered: {} (image {})", stored.name, descriptor.title(), stored.image);
    for spec in &specs {
        anstream::println!("  {}  {}: {}", spec.name, reference::kind(spec.kind), spec.title);
    }
    let credential = descriptor.credential_fields();
    if !credential.is_empty() {
        let keys: Vec<&str> = credential.iter().map(|field| field.key.as_str()).collect();
        anstream::println!("its credential has: {}", keys.join(", "));
    }
    anstream::println!("\n`flowline components {}` shows the reference", stored.name);
    if lookup::runs_on(&options.data.data).await {
        anstream::println!("a server runs on {}: it knows the component after a restart", options.data.data.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn remove(options: &RemoveComponent) -> Outcome {
    registry::remove(&options.data.data, &options.name)?;
    anstream::println!("{} is not registered any more; its image stays", options.name);
    Ok(ExitCode::SUCCESS)
}
