//! Neighbouring fragments as one text: what is split over several is read as a whole.

use std::{borrow::Cow, ops::Range};

use crate::{
    finding::Place,
    fragment::{Fragment, Kind, Role},
    normalize::{Reading, Tricks, View, Views},
};

/// Part of a passage that came from one fragment.
#[derive(Clone, Debug)]
pub struct Part {
    /// Bytes of the passage.
    pub range: Range<usize>,
    /// What part of its message it plays.
    pub role: Role,
    /// Which fragment of the message; none if it came in an earlier one.
    pub fragment: Option<usize>,
    /// Where `range` begins in the fragment's text.
    pub offset: usize,
}

/// A text of one kind to be judged, in all its views.
#[derive(Debug)]
pub struct Passage<'p> {
    kind: Kind,
    views: Views<'p>,
    parts: &'p [Part],
    text: &'p str,
}

impl<'p> Passage<'p> {
    /// `parts` lie in `text` in order, with nothing but line ends between them; `views` are those of `text`.
    pub fn new(kind: Kind, text: &'p str, parts: &'p [Part], views: Views<'p>) -> Self {
        Self { kind, views, parts, text }
    }

    /// What the text is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text as it came.
    pub fn text(&self) -> &'p str {
        self.text
    }

    /// What was undone to read it.
    pub fn tricks(&self) -> &Tricks {
        self.views.tricks()
    }

    /// The fragments' parts, in order.
    pub fn parts(&self) -> &'p [Part] {
        self.parts
    }

    /// Every way to read it, the plain one first.
    pub fn sights(&self) -> impl Iterator<Item = Sight<'_>> {
        std::iter::once(Sight { views: &self.views, view: None })
            .chain(self.views.others().iter().map(|view| Sight { views: &self.views, view: Some(view) }))
    }

    /// Bytes in all views.
    pub fn size(&self) -> usize {
        self.sights().map(|sight| sight.text().len()).sum()
    }
}

/// One way to read a passage, in normal form.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'v> {
    views: &'v Views<'v>,
    view: Option<&'v View>,
}

impl<'v> Sight<'v> {
    /// The text, normalised.
    pub fn text(self) -> &'v str {
        self.view.map_or_else(|| self.views.plain().text(), View::text)
    }

    /// What was decoded, outermost first; nothing for the plain view.
    pub fn readings(self) -> &'v [Reading] {
        self.view.map_or(&[], View::readings)
    }

    /// The bytes of the passage that made `range` of [`text`](Self::text).
    pub fn original(self, range: Range<usize>) -> Range<usize> {
        match self.view {
            Some(view) => self.views.original(view, range),
            None => self.views.plain().original(range),
        }
    }
}

/// A passage under construction, with what earlier ones left behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub text: String,
    pub parts: Vec<Part>,
    /// How much of `text` an earlier passage has shown already.
    pub carried: usize,
}

impl Draft {
    /// Appends a part of a fragment's text on a line of its own, or without a break if it continues the last part.
    pub fn push(&mut self, index: usize, role: Role, offset: usize, piece: &str) {
        let continues = self.parts.last().is_some_and(|last| {
            last.fragment == Some(index)
                && last.offset + last.range.len() == offset
                && last.range.end == self.text.len()
        });
        if !continues && !self.text.is_empty() {
            self.text.push('\n');
        }
        let start = self.text.len();
        self.text.push_str(piece);
        self.parts.push(Part { range: start..self.text.len(), role, fragment: Some(index), offset });
    }

    /// Keeps the last `bytes` for the next passage.
    pub fn carry(&mut self, bytes: usize) {
        let cut = self.text.ceil_char_boundary(self.text.len().saturating_sub(bytes));
        self.text.drain(..cut);
        self.parts.retain(|part| part.range.end > cut);
        for part in &mut self.parts {
            part.offset += cut.saturating_sub(part.range.start);
            part.range = part.range.start.saturating_sub(cut)..part.range.end - cut;
        }
        self.carried = self.text.len();
    }

    /// The message is over: its fragments have no numbers any more.
    pub fn forget_fragments(&mut self) {
        self.parts.iter_mut().for_each(|part| part.fragment = None);
    }
}

/// Where `range` of a passage stood, one place for each fragment of this message.
pub(crate) fn places(parts: &[Part], range: &Range<usize>, fragments: &[Fragment<'_>]) -> Vec<Place> {
    let first = parts.partition_point(|part| part.range.end <= range.start);
    let mut places: Vec<Place> = Vec::new();
    for part in parts.iter().skip(first).take_while(|part| part.range.start < range.end) {
        let Some(fragment) = part.fragment.and_then(|index| fragments.get(index)) else { continue };
        let start = part.offset + range.start.saturating_sub(part.range.start);
        let end = part.offset + range.end.min(part.range.end) - part.range.start;
        if start >= end {
            continue;
        }
        match places.last_mut() {
            Some(last) if last.at == fragment.at && last.raw == fragment.raw && last.range.end == start => {
                last.range.end = end;
            }
            _ => places.push(Place {
                at: fragment.at.to_string(),
                range: start..end,
                raw: fragment.raw.clone(),
            }),
        }
    }
    places
}

/// The words of `text` around nothing but `range`, at most 160 characters, safe to print.
pub(crate) fn excerpt(text: &str, range: Range<usize>) -> String {
    let shown: Cow<'_, str> = text.get(range).unwrap_or_default().into();
    let mut out: String = shown
        .chars()
        .take(160)
        .map(|c| {
            if c.is_whitespace() {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    if shown.chars().nth(160).is_some() {
        out.push('…');
    }
    out
}
