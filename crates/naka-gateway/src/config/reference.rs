//! Every key of the file, as a page: `docs/configuration-keys.md`.
//!
//! A record stands once, at the place that has it itself; places that may name one in its stead link there.

use std::{collections::VecDeque, fmt::Write as _};

use super::{
    decode::{Decode as _, Form, Plain},
    raw::{RawApiKeys, RawFile, RawScenario},
    record::{Field, Mode, Shape, prose},
};

const HEAD: &str = "\
# All keys of the configuration

Written by a test from the declarations that also read the file, explain its mistakes and make `naka schema`
(`NAKA_BLESS=1 cargo test -p naka-gateway --test config -- reference`). How they work together is said in [configuration.md](configuration.md).

`*` in a path is a name of your own, `[]` an item of a list. `naka fmt` puts keys in the order in which they stand here. Where it says neither a default
nor *required*, what happens without the key stands in the description, or nothing does.
";

/// The page, in Markdown.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    let file = sections(&RawFile::form(), "");
    let keys = sections(&RawApiKeys::form(), "");
    let scenario = sections(&RawScenario::form(), "");
    part(&mut page, "The file", &file);
    part(&mut page, "A list of API keys", &keys);
    part(&mut page, "A scenario", &scenario);
    page
}

/// A record at its place.
struct Section {
    path: String,
    shape: &'static Shape,
    /// Where it stands in the file: the number of each key on the way.
    order: Vec<usize>,
    /// Other places that have such a record.
    others: Vec<String>,
}

/// What hosts of Markdown make of the heading of a section; of several that look alike, the later ones have a number.
fn anchor(section: &Section, sections: &[Section]) -> String {
    let plain = |section: &Section| {
        section.path.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect::<String>()
    };
    let before = sections.iter().take_while(|other| other.path != section.path);
    match before.filter(|other| plain(other) == plain(section)).count() {
        0 => plain(section),
        number => format!("{}-{number}", plain(section)),
    }
}

/// Where a record is found.
struct Found {
    shape: &'static Shape,
    path: String,
    order: Vec<usize>,
}

/// All records, in the order of the file.
fn sections(root: &Form, path: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    // A place that has a record itself is its home; one where it may be named as well waits.
    let (mut here, mut named) = (VecDeque::new(), VecDeque::new());
    let mut roots = Vec::new();
    records(root, path, true, &mut roots);
    here.extend(roots.into_iter().map(|(shape, path, _)| Found { shape, path, order: Vec::new() }));
    while let Some(found) = here.pop_front().or_else(|| named.pop_front()) {
        if let Some(known) = sections.iter_mut().find(|known| known.shape.name == found.shape.name) {
            if known.path != found.path {
                known.others.push(found.path);
            }
            continue;
        }
        for (number, field) in found.shape.fields.iter().enumerate() {
            let mut inner = Vec::new();
            records(&(field.form)(), &join(&found.path, field.key), true, &mut inner);
            for (shape, path, is_itself) in inner {
                let order = found.order.iter().copied().chain([number]).collect();
                let found = Found { shape, path, order };
                if is_itself { here.push_back(found) } else { named.push_back(found) }
            }
        }
        let Found { shape, path, order } = found;
        sections.push(Section { path, shape, order, others: Vec::new() });
    }
    sections.sort_by(|one, other| one.order.cmp(&other.order));
    sections
}

/// The records in a value, with their paths, and whether nothing else may stand there.
fn records(form: &Form, path: &str, is_itself: bool, found: &mut Vec<(&'static Shape, String, bool)>) {
    match form {
        Form::Text(_) => {}
        Form::Record(shape) => found.push((shape, path.to_owned(), is_itself)),
        Form::Named(_, each) => records(each, &join(path, "*"), is_itself, found),
        Form::List(each) => records(each, &format!("{path}[]"), is_itself, found),
        Form::Either(one, other) => {
            let is_itself = is_itself && !matches!(**one, Form::Text(_));
            records(one, path, is_itself, found);
            records(other, path, is_itself, found);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn part(page: &mut String, title: &str, sections: &[Section]) {
    let _ = writeln!(page, "\n## {title}"); // Text takes everything.
    for section in sections {
        if section.path.is_empty() {
            let _ = writeln!(page, "\n{}", prose(section.shape.docs));
        } else {
            let _ = writeln!(page, "\n### `{}`\n\n{}", section.path, prose(section.shape.docs));
        }
        if !section.others.is_empty() {
            let others = section.others.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>();
            let _ = writeln!(page, "Also at {}.", others.join(", "));
        }
        let _ = writeln!(
            page,
            "\n| Key | Type | Default | Unit | Example | What it says |\n| --- | --- | --- | --- | --- | --- |"
        );
        for field in section.shape.fields {
            let _ = writeln!(page, "{}", row(section, field, sections));
        }
        if !section.shape.not_built.is_empty() {
            let planned = section.shape.not_built.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>();
            let _ = writeln!(page, "\nPlanned, and refused by name: {}.", planned.join(", "));
        }
    }
}

fn row(section: &Section, field: &Field, sections: &[Section]) -> String {
    let form = (field.form)();
    let default = match field.mode {
        Mode::Required => "*required*".into(),
        Mode::Optional => String::new(),
        Mode::Default("") => "`\"\"`".into(),
        Mode::Default(text) => code(text),
    };
    let example = field.examples().first().map(|example| code(example)).unwrap_or_default();
    let cells = [
        code(&join(&section.path, field.key)),
        type_of(&form, sections),
        default,
        form.unit().to_owned(),
        example,
        prose(field.docs),
    ];
    format!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn type_of(form: &Form, sections: &[Section]) -> String {
    match form {
        Form::Text(plain) => kind(plain),
        Form::Record(shape) => {
            let home = sections.iter().find(|section| section.shape.name == shape.name);
            let link = |home: &Section| format!("[{}](#{})", code(&home.path), anchor(home, sections));
            home.map_or_else(|| shape.what.into(), link)
        }
        Form::Named(name, each) => format!("map from {} to {}", kind(name), type_of(each, sections)),
        Form::List(each) => format!("list, each {}", type_of(each, sections)),
        Form::Either(one, other) => match (&**one, &**other) {
            (one, Form::List(_)) if other.record().is_none() => {
                format!("{}, or a list of such", type_of(one, sections))
            }
            (one, other) => format!("{}, or {}", type_of(one, sections), type_of(other, sections)),
        },
    }
}

/// What a text is, without the examples that stand beside it.
fn kind(plain: &Plain) -> String {
    if !plain.words.is_empty() {
        return plain.words.iter().map(|word| code(word)).collect::<Vec<_>>().join(", ");
    }
    let schema = (plain.schema)();
    if let (Some(least), Some(most)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        return format!("{least} to {most}");
    }
    let what = plain.what.split_once(" such as ").map_or(plain.what, |(what, _)| what);
    let what = if plain.what.contains("`never`") && !what.contains("never") {
        format!("{what}, or `never`")
    } else {
        what.to_owned()
    };
    what.trim_start_matches("a ").trim_start_matches("an ").to_owned()
}
