//! The network of the containers: a bridge of their own, on which they see the server and the
//! outside world, but not each other.

use std::{collections::HashMap, net::IpAddr};

use bollard::{Docker as Api, errors::Error, models::NetworkCreateRequest, query_parameters::InspectNetworkOptions};

use super::{Docker, client::is_absent};
use crate::runtime::Trouble;

impl Docker {
    /// The server's address on a network, where the step gateway listens; the network is made if
    /// it is not there.
    pub(super) async fn address_on(&self, network: &str) -> Result<IpAddr, Trouble> {
        let api = self.client.api().await?;
        let address = match ensure(&api, network).await {
            Ok(address) => address,
            Err(error) => return Err(self.client.failed("the network of the containers", &error).await),
        };
        let strange = || Trouble::failed(format!("the network `{network}` has no gateway address: is it a bridge?"));
        address.ok_or_else(strange)
    }
}

async fn ensure(api: &Api, name: &str) -> Result<Option<IpAddr>, Error> {
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
