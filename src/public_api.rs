//! Says which crates' types are in the interface of a library, and refuses those that shall not be.
//!
//!     RUSTC_BOOTSTRAP=1 cargo rustdoc -p naka --lib --all-features -- -Z unstable-options --output-format json
//!     cargo run --bin public-api -- target/doc/naka.json http http_body bytes …
//!
//! A type of another crate in an interface ties our version to that crate's: whoever wants the next version of it has to wait for ours.
//! Read is what rustdoc writes as JSON, and of that only what has not changed between its versions: `index`, `paths`,
//! `external_crates`, and in items `resolved_path` and `trait` with an `id`.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use serde_json::Value;

/// Those whose types anybody may use: the language's own.
const LANGUAGE: [&str; 3] = ["core", "alloc", "std"];

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let Some((file, allowed)) = args.split_first() else {
        eprintln!(
            "public-api FILE CRATE…: what rustdoc wrote, and the crates whose types may be in an interface"
        );
        return ExitCode::from(2);
    };
    let read = std::fs::read(file).map_err(|error| error.to_string());
    let read =
        read.and_then(|text| serde_json::from_slice::<Value>(&text).map_err(|error| error.to_string()));
    let said = match read {
        Ok(said) => said,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    };
    let found = foreign(&said);
    let is_allowed = |name: &str| LANGUAGE.contains(&name) || allowed.iter().any(|it| it == name);
    for (name, types) in &found {
        println!("{} {name}: {} types", if is_allowed(name) { "  " } else { "! " }, types.len());
    }
    let refused = found.iter().filter(|(name, _)| !is_allowed(name)).collect::<Vec<_>>();
    for (name, types) in &refused {
        eprintln!("`{name}` shall not be in the interface, and is:");
        types.iter().for_each(|(path, item)| eprintln!("  {path}, in {item}"));
    }
    if found.is_empty() {
        eprintln!("{file} names no type of any crate: it is read wrongly");
        return ExitCode::from(2);
    }
    if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The types of other crates by their crate, each with an item that has it.
fn foreign(said: &Value) -> BTreeMap<&str, BTreeSet<(String, String)>> {
    let mut found = BTreeMap::<_, BTreeSet<_>>::new();
    let items = said["index"].as_object().into_iter().flatten();
    for (_, item) in items.filter(|(_, item)| item["crate_id"] == 0) {
        let Some(inner) = item["inner"].as_object().and_then(|inner| inner.values().next()) else { continue };
        // What stands in no source: implementations for all types, and of auto traits.
        let is_made = !inner["blanket_impl"].is_null() || inner["is_synthetic"] == true;
        let is_generated = |path: &str| path.contains("::__private::"); // By a macro, for itself.
        if is_made {
            continue;
        }
        let mut ids = Vec::new();
        named(inner, &mut ids);
        for id in ids {
            let known = &said["paths"][id.to_string()];
            let of = known["crate_id"].as_u64().unwrap_or(0);
            let path = known["path"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let path = path.collect::<Vec<_>>().join("::");
            let name = said["external_crates"][of.to_string()]["name"].as_str();
            if let Some(name) = name.filter(|_| of != 0 && !is_generated(&path)) {
                let place = format!("{}:{}", item["span"]["filename"], item["span"]["begin"][0]);
                found.entry(name).or_default().insert((path, place));
            }
        }
    }
    found
}

/// The types and traits that an item names; what is inside it is an item of its own.
fn named(value: &Value, ids: &mut Vec<u64>) {
    match value {
        Value::Object(members) => {
            for (name, member) in
                members.iter().filter(|(name, _)| !["items", "impls"].contains(&name.as_str()))
            {
                if ["resolved_path", "trait"].contains(&name.as_str()) {
                    ids.extend(member["id"].as_u64());
                }
                named(member, ids);
            }
        }
        Value::Array(all) => all.iter().for_each(|one| named(one, ids)),
        _ => {}
    }
}
