//! A text as it was written: its values in their notation, and the comments that belong to each.
//!
//! A comment behind something in its line belongs to that. One in a line of its own belongs to what comes next, unless it is
//! indented as deep as what ended before, and deeper than what comes next: then it stands at the end of that.

use std::{collections::VecDeque, ops::Range};

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};

/// A whole text.
#[derive(Debug)]
pub(super) struct Written {
    /// All up to `---`, if there is one.
    pub(super) head: Vec<String>,
    /// What stands above all, with an empty line below it.
    pub(super) above: Vec<Remark>,
    pub(super) root: Item,
    /// What stands behind all.
    pub(super) after: Vec<Remark>,
    /// What each comment says, and its line.
    pub(super) comments: Vec<(String, usize)>,
}

/// An entry of a map or an item of a list.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) before: Vec<Remark>,
    /// There is an empty line before it.
    pub(super) is_apart: bool,
    /// Of a map.
    pub(super) key: Option<Piece>,
    pub(super) value: Piece,
    /// Behind it, or behind its key, in order.
    pub(super) beside: Vec<Beside>,
}

/// A comment in a line of its own.
#[derive(Debug)]
pub(super) struct Remark {
    pub(super) text: String,
    /// There is an empty line before it.
    pub(super) is_apart: bool,
}

/// A comment behind something.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) text: String,
    /// In characters.
    pub(super) column: usize,
}

/// A key or a value.
#[derive(Debug)]
pub(super) struct Piece {
    /// Its number and name.
    pub(super) anchor: Option<(usize, String)>,
    pub(super) is: Is,
}

#[derive(Debug)]
pub(super) enum Is {
    Nothing,
    /// Plain or in quotes; of several lines if its notation is.
    Text {
        said: String,
        notation: String,
        style: ScalarStyle,
    },
    /// `|` or `>`.
    Block(Block),
    Alias {
        of: usize,
        notation: String,
    },
    Collection(Collection),
}

#[derive(Debug)]
pub(super) struct Block {
    /// `|`, `>-`, `|2+`.
    pub(super) header: String,
    /// Without their common indentation.
    pub(super) lines: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Collection {
    pub(super) is_map: bool,
    pub(super) is_flow: bool,
    pub(super) items: Vec<Item>,
    /// At its end.
    pub(super) after: Vec<Remark>,
}

impl Block {
    /// How deep it says it is.
    pub(super) fn indentation(&self) -> Option<usize> {
        self.header.chars().find_map(|c| c.to_digit(10)).and_then(|digit| usize::try_from(digit).ok())
    }

    /// Whether empty lines at its end belong to it.
    pub(super) fn keeps(&self) -> bool {
        self.header.contains('+')
    }
}

impl Item {
    pub(super) fn is_set_apart(&self) -> bool {
        self.before.first().map_or(self.is_apart, |remark| remark.is_apart)
    }

    pub(super) fn set_apart(&mut self) {
        match self.before.first_mut() {
            Some(remark) => remark.is_apart = true,
            None => self.is_apart = true,
        }
    }

    /// The name it stands under; one that is not there is written as `~`.
    pub(super) fn name(&self) -> Option<&str> {
        self.key.as_ref().and_then(|key| match key.is {
            Is::Nothing => Some("~"),
            _ => key.said(),
        })
    }

    /// The comment behind all of it, and its column.
    pub(super) fn last(&self) -> Option<(&Beside, usize)> {
        self.beside.last().map(|beside| (beside, beside.column))
    }

    /// Takes away what stands before the first item, as far as there is an empty line below it.
    fn above(&mut self) -> Vec<Remark> {
        let Is::Collection(collection) = &mut self.value.is else { return Vec::new() };
        let Some(first) = collection.items.first_mut() else { return Vec::new() };
        if std::mem::take(&mut first.is_apart) {
            return std::mem::take(&mut first.before);
        }
        let last = first.before.iter().rposition(|remark| remark.is_apart).unwrap_or(0);
        let above = first.before.drain(..last).collect();
        if let Some(remark) = first.before.first_mut() {
            remark.is_apart = false;
        }
        above
    }

    /// Its key and its value, and all within, in order.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&Piece)) {
        self.key.iter().for_each(|key| key.each(visit));
        self.value.each(visit);
    }

