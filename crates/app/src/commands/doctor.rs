//! `flowline doctor`: whether the files of the queues are whole, and their repair.

use crate::{
    cli::Doctor,
    failure::{Failure, Outcome},
};

pub(super) fn run(options: &Doctor) -> Outcome {
    let _ = (&options.data, options.repair, options.json);
    Err(Failure::new("not there yet"))
}
