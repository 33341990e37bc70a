//! Logging: to standard error, as text for people or as JSON for machines.

use std::io::{self, IsTerminal as _, Write};

use indicatif::MultiProgress;
use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::{LogFormat, LogLevel, Logging};

/// Libraries that say much at `info`.
const QUIET: [&str; 4] = ["hyper=warn", "sqlx=warn", "reqwest=warn", "rustls=warn"];

/// Standard error, above the progress bars if there are some.
#[derive(Clone)]
struct Lines(Option<MultiProgress>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().write_all(line);
        match &self.0 {
            Some(bars) => bars.suspend(write),
            None => write(),
        }?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Starts logging; once in a process.
pub(crate) fn start(logging: &Logging, bars: Option<MultiProgress>) {
    let level = match logging.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let directives =
        if matches!(logging.log_level, LogLevel::Error | LogLevel::Warn) { vec![] } else { QUIET.to_vec() };
    let filter = EnvFilter::new([vec![level], directives].concat().join(","));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = Lines(bars);
    let format = fmt().with_env_filter(filter).with_writer(move || lines.clone()).with_ansi(colours);
    match logging.log_format {
        LogFormat::Text => format.with_target(false).init(),
        LogFormat::Json => format.json().init(),
    }
}
