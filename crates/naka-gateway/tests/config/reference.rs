//! The schema and the page of all keys: both come from the declarations, and say enough of each key.

use std::{collections::BTreeSet, fs, path::Path};

use naka_gateway::config::{reference, schema};
use serde_json::Value;

/// Calls `visit` with each property, wherever it stands.
fn each_property(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    match schema {
        Value::Object(keys) => {
            for (key, value) in keys {
                if let ("properties", Some(properties)) = (key.as_str(), value.as_object()) {
                    for (name, property) in properties {
                        let path = format!("{path}.{name}");
                        visit(&path, property);
                        each_property(property, &path, visit);
                    }
                } else if key != "examples" && key != "default" {
                    each_property(value, path, visit);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_property(item, path, visit)),
        _ => {}
    }
}

#[test]
fn every_property_has_a_description_and_an_example() {
    let (mut bare, mut seen) = (BTreeSet::new(), 0);
    each_property(&schema(), "", &mut |path, property| {
        seen += 1;
        let is_described = property["description"].as_str().is_some_and(|text| !text.trim().is_empty());
        let has_example =
            property["examples"].as_array().is_some_and(|all| !all.is_empty() && !all.contains(&Value::Null));
        if !(is_described && has_example) {
            bare.insert(path.to_owned());
        }
    });
    assert!(seen > 1000, "{seen}");
    assert!(bare.is_empty(), "{bare:#?}");
}

#[test]
fn the_page_of_all_keys_is_that_of_the_declarations() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration-keys.md");
    let page = reference();
    if std::env::var_os("NAKA_BLESS").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap();
    let differs = written.lines().zip(page.lines()).find(|(written, is)| written != is);
    assert!(
        written == page,
        "docs/configuration-keys.md is not what the declarations say: run `NAKA_BLESS=1 cargo test -p naka-gateway --test config`\n{differs:?}"
    );
}

/// No key of the schema is missing on the page, and all links lead somewhere.
#[test]
fn the_page_has_every_key_and_its_links_lead_somewhere() {
    let page = reference();
    let mut headings = BTreeSet::new();
    for path in page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')) {
        let anchor: String = path.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let again = (1..).map(|number| format!("{anchor}-{number}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|anchor| !headings.contains(anchor));
        headings.insert(free.unwrap());
    }
    assert!(headings.contains("upstreamsendpoints-1"), "two look alike: {headings:?}");
    let links: Vec<_> = page.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() > 50, "{links:?}");
    assert!(links.iter().all(|link| headings.contains(*link)), "{links:?} {headings:?}");
    let rows: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next()?.rsplit('.').next())
        .collect();
    each_property(&schema(), "", &mut |path, _| {
        let key = path.rsplit('.').next().unwrap();
        assert!(rows.contains(key), "{path}");
    });
}