    /// The number and the name of each anchor in it.
    pub(super) fn each_anchor(&self, visit: &mut dyn FnMut(usize, &str)) {
        self.each(&mut |piece| {
            if let Some((id, name)) = &piece.anchor {
                visit(*id, name);
            }
        });
    }
}

impl Piece {
    /// The text it is, if it is one.
    pub(super) fn said(&self) -> Option<&str> {
        match &self.is {
            Is::Text { said, .. } => Some(said),
            _ => None,
        }
    }

    fn each(&self, visit: &mut dyn FnMut(&Self)) {
        visit(self);
        if let Is::Collection(collection) = &self.is {
            collection.items.iter().for_each(|item| item.each(visit));
        }
    }
}

impl Written {
    /// Reads it; a text that is no YAML was refused before.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let options = granit_parser::options! {
            emit_comments: true,
            emit_anchor_events: true,
            max_buffered_comment_events: usize::MAX, // The text is bounded.
        };
        let mut reader = Reader { text, events: VecDeque::new(), comments: VecDeque::new(), at: 0, kept: 0 };
        let mut comments = Vec::new();
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| error.to_string())?;
            let range = span.byte_range().ok_or("a value without a place")?;
            match event {
                Event::Comment(said, _) => {
                    comments.push((said.trim_end().to_owned(), span.start.line()));
                    reader.comments.push_back(range);
                }
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                event => reader.events.push_back((event, range)),
            }
        }
        // That behind the sign of a block comes after its text.
        reader.comments.make_contiguous().sort_by_key(|range| range.start);
        let head = reader.head();
        let mut root = reader.root();
        let above = root.above();
        let after = reader.remarks_before(text.len());
        Ok(Self { head, above, root, after, comments })
    }
}

struct Reader<'t> {
    text: &'t str,
    events: VecDeque<(Event<'t>, Range<usize>)>,
    comments: VecDeque<Range<usize>>,
    /// All before this has been seen.
    at: usize,
    /// Empty lines before this are part of a text.
    kept: usize,
}

/// A piece, and the comments that are read with it.
struct Found {
    piece: Piece,
    before: Vec<Remark>,
    beside: Vec<Beside>,
}

