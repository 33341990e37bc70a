//! Tests of operations without an engine: a host in memory with a clock that stands still, and
//! the checks that every operation passes.
//!
//! ```
//! # use flowline_sdk::{prelude::*, testing::TestHost};
//! # struct Count;
//! # impl Action for Count {
//! #     type Config = ();
//! #     fn spec() -> OperationSpec { OperationSpec::action("demo.count", "Count", "Counts.") }
//! #     async fn run(&self, cx: &Context, _: (), _: Message) -> Result<Vec<Emit>, Fault> {
//! #         let seen = cx.state::<u64>("seen").await?.unwrap_or(0) + 1;
//! #         cx.remember("seen", seen)?;
//! #         Ok(vec![Emit::new(seen)])
//! #     }
//! # }
//! # futures::executor::block_on(async {
//! let host = TestHost::new();
//! for expected in 1..=3 {
//!     let ran = host.run_typed(&Count, (), host.message(json!({}))).await.unwrap();
//!     assert_eq!(ran.emits, [Emit::new(expected)]);
//! }
//! # });
//! ```

mod conformance;
mod host;

use bytes::Bytes;
use flowline_model::{Emit, Reply};
use futures::{StreamExt, TryStreamExt, stream};

pub use conformance::conformance;
pub use host::TestHost;

use crate::{ByteStream, Request};

/// What one run of an action came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// What it emitted.
    pub emits: Vec<Emit>,
    /// The answer to the webhook's caller.
    pub reply: Option<Reply>,
}

/// A request to a webhook: the target is a path with or without a query.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect(),
        body: in_parts(body.into()),
    }
}

/// Content that comes in small parts, as from a network.
pub fn in_parts(content: Bytes) -> ByteStream {
    const PART: usize = 61;
    let parts: Vec<_> = content.chunks(PART).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    stream::iter(parts).boxed()
}

/// All of a stream.
pub async fn collect(content: ByteStream) -> std::io::Result<Bytes> {
    let parts: Vec<Bytes> = content.try_collect().await?;
    Ok(parts.concat().into())
}
