//! What the two servers of the story share.
