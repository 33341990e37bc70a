//! Docker for the commands about components: looks into images, builds them, asks components.
//! Steps are run by the engine, not from here.

mod build;
mod service;

use std::{collections::HashMap, io::Read as _};

use bollard::{
    Docker,
    errors::Error,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptions, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use futures::TryStreamExt as _;

use crate::failure::{Failure, Outcome};

pub(crate) use build::Plan;
pub(crate) use service::Question;

/// The most bytes of one file that is read out of an image.
const LARGEST_FILE: usize = 8 << 20;
/// The label under which images say what component they hold.
const LABEL: &str = "elastic.io.component";
/// Where components lie in images that do not say where.
const USUAL_FOLDER: &str = "/home/node";

/// A Docker engine that answers.
pub(crate) struct Engine(Docker);

/// What an image says of itself.
pub(crate) struct About {
    /// The descriptor on its label.
    pub(crate) label: Option<String>,
    /// Where its component lies.
    pub(crate) folder: String,
}

/// What could not be done, in words; the engine's own message says why.
fn failed(what: &str, error: &Error) -> Failure {
    match error {
        Error::DockerResponseServerError { message, .. } => Failure::new(format!("{what}: {}", message.trim())),
        error => Failure::new(format!("{what}: {error}")),
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

impl Engine {
    /// The engine that `DOCKER_HOST` names, or the one of this machine.
    pub(crate) async fn connect() -> Outcome<Self> {
        let missing = |error: Error| {
            failed("no Docker engine can be reached", &error)
                .hint("start Docker, or name another engine with the environment variable DOCKER_HOST")
        };
        let docker = Docker::connect_with_defaults().map_err(missing)?;
        docker.negotiate_version().await.map(Self).map_err(missing)
    }

    /// What an image says of itself; none if there is no such image here.
    pub(crate) async fn about(&self, image: &str) -> Outcome<Option<About>> {
        let found = match self.0.inspect_image(image).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed(&format!("the image {image} cannot be looked at"), &error)),
        };
        let config = found.config.unwrap_or_default();
        let label = config.labels.and_then(|mut labels| labels.remove(LABEL));
        let folder = config.working_dir.filter(|folder| folder.len() > 1).unwrap_or_else(|| USUAL_FOLDER.to_owned());
        Ok(Some(About { label, folder }))
    }

    /// Reads files out of an image without starting it; those that are not there are left out.
    pub(crate) async fn files(&self, image: &str, paths: &[String]) -> Outcome<HashMap<String, Vec<u8>>> {
        let cannot = |error: &Error| failed(&format!("the image {image} cannot be looked into"), error);
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec!["/nothing".to_owned()]),
            ..ContainerCreateBody::default()
        };
        let container = self.0.create_container(None::<CreateContainerOptions>, body).await;
        let container = container.map_err(|error| cannot(&error))?.id;
        let mut found = HashMap::new();
        let mut result = Ok(());
        for path in paths {
            match self.file(&container, path).await {
                Ok(content) => drop(found.insert(path.clone(), content)),
                Err(error) if is_missing(&error) => {}
                Err(error) => result = Err(cannot(&error)),
            }
        }
        self.remove(&container).await;
        result.map(|()| found)
    }

    async fn file(&self, container: &str, path: &str) -> Result<Vec<u8>, Error> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut parts = self.0.download_from_container(container, Some(options));
        let mut archive = Vec::new();
        while let Some(part) = parts.try_next().await? {
            archive.extend_from_slice(&part);
            if archive.len() > LARGEST_FILE {
                return Err(std::io::Error::other(format!("{path} is too large")).into());
            }
        }
        let mut content = Vec::new();
        if let Some(entry) = tar::Archive::new(archive.as_slice()).entries()?.next() {
            entry?.read_to_end(&mut content)?;
        }
        Ok(content)
    }

    /// Removes a container; if that fails there is nothing more that could be done about it.
    async fn remove(&self, container: &str) {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let _ = self.0.remove_container(container, Some(options)).await;
    }
}
