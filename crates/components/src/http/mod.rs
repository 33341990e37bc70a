//! What the HTTP operations share: one client with pooled connections, authentication, answers
//! read within limits, faults in words, and pagination. One subject per file.

pub(crate) mod answer;
pub(crate) mod auth;
pub(crate) mod client;
pub(crate) mod faults;
pub(crate) mod link;
pub(crate) mod pagination;
pub(crate) mod target;
pub(crate) mod tls;
