//! Several files: including, holding, strictness.

use std::{
    fs,
    path::{Path, PathBuf},
};

use naka_gateway::config::{Code, Diagnostics, Loaded, load};

/// A folder of its own for one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("routes.d")).unwrap();
        let it = Self(path);
        it.write("gateway.yaml", ENTRY);
        it
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }

    fn load(&self, previous: Option<&Loaded>) -> Result<Loaded, Diagnostics> {
        load(&self.0.join("gateway.yaml"), previous.map(|it| &it.sources))
    }
}

const ENTRY: &str = "include: [routes.d/*.yaml]\nlisteners: {web: {listen: ':8080'}}\nupstreams: {app: {endpoints: ['127.0.0.1:3000']}}\n";
const A: &str = "routes: {a: {match: {prefix: /a}, upstream: app}}\n";
const B: &str = "routes: {b: {match: {prefix: /b}, upstream: app}}\n";

#[test]
fn included_files_are_one_configuration() {
    let folder = Folder::new("one");
    folder.write("routes.d/b.yaml", B);
    folder.write("routes.d/a.yaml", A);
    folder.write("routes.d/.a.yaml.swp", "%");
    folder.write("routes.d/notes.txt", "%");
    let loaded = folder.load(None).unwrap();
    assert_eq!(loaded.config.routes.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
    let files: Vec<_> = loaded.sources.files().map(|file| file.strip_prefix(&folder.0).unwrap()).collect();
    assert_eq!(
        files,
        [Path::new("gateway.yaml"), Path::new("routes.d/a.yaml"), Path::new("routes.d/b.yaml")]
    );
    let dirs: Vec<_> = loaded.sources.dirs().collect();
    assert_eq!(dirs, [folder.0.as_path(), folder.0.join("routes.d").as_path()]);
    assert!(loaded.held.is_empty());
}

#[test]
fn names_are_unique_over_files() {
    let folder = Folder::new("unique");
    folder.write("routes.d/a.yaml", A);
    folder.write("routes.d/b.yaml", A);
    let found = folder.load(None).unwrap_err();
    assert_eq!(found.len(), 1, "{found}");
    assert_eq!(found[0].code, Code::Duplicate);
    assert!(found[0].place.file().ends_with("b.yaml"));
    assert!(found[0].related[0].0.file().ends_with("a.yaml"));
    assert!(found.render(false).contains("a.yaml:1:10"), "{found}");
}

#[test]
fn a_file_wrong_by_itself_is_held() {
    let folder = Folder::new("held");
    folder.write("routes.d/a.yaml", A);
    folder.write("routes.d/b.yaml", B);
    let first = folder.load(None).unwrap();
    for wrong in [
        "routes: {a: {match: {prefix: a}, upstream: app}}",
        "{",
        "routes: {a: {match: {prefix: /}}}",
        "\u{0}",
    ] {
        folder.write("routes.d/a.yaml", wrong);
        folder.write("routes.d/b.yaml", "routes: {b2: {match: {prefix: /b}, upstream: app}}\n");
        let second = folder.load(Some(&first)).unwrap();
        assert_eq!(second.held.len(), 1, "{wrong}");
        assert!(second.held[0].file.ends_with("a.yaml"));
        assert!(second.held[0].diagnostics.has_errors());
        assert!(second.config.routes.contains_key("a"), "the old version of a.yaml");
        assert!(second.config.routes.contains_key("b2"), "the new version of b.yaml");
        assert_eq!(second.sources.text(&second.held[0].file), Some(A));
        // Holding a second time is no different, and hashes follow what is in effect.
        let third = folder.load(Some(&second)).unwrap();
        assert_eq!((third.held.len(), third.config.hash), (1, second.config.hash));
        assert!(folder.load(None).is_err(), "at a cold start there is nothing to hold");
    }
    fs::write(folder.0.join("routes.d/a.yaml"), [0xff, 0xfe]).unwrap();
    assert_eq!(folder.load(Some(&first)).unwrap().held.len(), 1);
}

#[test]
fn strict_holds_nothing() {
    let folder = Folder::new("strict");
    folder.write("routes.d/a.yaml", A);
    let first = folder.load(None).unwrap();
    folder.write("gateway.yaml", &format!("{ENTRY}gateway: {{reload: {{strict: true}}}}\n"));
    folder.write("routes.d/a.yaml", "{");
    assert_eq!(folder.load(Some(&first)).unwrap_err()[0].code, Code::Syntax);
}

#[test]
fn the_entry_and_the_combination_are_not_held() {
    let folder = Folder::new("combination");
    folder.write("routes.d/a.yaml", A);
    let first = folder.load(None).unwrap();
    folder.write("routes.d/a.yaml", "routes: {a: {match: {prefix: /a}, upstream: gone}}\n");
    let found = folder.load(Some(&first)).unwrap_err();
    assert_eq!((found.len(), found[0].code), (1, Code::UnknownName));
    folder.write("routes.d/a.yaml", A);
    folder.write("gateway.yaml", "listeners: 5");
    assert!(folder.load(Some(&first)).is_err());
}

/// A held file does not hide what else is wrong.
#[test]
fn all_errors_of_all_files_come_at_once() {
    let folder = Folder::new("all");
    folder.write("routes.d/a.yaml", A);
    folder.write("routes.d/b.yaml", B);
    let first = folder.load(None).unwrap();
    folder.write("routes.d/a.yaml", "{");
    folder.write("routes.d/b.yaml", "routes: {b: {match: {prefix: /b}, upstream: gone}}\n");
    let found = folder.load(Some(&first)).unwrap_err();
    let codes: Vec<_> = found.iter().map(|it| it.code).collect();
    assert_eq!(codes, [Code::Syntax, Code::UnknownName], "{found}");
}

#[test]
fn removed_and_missing_files() {
    let folder = Folder::new("removed");
    folder.write("routes.d/a.yaml", A);
    folder.write("routes.d/b.yaml", B);
    let first = folder.load(None).unwrap();
    fs::remove_file(folder.0.join("routes.d/b.yaml")).unwrap();
    let second = folder.load(Some(&first)).unwrap();
    assert_eq!((second.held.len(), second.config.routes.len()), (0, 1), "a removed file is gone, not held");
    folder.write("gateway.yaml", &ENTRY.replace("*.yaml", "gone.yaml"));
    let found = folder.load(None).unwrap_err();
    assert_eq!(found[0].code, Code::File, "{found}");
    folder.write("gateway.yaml", &ENTRY.replace("routes.d/*.yaml", "'*.d/*.yaml'"));
    assert_eq!(folder.load(Some(&first)).unwrap_err()[0].code, Code::File);
    assert_eq!(load(&folder.0.join("nothing.yaml"), None).unwrap_err()[0].code, Code::File);
}

#[test]
fn only_the_entry_speaks_for_the_process() {
    let folder = Folder::new("keys");
    folder.write("routes.d/a.yaml", &format!("gateway: {{workers: 1}}\ninclude: [x.yaml]\n{A}"));
    let found = folder.load(None).unwrap_err();
    assert_eq!(
        found.iter().map(|it| it.code).collect::<Vec<_>>(),
        [Code::Conflict, Code::Conflict],
        "{found}"
    );
}
