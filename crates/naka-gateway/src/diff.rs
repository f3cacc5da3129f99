//! What would change between two configurations, in words.
//!
//! What the files say is compared key by key, whatever file it stands in and however it is written. What becomes of the state is
//! not guessed: the second is assembled from what the first has, as a reload does it, and this is its report.

use std::{collections::BTreeSet, fmt, path::Path};

use serde_json::{Value, json};

use crate::{
    carry::{Change, What},
    config::{Diagnostic, Diagnostics, Outline, Said, Spot, checked::Config, default_of},
    prepare::Prepared,
    reload::{RESTART_KEYS, counts, restart_keys},
};

/// What would change.
#[derive(Debug)]
pub struct Difference {
    /// What is said differently.
    pub changes: Vec<Changed>,
    /// What would become of the state; nobody knows but whoever has it.
    pub state: Option<Vec<Change>>,
    /// Secrets of which nobody knows whether they are the same: a running gateway does not tell them.
    pub withheld: Vec<Vec<String>>,
    /// What takes effect at the next start only.
    pub restart: Vec<&'static str>,
    /// Warnings that the first has not.
    pub warnings: Diagnostics,
    /// How many warnings of the first are gone.
    pub mended: usize,
}

/// One thing that is said differently.
#[derive(Debug)]
pub struct Changed {
    /// The keys that lead to it.
    pub path: Vec<String>,
    /// What was said.
    pub old: Option<Told>,
    /// What is said.
    pub new: Option<Told>,
    /// The routes that a policy is in force for.
    pub routes: Vec<String>,
}

/// What one side says.
#[derive(Clone, Debug)]
pub struct Told {
    /// In one line.
    pub text: String,
    /// Where; nowhere if it is the default.
    pub place: Option<Spot>,
}

/// The keys of the file whose entries have names: one that is new or gone is one change.
const NAMED: [&str; 6] = ["listeners", "policies", "upstreams", "groups", "routes", "tests"];

/// Routes that are named at a policy.
const SHOWN_ROUTES: usize = 5;

/// Characters of one that is new or gone.
const SHOWN: usize = 120;

/// Compares two configurations; `new` was prepared from the state of `old`.
pub fn diff(old: &Prepared, new: &Prepared) -> Difference {
    let changes = changes(&old.sources.outline(), &new.sources.outline(), &new.generation.config);
    let told = |all: &Diagnostics| all.iter().map(|it| it.message.clone()).collect::<BTreeSet<_>>();
    let (before, after) = (told(&old.warnings), told(&new.warnings));
    let is_new = |it: &&Diagnostic| !before.contains(&it.message);
    Difference {
        changes,
        state: Some(new.generation.report.clone()),
        withheld: Vec::new(),
        restart: restart_keys(&old.generation.config, &new.generation.config),
        warnings: Diagnostics::new(new.warnings.iter().filter(is_new).cloned().collect()),
        mended: before.difference(&after).count(),
    }
}

/// Compares what a running gateway says of itself with a configuration. What would become of its state, it finds out itself.
pub fn diff_live(running: &Outline, new: &Prepared) -> Difference {
    let outline = new.sources.outline();
    let changes = changes(running, &outline, &new.generation.config);
    let is_changed = |key: &&str| {
        let path: Vec<_> = key.split('.').collect();
        let default = default_of(&path);
        // In a record that is new the default may be written down.
        let is_default = |said: Option<&Told>| said.is_none_or(|said| Some(&*said.text) == default);
        let change = changes.iter().find(|change| change.path == path);
        change.is_some_and(|change| !(is_default(change.old.as_ref()) && is_default(change.new.as_ref())))
    };
    let restart = RESTART_KEYS.into_iter().filter(is_changed).collect();
    let is_withheld = |(path, said): &(&[String], &Said)| said.is_withheld() && outline.get(path).is_some();
    let withheld = running.iter().filter(is_withheld).map(|(path, _)| path.to_vec()).collect();
    let (warnings, mended) = (Diagnostics::new(Vec::new()), 0);
    Difference { changes, state: None, withheld, restart, warnings, mended }
}

