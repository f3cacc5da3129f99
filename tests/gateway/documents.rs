//! What the documents name exists.

use std::{collections::BTreeSet, fs, path::Path};

/// All Rust sources of this repository, as one text.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let is_ours = !name.to_string_lossy().starts_with('.') && name != "target";
        if path.is_dir() && is_ours {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_test_that_systems_md_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/systems.md")).unwrap();
    let mut text = String::new();
    sources(root, &mut text);
    let quoted = page.split('`').skip(1).step_by(2).collect::<BTreeSet<_>>();
    // Reasons and commands are shorter.
    let is_test = |word: &&&str| {
        word.len() >= 20
            && word.contains('_')
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let tests = quoted.iter().filter(is_test).collect::<Vec<_>>();
    assert!(tests.len() > 50, "{tests:?}");
    // A word of ours, such as a long reason, stands in quotes where it is made.
    let is_word = |word: &str| text.contains(&format!("\"{word}\""));
    for test in tests.into_iter().filter(|test| !is_word(test)) {
        assert!(text.contains(&format!("fn {test}(")) || text.contains(&format!("fn {test}<")), "{test}");
    }
    for path in quoted
        .iter()
        .filter(|word| word.contains('/') && Path::new(word).extension().is_some_and(|it| it == "rs"))
    {
        assert!(root.join(path).is_file(), "{path}");
    }
}
