//! Drawing: problems of a document with the line they stand on and a mark below it.

use std::{ops::Range, path::Path};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, renderer::DecorStyle};
use flowline_model::{Problem, Span};

/// The longest line that is shown as it is; of longer ones, a part around the mark.
const LONGEST_LINE: usize = 200;

/// Draws problems to standard error, in colour only where that is wanted.
pub(crate) fn print(path: &Path, text: &str, problems: &[Problem]) {
    for problem in problems {
        anstream::eprintln!("{}\n", draw(path, text, problem, true));
    }
}

/// One problem as text; `styled` writes colours, which the stream takes out where there are none.
pub(crate) fn draw(path: &Path, text: &str, problem: &Problem, styled: bool) -> String {
    let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
    let path = path.display().to_string();
    let code = problem.code.as_str();
    let page = format!("docs/problems/{code}.md");
    let (line, start) = shown(text, problem.span);
    let mark = AnnotationKind::Primary.span(bytes(line, Span { column: problem.span.column - start, ..problem.span }));
    let snippet = Snippet::source(line).line_start(problem.span.line.max(1)).path(path.as_str()).annotation(mark);
    let title = Level::ERROR.primary_title(problem.message.as_str()).id(code);
    let mut group = title.element(snippet);
    if let Some(hint) = &problem.hint {
        group = group.element(Level::HELP.message(hint.as_str()));
    }
    group = group.element(Level::NOTE.message(page));
    renderer.decor_style(DecorStyle::Ascii).render(&[group])
}

/// The line a span stands on, or the part of a very long one around it, and how many characters
/// were left out before it.
fn shown(text: &str, span: Span) -> (&str, usize) {
    let line = text.lines().nth(span.line.saturating_sub(1)).unwrap_or_default();
    let column = span.column.saturating_sub(1);
    if line.chars().count() <= LONGEST_LINE || span.column == 0 {
        return (line, 0);
    }
    let start = column.saturating_sub(LONGEST_LINE / 2);
    (&line[bytes_between(line, start, start + LONGEST_LINE)], start)
}

/// The bytes of a line that a span marks; at least the place where it begins.
fn bytes(line: &str, span: Span) -> Range<usize> {
    let start = span.column.saturating_sub(1);
    bytes_between(line, start, start + span.length.max(1))
}

fn bytes_between(line: &str, start: usize, end: usize) -> Range<usize> {
    let place = |characters: usize| line.char_indices().nth(characters).map_or(line.len(), |(place, _)| place);
    place(start)..place(end)
}

/// `1 problem`, `2 problems`.
pub(crate) fn count(number: usize, word: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {word}{ending}")
}

#[cfg(test)]
mod tests {
    use flowline_model::ProblemCode;

    use super::*;

    fn drawn(text: &str, span: Span) -> String {
        let problem = Problem::new(ProblemCode::UnknownKey, span, "a step has no `usee`").hint("did you mean `use`?");
        draw(Path::new("flow.yaml"), text, &problem, false)
    }

    #[test]
    fn a_problem_is_drawn_below_its_line() {
        insta::assert_snapshot!(drawn("name: ä\n  usee: x", Span { line: 2, column: 3, length: 4 }));
    }

    #[test]
    fn no_place_in_a_text_can_break_the_drawing() {
        for text in ["", "ä", "\n\n", "a\tb", &"x".repeat(5_000)] {
            for (line, column, length) in [(0, 0, 0), (1, 1, 1), (1, 9, 40), (7, 7, 7), (1, 4_999, 9)] {
                drawn(text, Span { line, column, length });
            }
        }
    }
}
