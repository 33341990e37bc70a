//! Tables and figures for people: aligned columns, ages, and texts cut to a line.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use flowline_model::Timestamp;

/// How a column stands.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    /// Words.
    Left(&'static str),
    /// Figures.
    Right(&'static str),
}

/// Prints rows below headings.
pub(crate) fn print(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Left(heading) | Column::Right(heading) => *heading,
    }));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| plain(&cell)));
    }
    for (index, column) in columns.iter().enumerate() {
        if let Some(style) = table.column_mut(index) {
            style.set_padding((0, 2));
            if matches!(column, Column::Right(_)) {
                style.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    for line in table.lines() {
        anstream::println!("{}", line.trim_end());
    }
}

/// The text without anything that could steer a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// The text, or so much of its first line as has a place.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let whole = line.len() == text.trim_end().len() && line.chars().count() <= longest;
    if whole { line.to_owned() } else { line.chars().take(longest.saturating_sub(1)).chain(['…']).collect() }
}

/// A length of time in its two greatest units: `3d 4h`, `12s`, `85ms`.
pub(crate) fn lapse(lapse: Duration) -> String {
    let seconds = lapse.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    if seconds == 0 {
        return format!("{}ms", lapse.as_millis());
    }
    let first = units.iter().position(|(_, unit)| seconds >= *unit).unwrap_or(3);
    let (name, unit) = units[first];
    let rest = units.get(first + 1).map(|(name, small)| (name, seconds % unit / small)).filter(|(_, rest)| *rest > 0);
    let rest = rest.map_or_else(String::new, |(name, rest)| format!(" {rest}{name}"));
    format!("{}{name}{rest}", seconds / unit)
}

/// How long ago an instant was.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    lapse(now.since(then))
}

/// The time of the machine.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A number of bytes with one decimal: `3.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| count >= *unit) {
        // Figures for people: an exact mantissa does not matter.
        #[allow(clippy::cast_precision_loss)]
        Some((name, unit)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_two_units() {
        let shown = |seconds| lapse(Duration::from_secs(seconds));
        assert_eq!([shown(5), shown(60), shown(3_700), shown(90_000)], ["5s", "1m", "1h 1m", "1d 1h"]);
        assert_eq!(lapse(Duration::from_millis(85)), "85ms");
    }

    #[test]
    fn long_texts_are_cut_to_a_line() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("one\ntwo", 10), "one…");
        assert_eq!(cut("äöüäöü", 4), "äöü…");
    }
}
