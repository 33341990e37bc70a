//! The embedded store keeps what every backend keeps.

use crate::steered::Embedded;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    flowline_queue::conformance::conformance(|| async { Embedded::new() }).await;
}
