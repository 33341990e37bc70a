//! Failures: what a person at a terminal is told when a command does not work.
//!
//! One sentence says what went wrong and where; a hint, apart from it, says what to do.

use std::{fmt, process::ExitCode};

/// Why a command did not work.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

/// What a command comes to.
pub(crate) type Outcome<T = ExitCode> = Result<T, Failure>;

impl Failure {
    /// Something went wrong: exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1 }
    }

    /// The command was not used as it can be: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(message) }
    }

    /// Everything has been said already.
    pub(crate) fn silent() -> Self {
        Self::new("")
    }

    /// With what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With its texts changed.
    #[must_use]
    pub(crate) fn map_text(self, change: impl Fn(String) -> String) -> Self {
        Self { message: change(self.message), hint: self.hint.map(change), code: self.code }
    }

    /// Writes it to the terminal.
    pub(crate) fn print(&self) {
        if self.message.is_empty() {
            return;
        }
        anstream::eprintln!("\x1b[1;31merror\x1b[0m: {}", self.message);
        if let Some(hint) = &self.hint {
            anstream::eprintln!("\x1b[1;36mhint\x1b[0m: {hint}");
        }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, " ({hint})"))
    }
}

/// Puts what was being done in front of a library's error.
pub(crate) trait Doing<T> {
    /// `doing` names what failed, such as "the file x cannot be read".
    fn doing(self, doing: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::new(format!("{}: {error}", doing())))
    }
}
