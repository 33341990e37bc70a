//! Checks arbitrary text as a flow, against the operations that the model's own tests use.
#![no_main]

#[path = "../../crates/model/tests/operations/mod.rs"]
mod operations;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static OPERATIONS: LazyLock<
    std::collections::BTreeMap<String, std::sync::Arc<flowline_model::OperationSpec>>,
> = LazyLock::new(operations::operations);

fuzz_target!(|text: &str| {
    if let Err(problems) = flowline_model::check(text, &OPERATIONS) {
        assert!(!problems.is_empty());
        for problem in problems {
            assert!(problem.span.line >= 1 && problem.span.column >= 1 && problem.span.length >= 1);
        }
    }
});
