//! The components built into Flowline: one file each and one visible list
