//! The program `flowline`: reads the command line, runs one command, and says what went wrong.

mod api;
mod cli;
mod client;
mod commands;
mod config;
mod docker;
mod failure;
mod files;
mod guard;
mod inputs;
mod intake;
mod logging;
mod lookup;
mod problem_details;
mod reference;
mod registry;
mod render;
mod secrets;
mod server;
mod table;
mod watch;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Messages are many small values that are made on one thread and dropped on another: the
/// system's allocator took a sixth of all CPU time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    keep_memory_small();
    match config::read_arguments().and_then(commands::run) {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

/// Huge pages count whole wherever a part of them is used: 12 MB of an idle server, a third of one
/// with a thousand flows. The allocator asks for none (`no_thp`); here the system is told not to
/// give them unasked.
fn keep_memory_small() {
    #[cfg(target_os = "linux")]
    // Where the system does not let us, there is a little less memory for others.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
