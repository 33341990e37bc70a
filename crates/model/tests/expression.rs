//! Expressions: what people use gives what they expect, and what runs away ends within limits.

use std::{
    borrow::Cow,
    process::Command,
    time::{Duration, Instant},
};

use flowline_model::{
    Expression,
    expression::{ExpressionError, Limits, Scope},
};
use serde_json::{Value, json};

fn evaluate(source: &str, body: &Value) -> Result<Option<Value>, ExpressionError> {
    Expression::compile(source)?.evaluate(&Scope::new(body), Limits::FULL)
}

fn order() -> Value {
    json!({
        "id": 7, "first": "Ada", "last": "Lovelace", "email": "ADA@Example.org ", "at": "2026-03-01T10:20:30Z",
        "tags": ["b", "a", "b"], "note": null, "empty": [], "one": [{"x": 1}],
        "lines": [
            {"sku": "A", "kind": "book", "price": 2, "quantity": 3},
            {"sku": "B", "kind": "pen", "price": 1.5, "quantity": 2},
            {"sku": "C", "kind": "book", "price": 10, "quantity": 1},
        ],
        "customer": {"name": "Ada", "address": {"city": "London"}},
    })
}

/// Features that people use: an expression, and its value for [`order`].
fn features() -> Vec<(&'static str, Option<Value>)> {
    let some = |value: Value| Some(value);
    vec![
        // Paths, and what is missing.
        ("customer.address.city", some(json!("London"))),
        ("missing.deeper", None),
        ("note", some(json!(null))),
        ("lines.sku", some(json!(["A", "B", "C"]))),
        ("lines[0].sku", some(json!("A"))),
        ("lines[-1].sku", some(json!("C"))),
        ("one.x", some(json!(1))),
        ("one.x[]", some(json!([1]))),
        ("lines[price > 100].sku", None),
        ("lines[kind = 'book'].sku", some(json!(["A", "C"]))),
        ("lines[[0..1]].sku", some(json!(["A", "B"]))),
        ("customer.*", some(json!(["Ada", {"city": "London"}]))),
        ("**.city", some(json!("London"))),
        ("lines.{'sku': sku, 'of': %.id}.of", some(json!([7, 7, 7]))),
        ("`first`", some(json!("Ada"))),
        // Operators.
        ("first & ' ' & last", some(json!("Ada Lovelace"))),
        ("id + 1", some(json!(8))),
        ("id / 2", some(json!(3.5))),
        ("id % 4", some(json!(3))),
        ("id > 5 and first = 'Ada'", some(json!(true))),
        ("'a' in tags", some(json!(true))),
        ("missing ? 1 : 2", some(json!(2))),
        ("missing ?? 'none'", some(json!("none"))),
        ("[1..4]", some(json!([1, 2, 3, 4]))),
        ("[id, [1..2], 5]", some(json!([7, [1, 2], 5]))),
        // Building, grouping, sorting.
        ("{'name': first, 'gone': missing}", some(json!({"name": "Ada"}))),
        ("lines.{'s': sku}", some(json!([{"s": "A"}, {"s": "B"}, {"s": "C"}]))),
        ("lines{kind: $sum(price)}", some(json!({"book": 12, "pen": 1.5}))),
        ("lines{sku: price}", some(json!({"A": 2, "B": 1.5, "C": 10}))),
        ("lines^(price).sku", some(json!(["B", "A", "C"]))),
        ("lines^(>price).sku", some(json!(["C", "A", "B"]))),
        ("$sum(lines.(price * quantity))", some(json!(19))),
        ("lines#$i.{'n': $i, 'sku': sku}[0]", some(json!({"n": 0, "sku": "A"}))),
        ("lines@$l.{'s': $l.sku}[1]", some(json!({"s": "B"}))),
        // Texts.
        ("$trim($lowercase(email))", some(json!("ada@example.org"))),
        ("$substringBefore(email, '@')", some(json!("ADA"))),
        ("$split('a,b,c', ',')", some(json!(["a", "b", "c"]))),
        ("$join(tags, '-')", some(json!("b-a-b"))),
        ("$join(tags, $string(id))", some(json!("b7a7b"))),
        ("$pad('7', -3, '0')", some(json!("007"))),
        ("$pad('7', -id, '0')", some(json!("0000007"))),
        ("id.$string().$pad(-3, '0')", some(json!("007"))),
        ("'7' ~> $pad(-3, '0')", some(json!("007"))),
        ("$replace('a-b-c', '-', '+')", some(json!("a+b+c"))),
        ("$replace('2026-03-01', /(\\d+)-(\\d+)-(\\d+)/, '$3.$2.$1')", some(json!("01.03.2026"))),
        ("$replace('abc', /b/, function($m) { $uppercase($m.match) })", some(json!("aBc"))),
        ("$replace('a-b', '-', last)", some(json!("aLovelaceb"))),
        ("first.$replace('A', $$.last)", some(json!("Lovelaceda"))),
        ("'a-b' ~> $replace('-', last)", some(json!("aLovelaceb"))),
        ("lines.($$.first ~> $uppercase())", some(json!(["ADA", "ADA", "ADA"]))),
        ("lines.(sku ~> $join($$.last))", some(json!(["A", "B", "C"]))),
        ("$contains(first, /^a/i)", some(json!(true))),
        ("$match('a1b22', /[0-9]+/).match", some(json!(["1", "22"]))),
        ("first.$match(/d./).match", some(json!("da"))),
        ("$string(customer)", some(json!("{\"name\":\"Ada\",\"address\":{\"city\":\"London\"}}"))),
        ("$base64encode('hi')", some(json!("aGk="))),
        ("$encodeUrlComponent('a b&c')", some(json!("a%20b%26c"))),
        ("$eval('{\"a\": [1, 2]}').a", some(json!([1, 2]))),
        ("$eval('first & \"!\"')", some(json!("Ada!"))),
        // Numbers.
        ("$number('12.50')", some(json!(12.5))),
        ("$round(2.345, 2)", some(json!(2.34))),
        ("$formatNumber(1234.5, '#,##0.00')", some(json!("1,234.50"))),
        ("$formatBase(255, 16)", some(json!("ff"))),
        ("$formatInteger(1999, 'I')", some(json!("MCMXCIX"))),
        ("0.1 + 0.2", some(json!(0.300_000_000_000_000_04))),
        ("9007199254740993", some(json!(9_007_199_254_740_992_i64))),
        // Dates.
        ("$toMillis(at)", some(json!(1_772_360_430_000_i64))),
        ("$fromMillis($toMillis(at), '[D01].[M01].[Y0001]')", some(json!("01.03.2026"))),
        ("$fromMillis($toMillis(at) + 86400000)", some(json!("2026-03-02T10:20:30.000Z"))),
        ("$toMillis('01.03.2026', '[D01].[M01].[Y0001]')", some(json!(1_772_323_200_000_i64))),
        ("$fromMillis(0, '[H01]:[m01] [z]', '+0200')", some(json!("02:00 GMT+02:00"))),
        // Functions of higher order, variables, recursion.
        ("$map(lines, function($l) { $l.sku })", some(json!(["A", "B", "C"]))),
        ("$map(tags, $uppercase)", some(json!(["B", "A", "B"]))),
        ("$filter(lines, function($l) { $l.price > 1.8 }).sku", some(json!(["A", "C"]))),
        ("$reduce([1..5], function($a, $b) { $a * $b })", some(json!(120))),
        ("$single(lines, function($l) { $l.sku = 'B' }).price", some(json!(1.5))),
        ("$sort(tags)", some(json!(["a", "b", "b"]))),
        ("$sort(lines, function($l, $r) { $l.price > $r.price }).sku", some(json!(["B", "A", "C"]))),
        ("$distinct(tags)", some(json!(["b", "a"]))),
        ("$each(customer.address, function($v, $k) { $k & '=' & $v })", some(json!("city=London"))),
        ("$sift(customer, function($v) { $type($v) = 'string' })", some(json!({"name": "Ada"}))),
        ("$merge([{'a': 1}, {'b': 2}])", some(json!({"a": 1, "b": 2}))),
        ("$spread({'a': 1, 'b': 2})", some(json!([{"a": 1}, {"b": 2}]))),
        ("$zip([1, 2], ['a', 'b'])", some(json!([[1, "a"], [2, "b"]]))),
        ("$append([1], [2, 3])", some(json!([1, 2, 3]))),
        ("$reverse([1..3])", some(json!([3, 2, 1]))),
        ("($x := 2; $y := $x * 3; $y + 1)", some(json!(7))),
        ("($x := [1..3]; $x[$ > 1])", some(json!([2, 3]))),
        ("($f := function($n) { $n <= 1 ? 1 : $n * $f($n - 1) }; $f(10))", some(json!(3_628_800))),
        ("($f := function($n, $a) { $n = 0 ? $a : $f($n - 1, $a + $n) }; $f(5000, 0))", some(json!(12_502_500))),
        ("($add := function($a, $b) { $a + $b }; $inc := $add(1, ?); $inc(4))", some(json!(5))),
        ("($up := $trim ~> $uppercase; $up(' a '))", some(json!("A"))),
        ("(lines ~> $map(function($l) { $l.price }) ~> $sum())", some(json!(13.5))),
        (
            "$ ~> |lines|{'price': price * 2}, ['kind']| ~> $lookup('lines') ~> $lookup('price')",
            some(json!([4, 3, 20])),
        ),
        ("$type($)", some(json!("object"))),
        ("$exists(missing)", some(json!(false))),
        ("$boolean([])", some(json!(false))),
        ("$count(lines)", some(json!(3))),
        ("$max(lines.price)", some(json!(10))),
        ("$average(missing)", None),
    ]
}

