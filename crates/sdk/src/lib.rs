//! Everything the author of a Flowline component imports
