//! Exit codes of containers, explained: what a number means and what to do about it.

use flowline_model::{ContainerLimits, Fault};

use crate::runtime::Ending;

/// How a container ended, as Docker tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Its exit code.
    pub(crate) code: i64,
    /// Whether the kernel killed something in it for lack of memory.
    pub(crate) out_of_memory: bool,
    /// What Docker says of a container that did not start.
    pub(crate) error: String,
}

/// What an exit means.
pub(crate) fn explain(exit: &Exit, limits: &ContainerLimits) -> Ending {
    if exit.out_of_memory {
        let text = format!("out of memory at {} (exit code {}): raise `container.memory`", limits.memory, exit.code);
        return Ending { fault: Fault::retry("out_of_memory", format!("its worker ended: {text}")), text };
    }
    let text = meaning(exit);
    Ending { fault: Fault::retry("worker_lost", format!("its worker ended: {text}")), text }
}

fn meaning(exit: &Exit) -> String {
    let Exit { code, error, .. } = exit;
    if !error.is_empty() {
        return format!("the container did not start: {error}");
    }
    match code {
        0 => "it ended by itself, without an error (exit code 0)".to_owned(),
        125 => "Docker could not run the container (exit code 125)".to_owned(),
        126 => "the command cannot be run: it is no program, or not permitted (exit code 126)".to_owned(),
        127 => "the command was not found in the image (exit code 127)".to_owned(),
        137 => "killed by SIGKILL (exit code 137): from outside, or by the kernel".to_owned(),
        139 => "crashed: it touched memory that is not its own, SIGSEGV (exit code 139)".to_owned(),
        143 => "ended by SIGTERM (exit code 143): somebody stopped it".to_owned(),
        129..=159 => format!("ended by signal {} (exit code {code})", code - 128),
        _ => format!("it failed (exit code {code}): its last lines in the step's log may say why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_says_what_it_means() {
        let limits = ContainerLimits::default();
        for (code, out_of_memory, error, part, fault) in [
            (137, true, "", "out of memory at 256MiB (exit code 137): raise `container.memory`", "out_of_memory"),
            (1, true, "", "out of memory", "out_of_memory"),
            (137, false, "", "SIGKILL", "worker_lost"),
            (127, false, "", "not found", "worker_lost"),
            (134, false, "", "signal 6", "worker_lost"),
            (0, false, "", "by itself", "worker_lost"),
            (3, false, "", "exit code 3", "worker_lost"),
            (128, false, "exec: no such file", "did not start: exec: no such file", "worker_lost"),
        ] {
            let ending = explain(&Exit { code, out_of_memory, error: error.to_owned() }, &limits);
            assert!(ending.text.contains(part), "{}", ending.text);
            assert_eq!(ending.fault.code, fault);
        }
    }
}
