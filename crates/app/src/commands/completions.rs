//! `flowline completions`: a completion script for a shell.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::cli::{Cli, Completions};

pub(super) fn run(options: &Completions) -> ExitCode {
    clap_complete::generate(options.shell, &mut Cli::command(), "flowline", &mut std::io::stdout());
    ExitCode::SUCCESS
}
