//! The one layout.

use granit_parser::ScalarStyle;

use super::{
    quotes,
    written::{Beside, Block, Collection, Is, Item, Piece, Remark, Written},
};

/// What stands in a line is no wider, in characters; comments and single values may be.
const WIDTH: usize = 120;

pub(super) fn print(written: &Written) -> String {
    let mut printer = Printer::default();
    written.head.iter().for_each(|line| printer.line(0, line));
    printer.remarks(&written.above, 0);
    printer.apart(!written.above.is_empty());
    printer.root(&written.root);
    printer.remarks(&written.after, 0);
    printer.out
}

#[derive(Default)]
struct Printer {
    out: String,
    /// Empty lines here would belong to the text before.
    is_open: bool,
}

impl Printer {
    fn root(&mut self, root: &Item) {
        match &root.value.is {
            Is::Nothing if root.value.anchor.is_none() => {
                self.remarks(&root.before, 0);
                root.beside.iter().for_each(|beside| self.line(0, &beside.text));
            }
            Is::Collection(collection) if root.value.anchor.is_none() && is_broken(root, 0) => {
                self.remarks(&root.before, 0);
                root.beside.iter().for_each(|beside| self.line(0, &beside.text));
                self.items(collection, 0, false);
            }
            _ => {
                self.remarks(&root.before, 0);
                self.value(root, 0);
            }
        }
    }

    fn items(&mut self, collection: &Collection, indent: usize, is_begun: bool) {
        for (place, item) in collection.items.iter().enumerate() {
            let (mut before, is_first) = (item.before.iter(), place == 0);
            if let Some(remark) = before.next() {
                self.remark(remark, indent, remark.is_apart && !is_first);
                before.for_each(|remark| self.remark(remark, indent, remark.is_apart));
                self.apart(item.is_apart);
            } else {
                self.apart(item.is_apart && !is_first);
            }
            for beside in over(item, indent) {
                self.line(indent, &beside.text);
            }
            if !(is_first && is_begun) {
                self.pad(indent);
            }
            match &item.key {
                Some(key) => self.key(key),
                None => self.out.push('-'),
            }
            self.value(item, indent);
        }
        self.remarks(&collection.after, indent);
    }

    fn key(&mut self, key: &Piece) {
        self.out.push_str(&in_key(key).unwrap_or_default());
        self.out.push_str(if matches!(key.is, Is::Alias { .. }) { " :" } else { ":" });
    }

    /// What stands behind a key or a dash, and the end of the line.
    fn value(&mut self, item: &Item, indent: usize) {
        let is_root = self.out.is_empty() || self.out.ends_with('\n');
        let mut gap = if is_root { "" } else { " " };
        if let Some((_, name)) = &item.value.anchor {
            self.out.extend([gap, "&", name]);
            gap = " ";
        }
        match &item.value.is {
            Is::Text { notation, .. } if notation.contains('\n') => {
                let mut lines = notation.lines();
                self.out.extend([gap, lines.next().unwrap_or_default().trim_end_matches('\r')]);
                for line in lines {
                    self.out.push('\n');
                    let line = line.trim_start();
                    if !line.is_empty() {
                        self.pad(indent + 2);
                        self.out.push_str(line);
                    }
                }
                self.end(item.last());
            }
            Is::Block(block) => {
                self.out.extend([gap, &block.header]);
                self.end(item.last());
                self.block(block, indent);
            }
            Is::Collection(collection) if is_broken(item, indent) => {
                let is_begun = is_begun(item, collection, indent + 2);
                if is_begun {
                    self.out.push(' ');
                } else {
                    let beside = item.beside.first().filter(|_| item.key.is_some());
                    // Behind a bracket in this line there is no column any more.
                    self.end(beside.map(|it| (it, if collection.is_flow { 0 } else { it.column })));
                }
                self.items(collection, indent + 2, is_begun);
            }
            Is::Nothing => self.end(item.last()),
            is => {
                let text = one_line(is).unwrap_or_default();
                self.out.extend([gap, &text]);
                self.end(item.last());
            }
        }
    }

    fn block(&mut self, block: &Block, indent: usize) {
        let depth = indent + block.indentation().unwrap_or(2);
        for line in &block.lines {
            if !line.is_empty() {
                self.pad(depth);
                self.out.push_str(line);
            }
            self.out.push('\n');
        }
        self.is_open = block.keeps();
    }

