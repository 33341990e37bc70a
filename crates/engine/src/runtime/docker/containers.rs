//! The life of one container: made, started, watched, stopped, removed.

use std::time::Duration;

use bollard::{
    Docker as Api,
    errors::Error,
    models::{ContainerCreateBody, ContainerState},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, InspectContainerOptions,
        RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures::TryStreamExt;

use super::{Docker, client::is_absent, exit::Exit};
use crate::runtime::Trouble;

/// The longest time that fetching an image may take.
const FETCH: Duration = Duration::from_secs(15 * 60);
/// How often a container is looked at while the daemon is away.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of a container that is not running any more.
pub(super) enum Gone {
    /// It ended, and how.
    Exited(Exit),
    /// Somebody removed it.
    Removed,
}

impl Docker {
    /// The user that an image says; the image is fetched if it is not there.
    pub(super) async fn user_of(&self, image: &str) -> Result<Option<String>, Trouble> {
        let api = self.client.api().await?;
        let found = match api.inspect_image(image).await {
            Err(error) if is_absent(&error) => {
                self.fetch(&api, image).await?;
                api.inspect_image(image).await
            }
            found => found,
        };
        match found {
            Ok(found) => Ok(found.config.and_then(|config| config.user)),
            Err(error) => Err(self.client.failed(&format!("the image `{image}`"), &error).await),
        }
    }

    async fn fetch(&self, api: &Api, image: &str) -> Result<(), Trouble> {
        let name = if image.contains('@') || image.rsplit('/').next().is_some_and(|last| last.contains(':')) {
            image.to_owned()
        } else {
            format!("{image}:latest")
        };
        let options = CreateImageOptionsBuilder::default().from_image(&name).build();
        let fetched = api.create_image(Some(options), None, None).try_for_each(|_| async { Ok(()) });
        let what = format!("the image `{image}` is not there and cannot be fetched");
        match tokio::time::timeout(FETCH, fetched).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let trouble = self.client.failed(&what, &error).await;
                Err(Trouble::failed(trouble.text))
            }
            Err(_) => Err(Trouble::failed(format!("{what} within {FETCH:?}"))),
        }
    }

    /// Makes a container and starts it.
    pub(super) async fn run(&self, worker: &str, body: ContainerCreateBody) -> Result<(), Trouble> {
        let api = self.client.api().await?;
        // Nobody closes it.
        let _turn = self.starts.acquire().await;
        let made = async {
            let options = CreateContainerOptionsBuilder::default().name(worker).build();
            api.create_container(Some(options), body).await?;
            api.start_container(worker, None::<StartContainerOptions>).await
        };
        match made.await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.client.failed("the container could not be started", &error).await),
        }
    }

    /// Waits until a container does not run any more, however long the daemon is away meanwhile.
    pub(super) async fn gone(&self, worker: &str) -> Gone {
        loop {
            if let Ok(api) = self.client.api().await {
                let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
                // What it says is looked up below: it may also say that the daemon went away.
                let _ = api.wait_container(worker, Some(options)).try_for_each(|_| async { Ok(()) }).await;
                match self.look(&api, worker).await {
                    Ok(Some(gone)) => return gone,
                    Ok(None) => {}
                    Err(error) => drop(self.client.failed("a container", &error).await),
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How a container ended; none if it runs.
    async fn look(&self, api: &Api, worker: &str) -> Result<Option<Gone>, Error> {
        match api.inspect_container(worker, None::<InspectContainerOptions>).await {
            Ok(found) => {
                Ok(found.state.filter(|state| state.running != Some(true)).map(|state| Gone::Exited(exit(state))))
            }
            Err(error) if is_absent(&error) => Ok(Some(Gone::Removed)),
            Err(error) => Err(error),
        }
    }

    /// Asks a container to end, and kills it when its time is up.
    pub(super) async fn stop(&self, worker: &str, grace: Duration) -> Result<(), Trouble> {
        let api = self.client.api().await?;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        match api.stop_container(worker, Some(options)).await {
            Err(error) if !is_absent(&error) && !is_unchanged(&error) => {
                Err(self.client.failed("the container could not be stopped", &error).await)
            }
            _ => Ok(()),
        }
    }

    /// Removes a container, running or not.
    pub(super) async fn remove(&self, worker: &str) -> Result<(), Trouble> {
        let api = self.client.api().await?;
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match api.remove_container(worker, Some(options)).await {
            // 409: it is being removed already.
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) | Ok(()) => Ok(()),
            Err(error) => Err(self.client.failed("the container could not be removed", &error).await),
        }
    }
}

fn is_unchanged(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 304, .. })
}

fn exit(state: ContainerState) -> Exit {
    Exit {
        code: state.exit_code.unwrap_or(-1),
        out_of_memory: state.oom_killed.unwrap_or(false),
        error: state.error.unwrap_or_default(),
    }
}
