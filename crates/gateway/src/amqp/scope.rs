//! What one worker may name: its step's queue, exchange and keys, and nothing else.

/// What a connection may reach once it is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The queue it may read.
    pub queue: String,
    /// The exchange it may publish to.
    pub exchange: String,
    /// The routing keys it may use.
    pub keys: Vec<String>,
    /// What the keys of replies begin with.
    pub replies: String,
    /// Messages that it takes at the same time, at most.
    pub prefetch: u32,
}

impl Scope {
    pub(crate) fn allows(&self, key: &str) -> bool {
        key.starts_with(&self.replies) || self.keys.iter().any(|allowed| allowed == key)
    }
}