    /// Ends the line, with the comment in its column if there is room.
    fn end(&mut self, beside: Option<(&Beside, usize)>) {
        if let Some((beside, column)) = beside {
            let width = self.out.rsplit('\n').next().unwrap_or_default().chars().count();
            self.pad(column.saturating_sub(width).max(1));
            self.out.push_str(&beside.text);
        }
        self.out.push('\n');
        self.is_open = false;
    }

    fn remarks(&mut self, remarks: &[Remark], indent: usize) {
        for remark in remarks {
            self.remark(remark, indent, remark.is_apart && !self.out.is_empty());
        }
    }

    fn remark(&mut self, remark: &Remark, indent: usize, is_apart: bool) {
        self.apart(is_apart);
        self.line(indent, &remark.text);
    }

    fn apart(&mut self, is_apart: bool) {
        if is_apart && !self.is_open {
            self.out.push('\n');
        }
    }

    fn line(&mut self, indent: usize, text: &str) {
        self.pad(indent);
        self.out.push_str(text);
        self.end(None);
    }

    fn pad(&mut self, spaces: usize) {
        self.out.extend(std::iter::repeat_n(' ', spaces));
    }
}

/// Comments for which there is no place behind anything.
fn over(item: &Item, indent: usize) -> &[Beside] {
    match (item.beside.as_slice(), &item.value.is) {
        ([_, rest @ ..], Is::Collection(_)) if is_broken(item, indent) && item.key.is_some() => rest,
        (all, Is::Collection(_)) if is_broken(item, indent) => all,
        ([rest @ .., _], _) => rest,
        ([], _) => &[],
    }
}

/// Whether it begins in the line of its dash.
fn is_begun(item: &Item, collection: &Collection, indent: usize) -> bool {
    let is_clear = |first: &Item| first.before.is_empty() && over(first, indent).is_empty();
    item.key.is_none() && item.value.anchor.is_none() && collection.items.first().is_some_and(is_clear)
}

/// Whether a collection stands in lines of its own.
fn is_broken(item: &Item, indent: usize) -> bool {
    let Is::Collection(collection) = &item.value.is else { return false };
    if collection.items.is_empty() {
        return false;
    }
    let Some(text) = one_line(&item.value.is).filter(|_| collection.is_flow) else { return true };
    let key = item.key.as_ref().and_then(in_key).map_or(1, |key| key.chars().count() + 1);
    let anchor = item.value.anchor.as_ref().map_or(0, |(_, name)| name.chars().count() + 2);
    indent + key + anchor + 1 + text.chars().count() > WIDTH
}

/// A piece with its anchor in one line, if it fits into one.
fn one_line_of(piece: &Piece) -> Option<String> {
    one_line(&piece.is).map(|text| anchored(piece, text))
}

fn anchored(piece: &Piece, text: String) -> String {
    match &piece.anchor {
        Some((_, name)) => format!("&{name} {text}").trim_end().to_owned(),
        None => text,
    }
}

/// A key: one of several lines becomes one of one, and one that is not there has to be seen.
fn in_key(key: &Piece) -> Option<String> {
    let text = match &key.is {
        Is::Nothing => "~".to_owned(),
        Is::Text { said, notation, .. } if notation.contains('\n') => {
            let escaped = serde_json::Value::from(said.as_str()).to_string();
            quotes::notation(said, &escaped, ScalarStyle::DoubleQuoted)
        }
        is => one_line(is)?,
    };
    Some(anchored(key, text))
}

/// `None`: it has comments inside, or several lines.
fn one_line(is: &Is) -> Option<String> {
    match is {
        Is::Nothing => Some(String::new()),
        Is::Text { notation, .. } if notation.contains('\n') => None,
        Is::Text { said, notation, style } => Some(quotes::notation(said, notation, *style)),
        Is::Block(_) => None,
        Is::Alias { notation, .. } => Some(notation.clone()),
        Is::Collection(collection) => {
            let items = collection.items.iter().map(in_flow).collect::<Option<Vec<_>>>()?.join(", ");
            let has_comment = !collection.after.is_empty() && !collection.items.is_empty();
            let (open, close) = if collection.is_map { ('{', '}') } else { ('[', ']') };
            (!has_comment && (collection.is_flow)).then(|| format!("{open}{items}{close}"))
        }
    }
}

fn in_flow(item: &Item) -> Option<String> {
    if !item.before.is_empty() || !item.beside.is_empty() {
        return None;
    }
    let value = one_line_of(&item.value)?;
    let Some(key) = &item.key else { return Some(value) };
    let colon = if matches!(key.is, Is::Alias { .. }) { " :" } else { ":" };
    let key = in_key(key)?;
    Some(if value.is_empty() { key } else { format!("{key}{colon} {value}") })
}