#[test]
fn what_people_use_gives_what_they_expect() {
    let wrong = features().into_iter().filter(|(source, expected)| evaluate(source, &order()).as_ref() != Ok(expected));
    let wrong: Vec<_> = wrong.map(|(source, expected)| (source, evaluate(source, &order()), expected)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The same within a function, which puts guards into it.
#[test]
fn guards_change_no_result() {
    for (source, expected) in features() {
        let within = format!("($guarded := 1; {source})");
        assert_eq!(evaluate(&within, &order()), Ok(expected), "{within}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    for (source, message) in [
        ("first + 1", "T2001: The left side of the + operator must evaluate to a number"),
        ("$number('x')", "D3030: Cannot convert 'x' to number"),
        ("$error('no such order')", "D3137: no such order"),
        ("$error('D1012 is not a timeout')", "D3137: D1012 is not a timeout"),
    ] {
        assert_eq!(evaluate(source, &order()), Err(ExpressionError::Evaluation(message.into())), "{source}");
    }
    for source in ["", "a +", "'open", "a b", "{", "$map($, $pad)", "$join(?, ?)", &"x".repeat(100_000)] {
        assert!(matches!(Expression::compile(source), Err(ExpressionError::Syntax(_))), "{source:.20}");
    }
}

#[test]
fn secrets_and_variables_are_seen_where_they_are_provided() {
    let expression = Expression::compile("$secret.key & $var.team & ($f := function() { $secret.key }; $f())").unwrap();
    let body = json!({});
    let mut scope = Scope::new(&body);
    scope.provide("secret", Cow::Owned(json!({"key": "k"})));
    scope.provide("var", Cow::Owned(json!({"team": "t"})));
    assert_eq!(expression.evaluate(&scope, Limits::FULL), Ok(Some(json!("ktk"))));
    // What `$eval` evaluates came from outside: it sees neither.
    let expression = Expression::compile("[$secret.key, $eval('$secret.key')]").unwrap();
    assert_eq!(expression.evaluate(&scope, Limits::FULL), Ok(Some(json!(["k"]))));
}

/// Expressions that would use all time or all memory; `big` is a text of a megabyte.
fn runaways() -> Vec<String> {
    let doubled = |end: &str| format!("($x := ['a']; {} {end})", "$x := [[$x], [$x]];".repeat(40));
    let given = [
        "($f := function() { $f() }; $f())",
        "($f := function($x) { $f($x + 1) + 1 }; $f(0))",
        "($f := function($x) { $f([$x, $x]) }; $f(1))",
        "($f := function($s, $n) { $n = 0 ? $s : $f($s & $s, $n - 1) }; $f('x', 40))",
        "($f := function($x, $n) { $n = 0 ? $x : $f({'a': $x, 'b': $x}, $n - 1) }; $sum($f(1, 40).**))",
        "$reduce([1..60], function($a, $i) { $a & $a }, big)",
        "$reduce([1..60], function($a, $i) { [[$a], [$a]] }, 'x').missing",
        "$pad('x', 1000000000)",
        "$pad('x', id * 1000000000000)",
        "id ~> $string() ~> $pad(1000000000)",
        "id.$string().$pad(1000000000)",
        "$replace(big, 'x', big)",
        "$replace(big, /x/, big)",
        "big.$replace('x', $$.big)",
        "big ~> $replace('x', big)",
        "$join([1..100000].('x'), big)",
        "$string([1..100000].{'a': $$.big})",
        "([1..100000].{'a': $$.big}) & ''",
        "([1..100000].{'a': $$.big}) = 1",
        "$map([1..100000], function($i) { $$.big & $i })",
        "[1..100000].($$.big & $)",
        "[1..100000].$uppercase($$.big)",
        "[1..100000].[$uppercase($$.big)]",
        "[1..100000].{'a': $split($$.big, '')}",
        "$map([1..100000], function($i) { $uppercase(big) })",
        "$each($merge([1..100000].{$string($): 1}), function($v) { $$.big & $v })",
        "$count($match(big, /x/))",
        "big.$match(/x/)",
        "[1..9999999].($ * 2)",
        "[1..1000].[[1..100000]]",
        "$fromMillis(0, '[,1]')",
        "$fromMillis(0, '[Y,1000000000]')",
        "$formatNumber(1, $pad('', 1000000, '0'))",
        "$formatInteger(1, big)",
        "$eval('$eval(\"$eval(1)\")' & big)",
        "($e := '$eval($e)'; $eval(\"($f := function() { $f() }; $f())\"))",
        "$contains(big, /(x+x+)+y/)",
        "$string($eval(big))",
    ];
    let ends = ["$x", "$x.missing", "$string($x)", "$x = [$x]", "$x.**", "$distinct([$x, $x])", "$x ~> |**|{'a': 1}|"];
    let chain = format!("'a'{}", ".[[$], [$]]".repeat(40));
    given.into_iter().map(str::to_owned).chain(ends.map(doubled)).chain([format!("$string({chain})"), chain]).collect()
}

/// What one evaluation may take at most, with everything else in the process.
const MOST_MEMORY: u64 = 1 << 30;
/// How long one evaluation may take at most, on a slow and busy machine without optimisation.
const LONGEST: Duration = Duration::from_secs(15);

#[test]
fn what_runs_away_ends_within_time_and_memory() {
    let program = std::env::current_exe().unwrap();
    for source in runaways() {
        let arguments = ["--ignored", "--exact", "one_evaluation", "--nocapture"];
        let output = Command::new(&program).args(arguments).env("EXPRESSION", &source).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{source}\n{told}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
#[ignore = "runs in a process of its own, for the test above"]
fn one_evaluation() {
    let Ok(source) = std::env::var("EXPRESSION") else { return };
    let body = json!({"big": "x".repeat(1 << 20), "id": 1});
    let began = Instant::now();
    let result = evaluate(&source, &body);
    let (took, memory) = (began.elapsed(), peak_memory());
    println!("{source:.60}: {took:?}, {} MiB, {:.80}", memory >> 20, format!("{result:?}"));
    assert!(took < LONGEST && memory < MOST_MEMORY);
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}
