//! Garbage: nothing that a document or an expression can hold makes the core panic, hang or point
//! at a place that is not there. The same, for longer and guided by coverage, is in `fuzz/`.

mod operations;

use std::time::{Duration, Instant};

use flowline_model::{
    Expression, check,
    expression::{Limits, Scope},
};
use operations::operations;
use serde_json::json;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides.max(1)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

const FLOWS: [&str; 3] = [
    "name: test
steps:
  in: { use: webhook.receive, with: { verify: { hmac: { secret: '{{ $secret.a }}', header: x } } } }
  way: { use: router.switch, after: in, with: { routes: { large: 'total > 9', small: '{{ total < 2 }}' } } }
  next:
    use: http.request
    after: [way.large, way.otherwise]
    when: $steps.in.ok
    order: customer.id
    retry: { first: 1s, factor: 2, longest: 1h, for: 24h }
    limit: { messages: 10, bytes: 1MiB }
    with: { url: 'https://x/{{ id }}', method: POST, pages: { by: number, parameter: p }, timeout: 5s }
  log: { use: log.write }
on_error: log
",
    "{\"name\": \"test\", \"steps\": {\"in\": {\"use\": \"http.poll\", \"with\": {\"url\": \"x\"},
 \"schedule\": {\"cron\": \"0 8 * * *\", \"time_zone\": \"Europe/Berlin\", \"misfire\": \"all\"}}}}",
    "name: &n test\nsteps:\n  in: &s { use: webhook.receive }\n  a: { use: transform.map, after: in, with: { map: *n } }\n",
];

const EXPRESSIONS: [&str; 8] = [
    "($x := lines[price > 1]^(>price); $sum($x.(price * quantity)) & ' of ' & $count(lines))",
    "$map(lines, function($l, $i) { {'n': $i, 'sku': $l.sku ~> $lowercase()} })",
    "lines{kind: $join(sku, ', ')} ~> |$|{'a': [1..5]}, 'b'|",
    "$replace(first, /(a+)(b*)/i, function($m) { $m.groups[0] }) ?? $pad('x', -5, '0')",
    "$fromMillis($toMillis('2026-01-01'), '[Y0001]-[M01]-[D01]', '+0100') & $formatNumber(12.5, '#,##0.00')",
    "($f := function($n) { $n < 2 ? 1 : $n * $f($n - 1) }; $reduce([1..6], function($a, $b) { $a + $f($b) }))",
    "lines@$l#$i.{'a': $l.**.sku, 'p': %.first, 'w': *}[$i < 2]",
    "$eval('[1, 2, {\"a\": $}]') ~> $merge() ~> $each(function($v, $k) { $k & $string($v) })",
];

const BITS: [&str; 40] = [
    "{{",
    "}}",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "$",
    "$$",
    ".",
    "..",
    ":=",
    "~>",
    "^(",
    "|",
    "**",
    "*",
    "%",
    "@$a",
    "#$i",
    "?",
    ":",
    ",",
    "\"",
    "'",
    "\n",
    "  ",
    "\t",
    "- ",
    "&a ",
    "*a",
    "!!str ",
    "0",
    "-1e999",
    "9999999999",
    "null",
    "ä€😀",
    "$steps.in",
    "function($x){$x}",
];

/// A text with a few stretches taken out, doubled or replaced.
fn mutate(text: &str, dice: &mut Dice) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..=dice.roll(4) {
        let from = dice.roll(letters.len() + 1);
        let to = (from + dice.roll(12)).min(letters.len());
        let stretch: Vec<char> = match dice.roll(4) {
            0 => Vec::new(),
            1 => letters[from..to].repeat(2),
            _ => dice.pick(&BITS).chars().collect(),
        };
        letters.splice(from..to, stretch);
    }
    letters.into_iter().collect()
}

#[test]
fn documents_of_any_kind_are_checked() {
    let operations = operations();
    let mut dice = Dice(1);
    for round in 0..4_000 {
        let text = mutate(FLOWS[round % FLOWS.len()], &mut dice);
        let Err(problems) = check(&text, &operations) else { continue };
        assert!(!problems.is_empty(), "{text}");
        for problem in problems {
            let line = text.lines().nth(problem.span.line.saturating_sub(1)).unwrap_or_default();
            let within = problem.span.column + problem.span.length <= line.chars().count() + 2;
            let somewhere = problem.span.line >= 1 && problem.span.column >= 1 && problem.span.length >= 1;
            assert!(somewhere && (within || problem.span.length == 1), "{problem:?}\n{text}");
        }
    }
}

#[test]
fn expressions_of_any_kind_end() {
    let body = json!({"first": "aab", "lines": [{"sku": "A", "kind": "k", "price": 2, "quantity": 1}], "n": null});
    let limits = Limits { time: Duration::from_millis(50), ..Limits::FULL };
    let mut dice = Dice(2);
    for round in 0..4_000 {
        let source = mutate(EXPRESSIONS[round % EXPRESSIONS.len()], &mut dice);
        let began = Instant::now();
        let result = Expression::compile(&source).and_then(|it| it.evaluate(&Scope::new(&body), limits));
        assert!(began.elapsed() < Duration::from_secs(5), "{source}: {result:?}");
    }
}

#[test]
fn deep_documents_and_expressions_are_refused_without_harm() {
    for open in ["[", "(", "{'a':", "-", "a.", "a[", "function($x){", "$f(", "1+", "a?", "|"] {
        for times in [10, 500, 990, 5_000] {
            let source = open.repeat(times) + "1";
            let result = Expression::compile(&source).and_then(|it| it.evaluate(&Scope::new(&json!({})), Limits::FULL));
            drop(result);
            drop(check(&format!("name: {source}"), &operations()));
        }
    }
}
