//! Figures: what was measured beside what was wanted.

use std::fmt;

/// One line of the table.
pub(crate) struct Figure {
    name: String,
    measured: String,
    target: Option<Target>,
}

/// What was wanted, and whether it is so.
struct Target {
    wanted: String,
    met: bool,
}

impl Figure {
    /// A figure without a target.
    pub(crate) fn new(name: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { name: name.into(), measured: measured.into(), target: None }
    }

    /// A figure that should be at least as high as the target.
    pub(crate) fn at_least(name: impl Into<String>, measured: f64, target: f64, unit: &str) -> Self {
        Self::against(name, measured, format!("≥ {target}{unit}"), measured >= target, unit)
    }

    /// A figure that should be no higher than the target.
    pub(crate) fn at_most(name: impl Into<String>, measured: f64, target: f64, unit: &str) -> Self {
        Self::against(name, measured, format!("≤ {target}{unit}"), measured <= target, unit)
    }

    fn against(name: impl Into<String>, measured: f64, wanted: String, met: bool, unit: &str) -> Self {
        let measured = format!("{measured:.2}{unit}");
        Self { name: name.into(), measured, target: Some(Target { wanted, met }) }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {:<64} | {:>22} |", self.name, self.measured)?;
        match &self.target {
            Some(target) => write!(f, " {:>12} | {:<6} |", target.wanted, if target.met { "met" } else { "missed" }),
            None => write!(f, " {:>12} | {:<6} |", "", ""),
        }
    }
}

/// Prints a table of figures, as Markdown.
pub(crate) fn print(title: &str, figures: &[Figure]) {
    println!("\n### {title}\n\n| {:<64} | {:>22} | {:>12} | {:<6} |", "Figure", "Measured", "Target", "");
    println!("|{:-<66}|{:->23}:|{:->13}:|{:-<8}|", "", "", "", "");
    for figure in figures {
        println!("{figure}");
    }
}