fn changes(old: &Outline, new: &Outline, config: &Config) -> Vec<Changed> {
    let (was, is) = (entries(old), entries(new));
    let mut changes = Vec::new();
    for entry in was.union(&is) {
        let (was, is) = (was.contains(entry), is.contains(entry));
        if was && is {
            continue;
        }
        let told = |outline: &Outline, is_there: bool| is_there.then(|| summary(outline, entry));
        changes.push(Changed {
            path: entry.to_vec(),
            old: told(old, was),
            new: told(new, is),
            routes: Vec::new(),
        });
    }
    let paths = old.iter().chain(new.iter()).map(|(path, _)| path).collect::<BTreeSet<_>>();
    for path in paths {
        if entry_of(path).is_some_and(|entry| was.contains(entry) != is.contains(entry)) {
            continue;
        }
        let (was, is) = (old.get(path), new.get(path));
        let is_same = match (was, is) {
            (Some(was), Some(is)) => was.is_same(is),
            // Its record is not there on the other side: what it would say is not said.
            (Some(one), None) | (None, Some(one)) => one.is_default(),
            (None, None) => true,
        };
        if !is_same {
            changes.push(Changed {
                path: path.to_vec(),
                old: was.map(told),
                new: is.map(told),
                routes: Vec::new(),
            });
        }
    }
    for change in &mut changes {
        change.routes = routes_of(&change.path, config);
    }
    changes.sort_by(|one, other| rank(&one.path).cmp(&rank(&other.path)));
    changes
}

fn rank(path: &[String]) -> (usize, &[String]) {
    (NAMED.iter().position(|name| path[0] == *name).map_or(0, |place| place + 1), path)
}

/// The entry with a name that a path is in.
fn entry_of(path: &[String]) -> Option<&[String]> {
    let is_route = path[0] == "groups" && path.get(2).is_some_and(|key| key == "routes");
    let keys = if is_route { 4 } else { 2 };
    path.get(..keys).filter(|entry| NAMED.contains(&entry[0].as_str()))
}

fn entries(outline: &Outline) -> BTreeSet<&[String]> {
    outline.iter().filter_map(|(path, _)| entry_of(path)).collect()
}

/// All that an entry says, in one line.
fn summary(outline: &Outline, entry: &[String]) -> Told {
    let is_of_it = |(path, said): &(&[String], &Said)| path.starts_with(entry) && !said.is_default();
    let all = outline.iter().filter(is_of_it).collect::<Vec<_>>();
    let text = all.iter().map(|(path, said)| match path.get(entry.len()..) {
        Some(rest) if !rest.is_empty() => format!("{}: {}", rest.join("."), said.shown()),
        _ => said.shown().to_owned(),
    });
    let text = text.collect::<Vec<_>>().join(", ");
    let cut = text.char_indices().nth(SHOWN).map(|(at, _)| format!("{}…", &text[..at]));
    let places = all.iter().filter_map(|(_, said)| said.place.as_ref());
    let place = places.min_by_key(|place| (place.line, place.column)).cloned();
    Told { text: cut.unwrap_or(text), place }
}

fn told(said: &Said) -> Told {
    Told { text: said.shown().to_owned(), place: said.place.clone() }
}

/// For which routes a policy is in force.
fn routes_of(path: &[String], config: &Config) -> Vec<String> {
    let Some(name) = path.get(1).filter(|_| path[0] == "policies") else { return Vec::new() };
    let uses = config.routes.iter().filter(|(_, route)| route.policies.iter().any(|it| **it == **name));
    uses.map(|(route, _)| route.to_string()).collect()
}