impl Reader<'_> {
    fn head(&mut self) -> Vec<String> {
        let Some((Event::DocumentStart(is_said, _), range)) = self.events.pop_front() else {
            return Vec::new();
        };
        if !is_said {
            return Vec::new();
        }
        self.at = range.end;
        self.comments.retain(|comment| comment.start >= range.end);
        self.text[..range.end]
            .lines()
            .map(|line| line.trim_start_matches('\u{feff}').trim_end().to_owned())
            .collect()
    }

    fn root(&mut self) -> Item {
        let nothing =
            Found { piece: Piece { anchor: None, is: Is::Nothing }, before: Vec::new(), beside: Vec::new() };
        let found = if self.events.is_empty() { nothing } else { self.piece(None) };
        let mut beside = found.beside;
        beside.extend(self.beside());
        Item { before: found.before, is_apart: false, key: None, value: found.piece, beside }
    }

    /// `column`: that of the collection it stands in.
    fn piece(&mut self, column: Option<usize>) -> Found {
        let Some((event, range)) = self.events.pop_front() else {
            unreachable!("a reader of YAML ends what it begins")
        };
        let anchor = match self.events.front() {
            Some((Event::Anchor(id, name), _)) => Some((*id, name.clone().into_owned())),
            _ => None,
        };
        if anchor.is_some() {
            let said = self.events.pop_front();
            self.at = self.at.max(said.map_or(0, |(_, range)| range.end));
        }
        let mut found =
            Found { piece: Piece { anchor, is: Is::Nothing }, before: Vec::new(), beside: Vec::new() };
        match event {
            Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) => {
                self.block(&range, column, &mut found);
            }
            Event::Scalar(_, ScalarStyle::Plain, ..) if range.is_empty() => self.at = self.at.max(range.end),
            Event::Scalar(said, style, ..) => {
                self.comments_before(range.start, &mut found);
                self.at = range.end;
                let notation = self.text[range].to_owned();
                found.piece.is = Is::Text { said: said.into_owned(), notation, style };
            }
            Event::Alias(of) => {
                self.comments_before(range.start, &mut found);
                self.at = range.end;
                found.piece.is = Is::Alias { of, notation: self.text[range].to_owned() };
            }
            Event::SequenceStart(style, ..) => self.collection(style, false, &range, column, &mut found),
            Event::MappingStart(style, ..) => self.collection(style, true, &range, column, &mut found),
            other => unreachable!("{other:?} is no value"),
        }
        found
    }

    fn block(&mut self, content: &Range<usize>, column: Option<usize>, found: &mut Found) {
        let start = self.next_token(|c| c == ':').unwrap_or(content.start);
        self.comments_before(start, found);
        let header: String =
            self.text[start..].chars().take_while(|c| "|>+-0123456789".contains(*c)).collect();
        self.at = start + header.len();
        found.beside.extend(self.beside());
        let first = self.text[self.at..].find('\n').map_or(self.text.len(), |end| self.at + end + 1);
        let mut block = Block { header, lines: Vec::new() };
        let whole = self.text.get(first..content.end).unwrap_or_default();
        let (lines, rest) = whole.split_at(whole.rfind('\n').map_or(0, |newline| newline + 1));
        // It goes up to what comes next, over the spaces before that.
        let lines = if rest.trim_start_matches(' ').is_empty() { lines } else { whole }.lines();
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let said = block.indentation().map(|more| column.unwrap_or(0) + more);
        let seen = || lines.clone().find(|line| !line.trim().is_empty()).map(indent);
        let depth = said.or_else(seen).unwrap_or(0);
        let cut = |line: &str| line.get(depth.min(indent(line))..).unwrap_or_default().to_owned();
        block.lines = lines.clone().map(cut).collect();
        while !block.keeps() && block.lines.last().is_some_and(String::is_empty) {
            block.lines.pop();
        }
        self.at = self.at.max(content.end);
        self.kept = if block.keeps() { self.at } else { self.kept };
        found.piece.is = Is::Block(block);
    }

    fn collection(
        &mut self,
        style: StructureStyle,
        is_map: bool,
        start: &Range<usize>,
        outer: Option<usize>,
        found: &mut Found,
    ) {
        let is_flow = style == StructureStyle::Flow;
        if is_flow {
            self.comments_before(start.start, found);
            self.at = self.at.max(start.end);
        }
        let mut collection = Collection { is_map, is_flow, items: Vec::new(), after: Vec::new() };
        let mut column = None;
        while !matches!(self.events.front(), Some((Event::SequenceEnd | Event::MappingEnd, _)) | None) {
            let start = self.start(is_map || is_flow);
            let column = *column.get_or_insert(self.column(start));
            let mut opening = Found {
                piece: Piece { anchor: None, is: Is::Nothing },
                before: Vec::new(),
                beside: Vec::new(),
            };
            self.comments_before(start, &mut opening);
            let is_apart = self.is_apart(start);
            let mut item = self.item(is_map, start, is_flow, column);
            if collection.items.is_empty() {
                found.beside.append(&mut opening.beside);
            } else {
                let over = opening.beside.drain(..).map(|it| Remark { text: it.text, is_apart: false });
                opening.before.splice(0..0, over);
            }
            item.is_apart = is_apart;
            opening.before.append(&mut item.before);
            item.before = opening.before;
            collection.items.push(item);
        }
        let end = self.events.pop_front().map_or(start.end, |(_, range)| range.end);
        if is_flow {
            collection.after = self.remarks_before(end.saturating_sub(1));
            self.at = self.at.max(end);
            if collection.items.is_empty() {
                found.before.append(&mut collection.after); // It stays in one line.
            }
        } else {
            // Below a key a list may stand as far to the left as the key.
            let column = column.unwrap_or(0).max(outer.map_or(0, |outer| outer + 1));
            collection.after = self.remarks_within(column);
        }
        found.piece.is = Is::Collection(collection);
    }

    fn item(&mut self, is_map: bool, start: usize, is_flow: bool, column: usize) -> Item {
        let mut before = Vec::new();
        let mut beside = Vec::new();
        let mut keep = |found: Found| {
            before.extend(found.before);
            beside.extend(found.beside);
            found.piece
        };
        let key = is_map.then(|| keep(self.piece(Some(column))));
        if !is_map && !is_flow {
            self.at = start + 1; // Behind its dash.
        }
        let value = keep(self.piece(Some(column)));
        if is_map && matches!(value.is, Is::Nothing) {
            self.pass_colon();
        }
        beside.extend(self.beside());
        Item { before, is_apart: false, key, value, beside }
    }

    /// Where there is no value, its place is before the colon.
    fn pass_colon(&mut self) {
        let rest = self.text[self.at..].trim_start_matches(' ');
        if rest.starts_with(':') {
            self.at = self.text.len() - rest.len() + 1;
        }
    }

    /// Where the next item begins: with its anchor or its value, or else with its dash.
    fn start(&self, is_value: bool) -> usize {
        if !is_value {
            return self.next_token(|c| c == ':' || c == '?').unwrap_or(self.at);
        }
        let first = self.events.front().map_or(self.at, |(_, range)| range.start);
        match self.events.get(1) {
            Some((Event::Anchor(..), range)) => range.start.min(first),
            _ => first,
        }
    }

    /// The next that is neither space nor comment, nor one of these.
    fn next_token(&self, is_passed: impl Fn(char) -> bool) -> Option<usize> {
        let mut at = self.at;
        loop {
            at += self.text.get(at..)?.find(|c: char| !c.is_whitespace() && !is_passed(c))?;
            match self.comments.iter().find(|comment| comment.start == at) {
                Some(comment) => at = comment.end,
                None => return Some(at),
            }
        }
    }

    fn is_own_line(&self, comment: &Range<usize>) -> bool {
        self.text[self.line_start(comment.start)..comment.start]
            .trim_start_matches('\u{feff}')
            .trim()
            .is_empty()
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn column(&self, at: usize) -> usize {
        self.text[self.line_start(at)..at].chars().count()
    }

    /// Whether the line before is empty.
    fn is_apart(&self, at: usize) -> bool {
        let line = self.line_start(at);
        let Some(before) = line.checked_sub(1).filter(|before| *before >= self.kept) else { return false };
        self.text[line..at].trim().is_empty() && self.text[self.line_start(before)..before].trim().is_empty()
    }

    fn comments_before(&mut self, at: usize, found: &mut Found) {
        while let Some(comment) = self.comments.front().filter(|comment| comment.start < at).cloned() {
            if self.is_own_line(&comment) {
                let text = self.text_of(&comment);
                found.before.push(Remark { text, is_apart: self.is_apart(comment.start) });
            } else {
                found
                    .beside
                    .push(Beside { text: self.text_of(&comment), column: self.column(comment.start) });
            }
            self.pass(&comment);
        }
    }

    fn remarks_before(&mut self, at: usize) -> Vec<Remark> {
        let mut remarks = Vec::new();
        while let Some(comment) = self.comments.front().filter(|comment| comment.start < at).cloned() {
            remarks.push(Remark { text: self.text_of(&comment), is_apart: self.is_apart(comment.start) });
            self.pass(&comment);
        }
        remarks
    }

    /// What stands at the end of a collection in this column, and not before what comes next.
    fn remarks_within(&mut self, column: usize) -> Vec<Remark> {
        let next = self.next_token(|_| false).filter(|next| !self.text[*next..].starts_with("..."));
        let next = next.map(|next| (next, self.column(next)));
        let mut remarks = Vec::new();
        while let Some(comment) = self.comments.front().cloned() {
            let at = self.column(comment.start);
            let is_within =
                at >= column && next.is_none_or(|(start, next)| comment.start < start && at > next);
            if !is_within || !self.is_own_line(&comment) {
                break;
            }
            remarks.push(Remark { text: self.text_of(&comment), is_apart: self.is_apart(comment.start) });
            self.pass(&comment);
        }
        remarks
    }

    /// The comment behind what has just been read, in its line.
    fn beside(&mut self) -> Option<Beside> {
        let comment = self.comments.front().filter(|comment| comment.start >= self.at)?.clone();
        if self.is_own_line(&comment) {
            return None;
        }
        let between = &self.text[self.at..comment.start];
        if between.contains(|c: char| c == '\n' || !(c.is_whitespace() || c == ',')) {
            return None;
        }
        self.pass(&comment);
        Some(Beside { text: self.text_of(&comment), column: self.column(comment.start) })
    }

    fn pass(&mut self, comment: &Range<usize>) {
        self.comments.pop_front();
        self.at = self.at.max(comment.end);
    }

    fn text_of(&self, comment: &Range<usize>) -> String {
        self.text[comment.clone()].trim_end().to_owned()
    }
}
