//! The network of the containers: a bridge of their own, on which they see the server and the
//! outside world, but not each other.

use std::{collections::HashMap, net::IpAddr};

use bollard::{Docker as Api, errors::Error, models::NetworkCreateRequest, query_parameters::InspectNetworkOptions};

use super::client::{Client, is_absent};
use crate::{EngineError, runtime::Trouble, settings::DockerSettings};

/// Makes sure that the network of the containers is there; the server's address on it, where the
/// step gateway listens.
pub async fn docker_network(settings: &DockerSettings) -> Result<IpAddr, EngineError> {
    let client = Client::new(settings.host.as_deref());
    let docker = |trouble: Trouble| EngineError::Docker(trouble.text);
    let api = client.api().await.map_err(docker)?;
    let address = match ensure(&api, &settings.network).await {
        Ok(address) => address,
        Err(error) => return Err(docker(client.failed("the network", &error).await)),
    };
    address.ok_or_else(|| {
        EngineError::Docker(format!("the network `{}` has no gateway address: is it a bridge?", settings.network))
    })
}

/// The network's gateway address; the network is made if it is not there.
pub(super) async fn ensure(api: &Api, name: &str) -> Result<Option<IpAddr>, Error> {
    match inspect(api, name).await {
        Err(error) if is_absent(&error) => {}
        found => return found,
    }
    match api.create_network(request(name)).await {
        // Somebody else made it in the meantime.
        Err(Error::DockerResponseServerError { status_code: 409, .. }) | Ok(_) => inspect(api, name).await,
        Err(error) => Err(error),
    }
}

async fn inspect(api: &Api, name: &str) -> Result<Option<IpAddr>, Error> {
    let network = api.inspect_network(name, None::<InspectNetworkOptions>).await?;
    let configs = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    Ok(configs.into_iter().filter_map(|config| config.gateway?.parse().ok()).find(IpAddr::is_ipv4))
}

fn request(name: &str) -> NetworkCreateRequest {
    let apart = ("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned());
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        options: Some(HashMap::from([apart])),
        labels: Some(HashMap::from([("io.flowline".to_owned(), "network".to_owned())])),
        ..NetworkCreateRequest::default()
    }
}
