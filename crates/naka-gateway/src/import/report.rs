//! What is said of an import: each thing that was not carried over, or means something else now, with its line.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use serde_json::{Value as Json, json};

use crate::config::{Place, Source, Span};

/// So many are kept; the rest is only counted.
const MAX_FINDINGS: usize = 10_000;

/// How far something was carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What was read is wrong: a field that does not exist, a name that nothing has.
    Error,
    /// It is right, and naka does not do it, or not in this way: it is not in what was written.
    LeftOut,
    /// It is there, and somebody has to add to it: a file, a secret, a list of addresses.
    Needs,
    /// It is there, and means something else than it did.
    Changed,
    /// It is there and means what it did, and is worth a look.
    Note,
}

impl Level {
    /// Its name, as shown; scripts may rely on it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::LeftOut => "left out",
            Self::Needs => "needs",
            Self::Changed => "changed",
            Self::Note => "note",
        }
    }
}

/// One thing, and where it stands.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How far it was carried over.
    pub level: Level,
    /// The offending text.
    pub place: Place,
    /// What it is of: kind, namespace and name.
    pub resource: String,
    /// What it is, and why.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl Finding {
    fn to_json(&self) -> Json {
        json!({
            "level": self.level.as_str(),
            "file": self.place.file().display().to_string(),
            "line": self.place.line(),
            "column": self.place.column(),
            "resource": self.resource,
            "message": self.message,
            "help": self.help,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, place, resource, message, help } = self;
        writeln!(f, "{place}: {}: {resource}: {message}", level.as_str())?;
        if help.is_empty() { Ok(()) } else { writeln!(f, "  help: {help}") }
    }
}

/// All of it, in the order of files and lines.
#[derive(Clone, Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
    /// How many there were besides.
    more: usize,
}

impl Report {
    /// What was found.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many of one level there are.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|it| it.level == level).count()
    }

    /// For programs: a list of objects.
    pub fn to_json(&self) -> Json {
        self.findings.iter().map(Finding::to_json).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|it| it.fmt(f))?;
        if self.more > 0 { writeln!(f, "and {} more", self.more) } else { Ok(()) }
    }
}

/// What is being found out, by whoever reads resources.
pub(super) struct Findings {
    sources: Vec<Arc<Source>>,
    /// Whose fields are read just now.
    resource: String,
    report: Report,
}

impl Findings {
    pub(super) fn new(sources: Vec<Arc<Source>>) -> Self {
        Self { sources, resource: String::new(), report: Report::default() }
    }

    /// From now on it is about this resource.
    pub(super) fn of(&mut self, resource: &str) {
        resource.clone_into(&mut self.resource);
    }

    pub(super) fn say(
        &mut self,
        level: Level,
        at: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.report.findings.len() >= MAX_FINDINGS {
            self.report.more += 1;
            return;
        }
        let place = self.place(at);
        // It is shown in terminals, and resources are written by others.
        let shown =
            |text: String| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let (resource, message, help) =
            (shown(self.resource.clone()), shown(message.into()), shown(help.into()));
        self.report.findings.push(Finding { level, place, resource, message, help });
    }

    pub(super) fn error(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        self.say(Level::Error, at, message, help);
    }

    pub(super) fn left_out(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        self.say(Level::LeftOut, at, message, help);
    }

    pub(super) fn needs(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        self.say(Level::Needs, at, message, help);
    }

    pub(super) fn changed(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        self.say(Level::Changed, at, message, help);
    }

    pub(super) fn note(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        self.say(Level::Note, at, message, help);
    }

    pub(super) fn place(&self, at: Span) -> Place {
        Place::new(Arc::clone(&self.sources[at.file()]), at.bytes())
    }

    /// File and line, for a comment.
    pub(super) fn line(&self, at: Span) -> String {
        let place = self.place(at);
        let mut line = String::new();
        // The name alone: who reads the comment later may have it somewhere else.
        let file = place.file().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let _ = write!(line, "{file}:{}", place.line());
        line.retain(|c| !c.is_control());
        line
    }

    pub(super) fn finish(self) -> Report {
        let mut report = self.report;
        let key = |it: &Finding| {
            (it.place.file().to_owned(), it.place.line(), it.place.column(), it.level, it.message.clone())
        };
        report.findings.sort_by_cached_key(key);
        report.findings.dedup_by_key(|it| key(it));
        report
    }
}
