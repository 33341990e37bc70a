//! Compiles an arbitrary source and evaluates it on an arbitrary body: source, zero byte, JSON.
#![no_main]

use flowline_model::{
    Expression,
    expression::{Limits, Scope},
};
use libfuzzer_sys::fuzz_target;

// Panics of the engine are caught and are errors; only one that gets out is a finding.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &str| {
    let (source, body) = input.split_once('\0').unwrap_or((input, "{\"a\": [1, {\"b\": \"text\"}], \"n\": null}"));
    let Ok(body) = serde_json::from_str::<serde_json::Value>(body) else { return };
    if let Ok(expression) = Expression::compile(source) {
        let _ = expression.evaluate(&Scope::new(&body), Limits::BRIEF);
    }
});
