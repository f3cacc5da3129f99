//! Each file of `mistakes/` is a configuration, a line of dashes, and what is said about it.
//! `NAKA_BLESS=1 cargo test` writes the second part anew; read the difference before you commit it.

use std::{collections::BTreeSet, fs, path::PathBuf};

use naka_gateway::config::{Code, Diagnostics, parse_str};

const CUT: &str = "\n-----\n";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config/mistakes")
}

fn said_about(text: &str) -> Diagnostics {
    match parse_str("gateway.yaml", text) {
        Ok((_, warnings)) => warnings,
        Err(found) => found,
    }
}

#[test]
fn messages_stay_as_they_are() {
    let bless = std::env::var_os("NAKA_BLESS").is_some();
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 25);
    let mut changed = Vec::new();
    for file in files {
        let whole = fs::read_to_string(&file).unwrap();
        let (text, expected) =
            whole.split_once(CUT).map_or((whole.as_str(), ""), |(text, said)| (text, said));
        let text = format!("{}\n", text.trim_end());
        let said = said_about(&text).render(false);
        if said.trim_end() == expected.trim_end() {
            continue;
        }
        if bless {
            fs::write(&file, format!("{}{CUT}{}\n", text.trim_end(), said.trim_end())).unwrap();
        } else {
            changed.push(format!("{}:\n{said}", file.display()));
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

/// A message without a place, or an error that does not say what to write, is half a message.
#[test]
fn every_message_has_a_place_and_a_help() {
    for entry in fs::read_dir(folder()).unwrap() {
        let whole = fs::read_to_string(entry.unwrap().path()).unwrap();
        let text = format!("{}\n", whole.split(CUT).next().unwrap().trim_end());
        let found = said_about(&text);
        assert!(!found.is_empty(), "{text}");
        for it in &found {
            assert!(it.place.line() >= 1 && it.place.column() >= 1, "{it:?}");
            assert!(it.help.is_some(), "{}: {}", it.place, it.message);
        }
        assert_eq!(found.to_json().as_array().unwrap().len(), found.len());
    }
}

#[test]
fn five_mistakes_are_five_messages() {
    let whole = fs::read_to_string(folder().join("five-mistakes.txt")).unwrap();
    let text = format!("{}\n", whole.split(CUT).next().unwrap().trim_end());
    let found = parse_str("gateway.yaml", &text).unwrap_err();
    let places: Vec<_> = found.iter().map(|it| (it.place.to_string(), it.code)).collect();
    assert_eq!(
        places,
        [
            ("gateway.yaml:2:26".to_owned(), Code::UnknownKey),
            ("gateway.yaml:4:60".to_owned(), Code::Value),
            ("gateway.yaml:6:35".to_owned(), Code::Value),
            ("gateway.yaml:10:15".to_owned(), Code::UnknownName),
            ("gateway.yaml:11:23".to_owned(), Code::Value),
        ]
    );
    assert!(found.iter().all(|it| it.help.is_some()));
}

/// Messages go to logs and to `/readyz`.
#[test]
fn secrets_in_wrong_places_are_in_no_message() {
    let whole = fs::read_to_string(folder().join("secrets-in-wrong-places.txt")).unwrap();
    let (written, said) = whole.split_once(CUT).unwrap();
    assert_eq!(written.matches("hunter2").count(), 7);
    assert!(
        said.contains("raw-syntax.yaml:") && said.contains("raw-map.yaml:") && said.contains("raw.yaml:")
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn columns_count_characters() {
    let found = parse_str("gateway.yaml", "listeners: {\"wéb\": {listen: x}}").unwrap_err();
    let columns: Vec<_> = found.iter().map(|it| (it.place.column(), it.place.end_column())).collect();
    assert_eq!(columns, [(13, 18), (29, 30)]);
}

#[test]
fn json_says_the_same() {
    let json = parse_str("gateway.yaml", "listeners: {web: {listn: ':80'}}").unwrap_err().to_json();
    let first = &json.as_array().unwrap()[0];
    assert_eq!(first["code"], "unknown-key");
    assert_eq!(first["severity"], "error");
    assert_eq!(
        (&first["file"], &first["line"], &first["column"]),
        (&"gateway.yaml".into(), &1.into(), &19.into())
    );
    assert_eq!(first["help"], "write `listen`");
    assert_eq!(json.as_array().unwrap().len(), 1, "a mistyped key is not missing too: {json:#}");
}

/// Codes are for scripts: each of them occurs in some file here.
#[test]
fn every_code_is_shown() {
    let seen: BTreeSet<_> = fs::read_dir(folder())
        .unwrap()
        .flat_map(|entry| {
            let whole = fs::read_to_string(entry.unwrap().path()).unwrap();
            let found = said_about(whole.split(CUT).next().unwrap());
            found.iter().map(|it| it.code.as_str()).collect::<Vec<_>>()
        })
        .collect();
    let all = [Code::Syntax, Code::UnknownKey, Code::Duplicate, Code::NotBuilt, Code::Shape, Code::Value];
    let all = all.iter().chain(&[Code::Missing, Code::UnknownName, Code::Conflict, Code::Unused]);
    assert!(all.clone().all(|code| seen.contains(code.as_str())), "{seen:?}");
}
