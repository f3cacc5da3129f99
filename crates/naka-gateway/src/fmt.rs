//! `naka fmt`: files that are laid out in place, in one step.
//!
//! A new file is written beside the old one and takes its name, so that whoever reads sees one or the other. It has the mode and
//! the owner of the old one; a link goes on pointing where it did. What has changed meanwhile is left alone.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

use similar::TextDiff;

use crate::{
    config::{Formatted, Unformatted, format_with, text_of},
    custom::Kinds,
};

/// A file, and as it would be laid out.
#[derive(Debug)]
pub struct Layout {
    /// Where it is, links followed; nowhere if it came from standard input.
    file: Option<PathBuf>,
    before: Arc<str>,
    formatted: Formatted,
}

/// Why a file is left as it is.
#[derive(Debug)]
pub enum LeftAlone {
    /// It cannot be read or written.
    File(String),
    /// Because of what it says.
    Text(Unformatted),
}

impl LeftAlone {
    /// For people.
    pub fn render(&self, color: bool) -> String {
        match self {
            Self::File(why) => format!("error: {why}\n"),
            Self::Text(why) => why.render(color),
        }
    }
}

/// Reads a file, or standard input for `-`, and lays it out; policies of these `kinds` may be in it, too.
pub fn layout_of(path: &Path, kinds: &Kinds) -> Result<Layout, LeftAlone> {
    let cannot = |why| LeftAlone::File(format!("{}: {why}", path.display()));
    let (file, before) = if path == Path::new("-") {
        (None, text_of(io::stdin().lock()).map_err(cannot)?)
    } else {
        let read = |error: io::Error| cannot(format!("cannot be read: {error}"));
        let file = fs::canonicalize(path).map_err(read)?;
        let before = text_of(fs::File::open(&file).map_err(read)?).map_err(cannot)?;
        (Some(file), before)
    };
    let formatted = format_with(&path.to_string_lossy(), &before, kinds).map_err(LeftAlone::Text)?;
    Ok(Layout { file, before, formatted })
}

impl Layout {
    /// Whether it came from standard input.
    pub const fn is_stream(&self) -> bool {
        self.file.is_none()
    }

    /// As it is laid out.
    pub fn text(&self) -> &str {
        &self.formatted.text
    }

    /// Whether nothing would change.
    pub fn is_as_it_was(&self) -> bool {
        *self.before == self.formatted.text
    }

    /// What would change, as `diff -u` shows it, with stars for secrets.
    pub fn difference(&self, name: &Path) -> String {
        let name = name.display().to_string();
        let lines = TextDiff::from_lines(&self.formatted.shown_before, &self.formatted.shown);
        lines.unified_diff().context_radius(2).header(&name, &format!("{name}, laid out")).to_string()
    }

    /// Puts it in the place of the file.
    pub fn put_in_place(&self) -> Result<(), LeftAlone> {
        let Some(file) = &self.file else { return Ok(()) };
        let cannot =
            |error: io::Error| LeftAlone::File(format!("{}: cannot be written: {error}", file.display()));
        let folder = file.parent().unwrap_or(Path::new("/"));
        // Hidden, and of no kind that an `include:` takes.
        let beside = tempfile::Builder::new().prefix(".naka-fmt-").suffix(".tmp").tempfile_in(folder);
        let mut beside = beside.map_err(cannot)?;
        io::Write::write_all(&mut beside, self.text().as_bytes()).map_err(cannot)?;
        let (was, is) = (fs::metadata(file).map_err(cannot)?, beside.as_file().metadata().map_err(cannot)?);
        if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
            chown(beside.path(), Some(was.uid()), Some(was.gid())).map_err(cannot)?;
        }
        beside.as_file().set_permissions(was.permissions()).map_err(cannot)?;
        beside.as_file().sync_all().map_err(cannot)?;
        if fs::read(file).map_err(cannot)? != self.before.as_bytes() {
            return Err(LeftAlone::File(format!(
                "{}: somebody has changed it meanwhile; try again",
                file.display()
            )));
        }
        beside.persist(file).map_err(|error| cannot(error.error))?;
        Ok(())
    }
}
