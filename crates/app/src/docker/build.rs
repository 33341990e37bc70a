//! Building the image of a component from its folder.

use std::{collections::HashMap, fs::File, io, path::Path};

use bollard::query_parameters::BuildImageOptionsBuilder;
use futures::TryStreamExt as _;
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::{Engine, failed};
use crate::failure::{Doing as _, Failure, Outcome};

/// The most bytes of a component's folder.
const LARGEST: u64 = 512 << 20;
/// Lines of a failed build that are shown.
const SHOWN: usize = 30;
/// What never belongs into an image.
const LEFT_OUT: [&str; 2] = ["node_modules", ".git"];
/// The file that is sent along for folders that have none.
const OWN_DOCKERFILE: &str = ".flowline.Dockerfile";

/// What is to be built.
pub(crate) struct Plan<'a> {
    pub(crate) folder: &'a Path,
    /// The image's name.
    pub(crate) image: &'a str,
    /// The image that components without a Dockerfile are built on.
    pub(crate) node_image: &'a str,
    /// Whoever wants to follow.
    pub(crate) follow: &'a (dyn Fn(&str) + Sync),
}

/// How a component without a Dockerfile is built: as its own package.json says.
fn dockerfile(package: &Value) -> String {
    let script = |name: &str| package.pointer(&format!("/scripts/{name}")).and_then(Value::as_str);
    let compiles = |name: &&str| script(name).is_some_and(|script| *name == "build" || script.contains("tsc"));
    // TypeScript components compile in one of these; some with `tsc` after their tests.
    let build = ["build", "compile", "prepare", "posttest", "pretest"].into_iter().find(compiles);
    let install = match build {
        None => "RUN npm install --omit=dev --no-audit --no-fund\nCOPY . .".to_owned(),
        Some(script) => format!(
            "RUN npm install --ignore-scripts=false --no-audit --no-fund\nCOPY . .\n\
             RUN npm run {script} && npm prune --omit=dev --no-audit --no-fund"
        ),
    };
    format!(
        "ARG BASE\nFROM ${{BASE}} AS build\nUSER root\nWORKDIR /home/node\n\
         COPY package*.json .npmr[c] ./\n{install}\nRUN rm -f .npmrc {OWN_DOCKERFILE}\n\n\
         FROM ${{BASE}}\nWORKDIR /home/node\nCOPY --from=build --chown=node:node /home/node ./\nUSER node\n\
         ENTRYPOINT []\nCMD [\"node\", \"./node_modules/elasticio-sailor-nodejs/run.js\"]\n"
    )
}

/// Writes the folder as an archive; links are written as links.
fn archive(folder: &Path, own: Option<&str>) -> io::Result<File> {
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    archive.follow_symlinks(false);
    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        size += length(&path, 0)?;
        if size > LARGEST {
            return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20)));
        }
        if entry.file_type()?.is_dir() {
            archive.append_dir_all(&name, &path)?;
        } else {
            archive.append_path_with_name(&path, &name)?;
        }
    }
    if let Some(text) = own {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, OWN_DOCKERFILE, text.as_bytes())?;
    }
    let mut file = archive.into_inner()?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

/// The bytes of a file or of everything in a folder.
fn length(path: &Path, depth: usize) -> io::Result<u64> {
    let what = std::fs::symlink_metadata(path)?;
    if !what.is_dir() || depth > 64 {
        return Ok(what.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        sum += length(&entry?.path(), depth + 1)?;
    }
    Ok(sum)
}

impl Engine {
    /// Builds the image of a component from its folder.
    pub(crate) async fn build(&self, plan: &Plan<'_>) -> Outcome<()> {
        let own = if plan.folder.join("Dockerfile").is_file() { None } else { Some(own_dockerfile(plan.folder)?) };
        if own.is_some() && self.about(plan.node_image).await?.is_none() {
            return Err(Failure::new(format!("the image {} that the component is to be built on is not there", plan.node_image))
                .hint("make it with `make images`, or name another with `--node-image`, such as node:20-slim after `docker pull`"));
        }
        let (folder, text) = (plan.folder.to_owned(), own.clone());
        let archived = tokio::task::spawn_blocking(move || archive(&folder, text.as_deref())).await;
        let cannot = || format!("the folder {} cannot be read", plan.folder.display());
        let file = archived.doing(cannot)?.doing(cannot)?;
        let context = bollard::body_try_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
        let arguments = HashMap::from([("BASE", plan.node_image)]);
        let dockerfile = if own.is_some() { OWN_DOCKERFILE } else { "Dockerfile" };
        let options = BuildImageOptionsBuilder::default().dockerfile(dockerfile).t(plan.image).rm(true).forcerm(true);
        let options = options.buildargs(&arguments).build();
        self.follow(plan, self.0.build_image(options, None, Some(context))).await
    }

    async fn follow(
        &self,
        plan: &Plan<'_>,
        progress: impl futures::Stream<Item = Result<bollard::models::BuildInfo, bollard::errors::Error>>,
    ) -> Outcome<()> {
        let mut progress = std::pin::pin!(progress);
        let mut last: Vec<String> = Vec::new();
        let what = format!("the image {} cannot be built", plan.image);
        let told = |why: String, last: &[String]| {
            last.iter().for_each(|line| anstream::eprintln!("  {line}"));
            Failure::new(why)
        };
        loop {
            match progress.try_next().await {
                Ok(None) => return Ok(()),
                Ok(Some(info)) => {
                    if let Some(error) = info.error_detail.and_then(|detail| detail.message) {
                        return Err(told(format!("{what}: {error}"), &last));
                    }
                    for line in info.stream.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty())
                    {
                        (plan.follow)(line);
                        last.push(line.to_owned());
                        last.drain(..last.len().saturating_sub(SHOWN));
                    }
                }
                Err(error) => return Err(told(failed(&what, &error).to_string(), &last)),
            }
        }
    }
}

fn own_dockerfile(folder: &Path) -> Outcome<String> {
    let path = folder.join("package.json");
    let cannot = || format!("{} cannot be read", path.display());
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::new(format!("{}: {error}", cannot()))
            .hint("a component without a Dockerfile is built with npm, which needs a package.json")
    })?;
    let package: Value = serde_json::from_str(&text).doing(cannot)?;
    Ok(dockerfile(&package))
}
