//! The network of the containers: a bridge of their own, on which they see the server and the
//! outside world, but not each other.

use std::{collections::HashMap, net::IpAddr};

use bollard::{
    Docker as Api,
    errors::Error,
    models::{Network as Found, NetworkCreateRequest},
    query_parameters::ListNetworksOptionsBuilder,
};

use super::Docker;
use crate::runtime::Trouble;

/// The network of containers.
#[derive(Clone, Debug)]
pub struct ContainerNetwork {
    /// Its id: names need not be unique.
    pub id: String,
    /// This machine's address on it, where a step gateway listens.
    pub address: IpAddr,
}

impl ContainerNetwork {
    /// The network with this name, made if it is not there; none if this machine has no address on
    /// it, as on one that is no bridge.
    pub async fn ensure(api: &Api, name: &str) -> Result<Option<Self>, Error> {
        let found = find_or_make(api, name).await?;
        Ok(found.and_then(|found| Some(Self { address: address(&found)?, id: found.id? })))
    }
}

impl Docker {
    /// The network with this name; it is made if it is not there.
    pub(super) async fn network(&self, name: &str) -> Result<ContainerNetwork, Trouble> {
        let api = self.client.api().await?;
        // One at a time: Docker makes several with the same name if it is asked at the same time.
        let _one = self.networks.lock().await;
        let network = match ContainerNetwork::ensure(&api, name).await {
            Ok(network) => network,
            Err(error) => return Err(self.client.failed("the network of the containers", &error).await),
        };
        let strange = || Trouble::failed(format!("the network `{name}` has no gateway address: is it a bridge?"));
        network.ok_or_else(strange)
    }
}

async fn find_or_make(api: &Api, name: &str) -> Result<Option<Found>, Error> {
    if let Some(found) = find(api, name).await? {
        return Ok(Some(found));
    }
    match api.create_network(request(name)).await {
        // Somebody else made it in the meantime.
        Err(Error::DockerResponseServerError { status_code: 409, .. }) | Ok(_) => find(api, name).await,
        Err(error) => Err(error),
    }
}

/// The network with this name; of several that servers made at the same time, the first.
async fn find(api: &Api, name: &str) -> Result<Option<Found>, Error> {
    let filters = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
    let found = api.list_networks(Some(ListNetworksOptionsBuilder::default().filters(&filters).build())).await?;
    // The filter finds parts of names, too.
    let found = found.into_iter().filter(|found| found.name.as_deref() == Some(name));
    Ok(found.min_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id))))
}

fn address(found: &Found) -> Option<IpAddr> {
    let configs = found.ipam.iter().flat_map(|ipam| ipam.config.iter().flatten());
    configs.filter_map(|config| config.gateway.as_ref()?.parse().ok()).find(IpAddr::is_ipv4)
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