impl Difference {
    /// Whether anything is said differently.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let told = |told: &Option<Told>| {
            let one = |told: &Told| json!({"value": told.text, "place": told.place.as_ref().map(ToString::to_string)});
            told.as_ref().map(one)
        };
        let changes = self.changes.iter().map(|change| {
            json!({
                "path": change.path.join("."),
                "old": told(&change.old),
                "new": told(&change.new),
                "routes": change.routes,
            })
        });
        let one = |it: &Change| json!({"kind": it.kind, "identity": &*it.identity, "what": it.what.word(), "was": it.was.as_deref()});
        let state = self.state.as_ref().map(|state| state.iter().map(one).collect::<Vec<_>>());
        json!({
            "changes": changes.collect::<Vec<_>>(),
            "state": state,
            "withheld": self.withheld.iter().map(|path| path.join(".")).collect::<Vec<_>>(),
            "restart": self.restart,
            "new_warnings": self.warnings.to_json(),
            "mended_warnings": self.mended,
        })
    }

    /// For people.
    pub fn render(&self, old: &str, new: &Path, color: bool) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = self.write(&mut text, (old, new), color);
        text
    }

    fn write(&self, f: &mut impl fmt::Write, (old, new): (&str, &Path), color: bool) -> fmt::Result {
        let new = new.display();
        if self.is_empty() {
            writeln!(f, "{old} and {new} say the same")?;
            return self.write_withheld(f);
        }
        writeln!(f, "{old} → {new}")?;
        let mut section = None;
        for change in &self.changes {
            if section != Some(&change.path[0]) {
                section = Some(&change.path[0]);
                writeln!(f, "\n{}", change.path[0])?;
            }
            writeln!(f, "  {change}")?;
        }
        if let Some(state) = &self.state {
            writeln!(f, "\nstate\n  {}", counts(state))?;
            for change in state.iter().filter(|it| it.what != What::Kept) {
                writeln!(f, "  {change}{}", meaning(change.what))?;
            }
        }
        if !self.restart.is_empty() {
            writeln!(f, "\nat the next start only\n  {}", self.restart.join(", "))?;
        }
        let count = self.warnings.iter().count();
        if count + self.mended > 0 {
            writeln!(f, "\nwarnings: {count} new, {} gone", self.mended)?;
            f.write_str(&self.warnings.render(color))?;
        }
        self.write_withheld(f)
    }

    fn write_withheld(&self, f: &mut impl fmt::Write) -> fmt::Result {
        if self.withheld.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nnot compared, as a running gateway tells no secrets")?;
        self.withheld.iter().try_for_each(|path| writeln!(f, "  {}", path.join(".")))
    }
}

const fn meaning(what: What) -> &'static str {
    match what {
        What::Kept | What::Restored => "",
        What::Migrated => ": what it counts goes on, under the new settings",
        What::Created => ", and begins with nothing",
        What::Buried => ": remembered for as long as its history means something",
        What::Dropped => ": forgotten",
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.len() > 1 { self.path[1..].join(".") } else { self.path.join(".") };
        let is_entry = entry_of(&self.path).is_some_and(|entry| entry.len() == self.path.len());
        match (&self.old, &self.new) {
            (None, Some(new)) if is_entry => write!(f, "+ {path}: {}", new.text)?,
            (Some(old), None) if is_entry => write!(f, "- {path}: {}", old.text)?,
            (old, new) => write!(f, "{path}: {} → {}", side(old.as_ref()), side(new.as_ref()))?,
        }
        match self.routes.split_at_checked(SHOWN_ROUTES) {
            None if self.routes.is_empty() => {}
            None => write!(f, "  (of {})", self.routes.join(", "))?,
            Some((shown, [])) => write!(f, "  (of {})", shown.join(", "))?,
            Some((shown, more)) => write!(f, "  (of {} and {} more)", shown.join(", "), more.len())?,
        }
        let place = [&self.new, &self.old].into_iter().flatten().find_map(|told| told.place.as_ref());
        place.map_or(Ok(()), |place| write!(f, "  {place}"))
    }
}

fn side(told: Option<&Told>) -> String {
    match told {
        None => "not said".to_owned(),
        Some(Told { text, place: None }) => format!("{text} (the default)"),
        Some(Told { text, .. }) => text.clone(),
    }
}
