//! Pages and guides: what they show is what happens.

mod operations;

use std::{borrow::Cow, fs, path::Path};

use flowline_model::{
    Expression, ProblemCode, check,
    expression::{Limits, Scope},
};
use operations::{operations, problems};
use serde_json::{Value, json};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a page that are in a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_problem_has_a_page_that_shows_it_and_how_to_mend_it() {
    for code in ProblemCode::ALL {
        let page = page(&format!("problems/{code}.md"));
        let examples = blocks(&page, "yaml");
        assert!(page.starts_with(&format!("# {code}\n")), "{code}");
        let found = check(examples[0], &operations()).unwrap_err();
        assert!(found.iter().any(|problem| problem.code == code), "{code}: {found:#?}");
        for mended in &examples[1..] {
            assert!(check(mended, &operations()).is_ok(), "{code}: {}", problems(mended));
        }
    }
}

#[test]
fn flows_of_the_guide_check() {
    let page = page("guides/flows.md");
    let flows = blocks(&page, "yaml");
    assert!(flows.len() > 5);
    for flow in flows {
        assert!(check(flow, &operations()).is_ok(), "{flow}\n{}", problems(flow));
    }
    for key in "name description steps on_error use title after when with retry runtime workers prefetch container rate order timeout \
                schedule limit first factor longest for messages bytes every cron time_zone misfire min max memory cpus pids"
        .split_whitespace()
    {
        assert!(page.contains(&format!("`{key}`")), "the guide does not tell of `{key}`");
    }
}

#[test]
fn recipes_of_the_guide_give_what_they_say() {
    let page = page("guides/expressions.md");
    let input: Value = serde_json::from_str(blocks(&page, "json")[0]).unwrap();
    let mut scope = Scope::new(&input);
    scope.provide("steps", Cow::Owned(json!({"form": {"source": "web"}})));
    scope.provide("headers", Cow::Owned(json!({"x-request": "42"})));
    scope.provide("flow", Cow::Owned(json!({"name": "orders", "version": 3})));
    scope.provide("var", Cow::Owned(json!({"team": "sales"})));
    // A row of a table is: what it is for | `expression` | `result`.
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let recipes = rows.filter_map(|row| {
        let (_, rest) = row.split_once(" | `")?;
        let (source, result) = rest.strip_suffix('`')?.rsplit_once("` | `")?;
        Some((source.replace("\\|", "|"), result))
    });
    let mut count = 0;
    for (source, result) in recipes {
        let expected = (result != "undefined").then(|| serde_json::from_str(result).expect(result));
        let expression = Expression::compile(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(expression.evaluate(&scope, Limits::FULL), Ok::<Option<Value>, _>(expected), "{source}");
        assert!(expression.reads().unknown.is_empty(), "{source}");
        count += 1;
    }
    assert!(count > 20, "only {count} recipes");
}
