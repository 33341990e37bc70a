//! The embedded store against everything that happens to it: use, time, crashes, damage, a full
//! disk, a second process, other versions.

mod conforms;
mod damage;
mod deep;
mod faults;
mod kill;
mod model;
mod steered;
mod torn;
