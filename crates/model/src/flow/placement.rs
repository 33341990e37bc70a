//! Reading where a step runs: `runtime`, `workers`, `prefetch` and `container`.

use std::num::NonZeroU32;

use serde_json::Value;

use super::{Placed, Reader};
use crate::{
    Size,
    document::{Content, Entry},
    problem::{Problem, ProblemCode},
    runtime::{ContainerLimits, MOST_WORKERS, Runtime, Workers},
};

/// The least memory that a container can start with.
const LEAST_MEMORY: Size = Size::mib(8);
/// The most processes of a container.
const MOST_PIDS: u64 = 100_000;

impl Reader<'_, '_> {
    pub(super) fn runtime(&mut self) -> Option<Placed<Runtime>> {
        let entry = self.get("runtime")?;
        let span = entry.value.span;
        let text = entry.value.as_str().unwrap_or_default();
        match text.parse() {
            Ok(value) => Some(Placed { value, span }),
            Err(_) if entry.value.as_str().is_none() => {
                self.wrong_type(entry, "a text");
                None
            }
            Err(_) => {
                let problem = Problem::new(ProblemCode::InvalidValue, span, format!("`{text}` is not a runtime"));
                self.problems.push(problem.did_you_mean(text, Runtime::ALL.map(Runtime::as_str)));
                None
            }
        }
    }

    pub(super) fn workers(&mut self) -> Option<Placed<Workers>> {
        let entry = self.get("workers")?;
        let span = entry.value.span;
        if !matches!(entry.value.content, Content::Map(_)) {
            return self.count("workers").map(|count| Placed { value: Workers::fixed(count), span });
        }
        let mut inner = Reader::new(&entry.value, "`workers`", self.problems)?;
        inner.known(&["min", "max"]);
        let min = inner.get("min").map_or(Some(1), |found| inner.whole(found, 0, u64::from(MOST_WORKERS)));
        let max = inner.required("max").and_then(|found| inner.whole(found, 1, u64::from(MOST_WORKERS)));
        let (min, max) = (u32::try_from(min?).ok()?, u32::try_from(max?).ok().and_then(NonZeroU32::new)?);
        if min > max.get() {
            let message = format!("`min` is {min} and `max` is {max}: it cannot be less");
            inner.note(ProblemCode::InvalidValue, span, message);
            return None;
        }
        Some(Placed { value: Workers { min, max }, span })
    }

    pub(super) fn prefetch(&mut self) -> Option<Placed<NonZeroU32>> {
        let span = self.get("prefetch")?.value.span;
        self.count("prefetch").map(|value| Placed { value, span })
    }

    pub(super) fn container(&mut self) -> Option<Placed<ContainerLimits>> {
        let entry = self.get("container")?;
        let mut limits = ContainerLimits::default();
        let mut inner = Reader::new(&entry.value, "`container`", self.problems)?;
        inner.known(&["memory", "cpus", "pids"]);
        if let Some(found) = inner.get("memory") {
            limits.memory = inner.memory(found).unwrap_or(limits.memory);
        }
        if let Some(found) = inner.get("cpus") {
            limits.cpus = inner.cpus(found).unwrap_or(limits.cpus);
        }
        if let Some(found) = inner.get("pids") {
            let pids = inner.whole(found, 1, MOST_PIDS).and_then(|pids| u32::try_from(pids).ok());
            limits.pids = pids.unwrap_or(limits.pids);
        }
        Some(Placed { value: limits, span: entry.key_span })
    }

    fn memory(&mut self, entry: &Entry) -> Option<Size> {
        let memory: Size = self.parsed(entry, ProblemCode::InvalidValue)?;
        if memory < LEAST_MEMORY {
            let message = format!("`memory` is at least {LEAST_MEMORY}: no container starts with less");
            self.note(ProblemCode::InvalidValue, entry.value.span, message);
            return None;
        }
        Some(memory)
    }

    fn cpus(&mut self, entry: &Entry) -> Option<f64> {
        let cpus = entry.value.to_json().as_f64().filter(|cpus| (0.01..=1_000.0).contains(cpus));
        if cpus.is_none() {
            let message = "`cpus` is a number from 0.01 to 1000".to_owned();
            self.note(ProblemCode::InvalidValue, entry.value.span, message);
        }
        cpus
    }

    /// A whole number within bounds.
    fn whole(&mut self, entry: &Entry, least: u64, most: u64) -> Option<u64> {
        let number = match &entry.value.content {
            Content::Scalar(Value::Number(number)) => number.as_u64(),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let message = format!("`{}` is a whole number from {least} to {most}", entry.key);
            self.note(ProblemCode::InvalidValue, entry.value.span, message);
        }
        number
    }
}
