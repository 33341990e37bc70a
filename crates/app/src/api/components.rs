//! Components: the specs of every operation.

use axum::{Json, extract::State};
use serde::Serialize;

use super::Api;
use crate::reference::Component;

#[derive(Serialize)]
pub(super) struct Components {
    components: Vec<Component>,
}

pub(super) async fn list(State(api): State<Api>) -> Json<Components> {
    Json(Components { components: crate::reference::components(&api.registry) })
}
