//! Problems: what is wrong in a flow document, where, and what to do about it.

use std::fmt;

use serde::Serialize;

/// A stretch of one line of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Span {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// How many characters, at least 1.
    pub length: usize,
}

/// What kind of problem it is: a stable word with a page in `docs/problems`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The text is not YAML or JSON.
    Syntax,
    /// The document is longer, deeper or has more parts than a flow may.
    TooLarge,
    /// A key stands twice in one map.
    DuplicateKey,
    /// A key that nothing reads.
    UnknownKey,
    /// A key that must be there is not.
    MissingField,
    /// A value is of another type than it must be.
    WrongType,
    /// A value is of the right type but not allowed.
    InvalidValue,
    /// A name has characters that names do not have.
    InvalidName,
    /// `use` names an operation that there is not.
    UnknownOperation,
    /// `after`, `on_error` or `$steps` names a step that there is not.
    UnknownStep,
    /// `after` names an output that the step does not have.
    UnknownOutput,
    /// The flow has no trigger.
    NoTrigger,
    /// The flow has more than one trigger.
    TwoTriggers,
    /// A trigger stands after another step.
    TriggerAfter,
    /// No message can ever reach the step.
    Unreachable,
    /// Steps come after each other in a circle.
    Cycle,
    /// An expression is not JSONata.
    BadExpression,
    /// An expression reads a step that has not run by then.
    NotEarlier,
    /// An expression names a variable that there is not.
    UnknownVariable,
    /// A schedule is missing, not a schedule, or never due.
    BadSchedule,
    /// A step cannot run where it is said to, or not in the way it is said to there.
    WrongRuntime,
    /// What a worker is told once reads what changes with each message.
    NotConstant,
}

impl ProblemCode {
    /// Every code.
    pub const ALL: [ProblemCode; 22] = {
        use ProblemCode::*;
        [
            Syntax,
            TooLarge,
            DuplicateKey,
            UnknownKey,
            MissingField,
            WrongType,
            InvalidValue,
            InvalidName,
            UnknownOperation,
            UnknownStep,
            UnknownOutput,
            NoTrigger,
            TwoTriggers,
            TriggerAfter,
            Unreachable,
            Cycle,
            BadExpression,
            NotEarlier,
            UnknownVariable,
            BadSchedule,
            WrongRuntime,
            NotConstant,
        ]
    };

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        use ProblemCode::*;
        match self {
            Syntax => "syntax",
            TooLarge => "too-large",
            DuplicateKey => "duplicate-key",
            UnknownKey => "unknown-key",
            MissingField => "missing-field",
            WrongType => "wrong-type",
            InvalidValue => "invalid-value",
            InvalidName => "invalid-name",
            UnknownOperation => "unknown-operation",
            UnknownStep => "unknown-step",
            UnknownOutput => "unknown-output",
            NoTrigger => "no-trigger",
            TwoTriggers => "two-triggers",
            TriggerAfter => "trigger-after",
            Unreachable => "unreachable",
            Cycle => "cycle",
            BadExpression => "bad-expression",
            NotEarlier => "not-earlier",
            UnknownVariable => "unknown-variable",
            BadSchedule => "bad-schedule",
            WrongRuntime => "wrong-runtime",
            NotConstant => "not-constant",
        }
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something wrong in a flow document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What kind of problem it is.
    pub code: ProblemCode,
    /// One sentence: what is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(code: ProblemCode, span: Span, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), span, hint: None }
    }

    /// With what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With "did you mean …" if one of the known words is near.
    #[must_use]
    pub fn did_you_mean<'a>(mut self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        self.hint = nearest(word, &known)
            .map(|near| format!("did you mean `{near}`?"))
            .or_else(|| (!known.is_empty() && known.len() <= 12).then(|| format!("it can be: {}", known.join(", "))));
        self
    }
}

/// The known word that a mistyped one most likely means.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
