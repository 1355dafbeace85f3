//! Characters that act on a screen instead of standing on it (attacks.md PO-11).
//!
//! Attack: a result that writes the clipboard (OSC 52), hides an address under a link (OSC 8), goes back over what it wrote
//! (carriage return, backspace, cursor and erase sequences) or turns letters round (bidi overrides), so that a person at a
//! terminal sees something else than the model reads. Caught: `rm -rf ~ #\rls`, which shows `ls`. Harmless look-alikes, which
//! stay byte for byte: colours (SGR) and the sequences that come with them, CR LF, form feeds in source code, right-to-left
//! words and balanced isolates.
//!
//! Nothing that can be read is lost: of a sequence the text around it stays, what was overwritten stands on a line of its own,
//! and a sequence that never ends loses its beginning only. What is left can say what the text did not say before, so whoever
//! passes it on judges it first.

use std::borrow::Cow;

use crate::{bytes, config::ControlActions, fragment::Fragment};

/// What kinds of such characters a text has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acts {
    /// Terminal sequences other than colours (ECMA-48): links, clipboard, titles, cursor, erasing, modes.
    pub sequences: bool,
    /// Single control characters: bell, backspace, escape, C1.
    pub controls: bool,
    /// Carriage returns that go back over a line.
    pub overwrites: bool,
    /// Bidi overrides, and embeddings and isolates that are not closed in their paragraph.
    pub directions: bool,
}

impl Acts {
    /// All of them.
    pub const ALL: Self = Self { sequences: true, controls: true, overwrites: true, directions: true };

    /// Whether there are any.
    pub const fn any(self) -> bool {
        self.sequences || self.controls || self.overwrites || self.directions
    }

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            sequences: self.sequences || other.sequences,
            controls: self.controls || other.controls,
            overwrites: self.overwrites || other.overwrites,
            directions: self.directions || other.directions,
        }
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            sequences: self.sequences && other.sequences,
            controls: self.controls && other.controls,
            overwrites: self.overwrites && other.overwrites,
            directions: self.directions && other.directions,
        }
    }

    /// Each with its rule and what it says for people.
    pub fn rules(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            (
                self.sequences,
                SEQUENCE,
                "holds terminal sequences that act: links, clipboard, titles, cursor, erasing",
            ),
            (self.controls, CHARACTER, "holds control characters"),
            (self.overwrites, OVERWRITE, "goes back over a line that it wrote"),
            (self.directions, DIRECTION, "turns the direction of text"),
        ]
        .into_iter()
        .filter_map(|(has, rule, title)| has.then_some((rule, title)))
    }

    /// Those of these rules.
    pub fn of_rules<'r>(rules: impl Iterator<Item = &'r str>) -> Self {
        let mut found = Self::default();
        for rule in rules {
            match rule {
                SEQUENCE => found.sequences = true,
                CHARACTER => found.controls = true,
                OVERWRITE => found.overwrites = true,
                DIRECTION => found.directions = true,
                _ => {}
            }
        }
        found
    }
}

const SEQUENCE: &str = "control.sequence";
const CHARACTER: &str = "control.character";
const OVERWRITE: &str = "control.overwrite";
const DIRECTION: &str = "control.direction";

/// Characters of a control string, terminator included. A longer one counts as one that never ends: real ones are titles and
/// addresses, and what stands in it is read like all other text.
const STRING: usize = 4096;

/// Whether `text` can have any, by a glance. Of the raw inside of a JSON literal, too.
pub fn may_act(text: &str) -> bool {
    let all = text.as_bytes();
    memchr::memchr3_iter(b'\\', 0xc2, 0xe2, all).any(|at| {
        let next = |by: usize| all.get(at + by).copied().unwrap_or_default();
        match (all.get(at), next(1)) {
            // `\b`, `\r` that no `\n` follows, `\u00…` below a blank or C1, `\u202…`, `\u206…`.
            (Some(b'\\'), b'b') => true,
            (Some(b'\\'), b'r') => (next(2), next(3)) != (b'\\', b'n'),
            (Some(b'\\'), b'u') => matches!(
                (next(2), next(3), next(4)),
                (b'0', b'0', b'0' | b'1' | b'7' | b'8' | b'9') | (b'2', b'0', b'2' | b'6')
            ),
            (Some(0xc2), 0x80..=0x9f) => true,
            (Some(0xe2), 0x80) => matches!(next(2), 0xaa..=0xae),
            (Some(0xe2), 0x81) => matches!(next(2), 0xa6..=0xa9),
            _ => false,
        }
    }) || bytes::first(all, |b| (b < 0x20) & (b != b'\t') & (b != b'\n') & (b != 0x0c) | (b == 0x7f))
        .is_some()
}

/// What `text` has of them. A text that is JSON has none as long as its strings are escaped, as programs write them.
pub fn acts(text: &str, config: ControlActions) -> Acts {
    clean(text, Acts::ALL, config).1
}

/// `text` without `what`, and which of all kinds it has.
pub fn clean(text: &str, what: Acts, config: ControlActions) -> (Cow<'_, str>, Acts) {
    let is_plain = |c: char| {
        !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\r'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().all(is_plain) {
        return (text.into(), Acts::default());
    }
    let (mut out, mut found) = pass(text, what, config);
    if out != text && out.contains(is_direction) {
        // What closes a direction may have stood inside a sequence that is gone.
        let (again, more) = pass(&out, what, config);
        (out, found) = (again, found.or(more));
    }
    (if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }, found)
}

fn pass(text: &str, what: Acts, config: ControlActions) -> (String, Acts) {
    let turned = turned(text);
    let mut cleaner =
        Cleaner { text, at: 0, out: String::with_capacity(text.len()), found: Acts::default(), what, config };
    while let Some(c) = cleaner.next() {
        cleaner.take(c, &turned);
    }
    (cleaner.out, cleaner.found)
}

/// All strings of a message as a terminal shows them, without anything that acts on it and without colours; `None` if that is how
/// they came. Whatever has to stay byte for byte is shown by somebody at last. What is found there is in no literal.
pub fn on_screen<'f>(fragments: &'f [Fragment<'_>]) -> Option<Vec<Fragment<'f>>> {
    let bare = ControlActions { colours: false, ..ControlActions::default() };
    let seen = |text: &'f str| if may_act(text) { clean(text, Acts::ALL, bare).0 } else { text.into() };
    // Most messages have none.
    if !fragments.iter().any(|fragment| seen(&fragment.text) != fragment.text) {
        return None;
    }
    let shown = fragments.iter().map(|fragment| Fragment {
        kind: fragment.kind,
        role: fragment.role,
        at: Cow::Borrowed(&*fragment.at),
        text: seen(&fragment.text),
        raw: None,
    });
    Some(shown.collect())
}

struct Cleaner<'t> {
    text: &'t str,
    at: usize,
    out: String,
    found: Acts,
    what: Acts,
    config: ControlActions,
}

impl<'t> Cleaner<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes over `length` bytes, and keeps them or not.
    fn pass(&mut self, length: usize, keeps: bool) {
        if keeps {
            self.out.push_str(self.rest().get(..length).unwrap_or_default());
        }
        self.at += length;
    }

    fn take(&mut self, c: char, turned: &[usize]) {
        let length = c.len_utf8();
        match c {
            '\u{1b}' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}'..='\u{9f}' => self.sequence(c),
            '\r' => self.carriage_return(),
            '\u{8}' => self.backspace(),
            // U+0085 is a line end and no more (UAX #14, NL).
            '\t' | '\n' | '\u{c}' | '\u{85}' => self.pass(length, true),
            c if c.is_control() => {
                self.found.controls = true;
                self.pass(length, !self.what.controls);
            }
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' if turned.binary_search(&self.at).is_ok() => {
                self.found.directions = true;
                self.pass(length, !self.what.directions);
            }
            _ => self.pass(length, true),
        }
    }

    /// A sequence, or what only looks like the beginning of one.
    fn sequence(&mut self, c: char) {
        let introducer = c.len_utf8();
        let rest = self.rest();
        let (kind, begin) = match (c, rest.as_bytes().get(1)) {
            ('\u{1b}', Some(b'[')) => ('[', 2),
            ('\u{1b}', Some(b']')) => (']', 2),
            ('\u{1b}', Some(b'P' | b'X' | b'^' | b'_')) => ('P', 2),
            ('\u{1b}', _) => (' ', 1),
            ('\u{9b}', _) => ('[', introducer),
            ('\u{9d}', _) => (']', introducer),
            _ => ('P', introducer),
        };
        let body = rest.get(begin..).unwrap_or_default();
        let end = match kind {
            '[' => csi(body),
            ']' | 'P' => string(body, kind == ']'),
            _ => escape(body),
        };
        let Some(end) = end else {
            // It never ends: what follows is text, and stands as such.
            self.found.controls = true;
            let length = if kind == ' ' { introducer } else { begin };
            self.pass(length, !self.what.controls);
            return;
        };
        let is_colour = c == '\u{1b}' && kind == '[' && is_colour(body.get(..end).unwrap_or_default());
        if is_colour && self.config.colours {
            self.pass(begin + end, true);
            return;
        }
        self.found.sequences = true;
        let last = body.as_bytes().get(end.saturating_sub(1)).copied().unwrap_or_default();
        let moves = match kind {
            '[' => moves(last),
            // To the next line, or the one before.
            ' ' => matches!(body.get(..end), Some("D" | "E" | "M")),
            _ => false,
        };
        let is_word = |c: char| !c.is_whitespace();
        let joins = self.out.ends_with(is_word) && body.get(end..).is_some_and(|on| on.starts_with(is_word));
        if moves && self.what.sequences && joins {
            // A terminal shows a gap there.
            self.out.push(' ');
        }
        self.pass(begin + end, !self.what.sequences);
    }

    /// One before a line end, or several, overwrite nothing.
    fn carriage_return(&mut self) {
        let run = self.rest().bytes().take_while(|b| *b == b'\r').count();
        let is_line_end = self.rest().as_bytes().get(run) == Some(&b'\n');
        if is_line_end {
            self.pass(run + 1, true);
            return;
        }
        self.found.overwrites = true;
        if self.what.overwrites {
            self.out.push('\n');
        }
        self.pass(run, !self.what.overwrites);
    }

    /// Overstriking, as manual pages have it, prints a letter twice or underlines it; anything else goes back over something.
    fn backspace(&mut self) {
        self.found.controls = true;
        if self.what.controls {
            let next = self.rest().chars().nth(1).filter(|c| !c.is_control() && !is_direction(*c));
            let last = self.out.chars().next_back();
            if next.is_some_and(|next| last == Some(next) || last == Some('_')) {
                self.out.pop();
            }
        }
        self.pass(1, !self.what.controls);
    }
}

/// Whether a control sequence with this final byte goes on elsewhere than where it stands, so that what is behind it is apart
/// from what is before it (ECMA-48 §8.3: CUU to CHT, HPA, HPR, VPA, VPR, HVP). Going back is not: what follows writes over.
pub(crate) const fn moves(last: u8) -> bool {
    matches!(last, b'A'..=b'C' | b'E'..=b'I' | b'`' | b'a' | b'd'..=b'f')
}

/// The length of a control sequence behind its introducer (ECMA-48 §5.4): parameters, intermediates, one final byte.
fn csi(body: &str) -> Option<usize> {
    let bytes = body.as_bytes();
    let parameters = bytes.iter().take_while(|b| matches!(b, 0x30..=0x3f)).count();
    let rest = bytes.get(parameters..)?;
    let between = rest.iter().take_while(|b| matches!(b, 0x20..=0x2f)).count();
    matches!(rest.get(between), Some(0x40..=0x7e)).then_some(parameters + between + 1)
}

/// Whether a control sequence only colours (SGR, which conceals nothing), or erases to the end of a line, where nothing
/// stands: `grep` ends each of its colours so.
fn is_colour(body: &str) -> bool {
    let Some((last, parameters)) = body.as_bytes().split_last() else { return false };
    match last {
        b'm' => {
            let is_plain = parameters.iter().all(|b| matches!(b, b'0'..=b'9' | b';' | b':'));
            is_plain && !conceals(parameters)
        }
        b'K' => matches!(parameters, b"" | b"0"),
        _ => false,
    }
}

/// Whether one of the parameters is 8, and no operand of a colour as in `38;5;8` and `38;2;r;g;8`.
fn conceals(parameters: &[u8]) -> bool {
    let mut numbers = parameters.split(|b| *b == b';').map(|number| {
        let zeros = number.iter().take_while(|b| **b == b'0').count();
        number.get(zeros..).unwrap_or_default()
    });
    while let Some(number) = numbers.next() {
        let operands = match number {
            b"8" => return true,
            b"38" | b"48" | b"58" => match numbers.next() {
                Some(b"8") => return true,
                Some(b"5") => 1,
                Some(b"2") => 3,
                _ => 0,
            },
            _ => 0,
        };
        for _ in 0..operands {
            numbers.next();
        }
    }
    false
}

/// Whether `c` embeds, overrides or isolates a direction, or ends that.
const fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of a control string behind its introducer, terminator included: ST, or for operating system commands BEL. What
/// holds a line end or the beginning of another sequence is none; so each character is looked at for one introducer only.
fn string(body: &str, is_osc: bool) -> Option<usize> {
    for (at, c) in body.char_indices().take(STRING) {
        match c {
            '\u{9c}' => return Some(at + c.len_utf8()),
            '\u{7}' if is_osc => return Some(at + 1),
            '\u{1b}' => return body.get(at + 1..)?.starts_with('\\').then_some(at + 2),
            '\n' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}'..='\u{9f}' => return None,
            _ => {}
        }
    }
    None
}

/// The length of an escape sequence behind ESC (ECMA-35 §13.2): intermediates, one final byte.
fn escape(body: &str) -> Option<usize> {
    let bytes = body.as_bytes();
    let between = bytes.iter().take_while(|b| matches!(b, 0x20..=0x2f)).count();
    matches!(bytes.get(between), Some(0x30..=0x7e)).then_some(between + 1)
}

/// Where characters stand that turn the direction of text and should not (UAX #9): overrides with what closes them, and in each
/// line what is not closed or closes nothing.
fn turned(text: &str) -> Vec<usize> {
    let (mut bad, mut open) = (Vec::new(), Vec::<(usize, char)>::new());
    // How many of those that are open are isolates: where there are none, none is looked for.
    let mut isolates = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '\u{202a}' | '\u{202b}' | '\u{202d}' | '\u{202e}' => open.push((at, c)),
            '\u{2066}'..='\u{2068}' => {
                open.push((at, c));
                isolates += 1;
            }
            '\u{202c}' => match open.last() {
                Some((from, '\u{202d}' | '\u{202e}')) => {
                    bad.extend([*from, at]);
                    open.pop();
                }
                Some((_, '\u{202a}' | '\u{202b}')) => {
                    open.pop();
                }
                _ => bad.push(at),
            },
            '\u{2069}' if isolates > 0 => {
                isolates -= 1;
                // What was opened inside ends with it.
                while let Some((from, opened)) = open.pop() {
                    if matches!(opened, '\u{2066}'..='\u{2068}') {
                        break;
                    }
                    bad.push(from);
                }
            }
            '\u{2069}' => bad.push(at),
            '\n' | '\r' | '\u{85}' | '\u{2029}' => {
                bad.extend(open.drain(..).map(|(at, _)| at));
                isolates = 0;
            }
            _ => {}
        }
    }
    bad.extend(open.into_iter().map(|(at, _)| at));
    bad.sort_unstable();
    bad
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_read_as_a_terminal_shows_it() {
        use crate::Kind;
        let of = |text: &'static str| Fragment { raw: Some(1..9), ..Fragment::new(Kind::Result, "/a", text) };
        assert_eq!(on_screen(&[of("plain"), of("C:\\users\\b")]), None);
        let came = [of("plain"), of("pre\u{1b}]0;t\u{7}v"), of("i\u{1b}[31mo\u{1b}[0mus"), of("a\u{8}")];
        let shown: Vec<_> = on_screen(&came).unwrap();
        assert_eq!(shown.iter().map(|f| f.text.as_ref()).collect::<Vec<_>>(), ["plain", "prev", "ious", "a"]);
        assert!(shown.iter().all(|f| f.at == "/a" && f.raw.is_none()), "nothing can be cut out of it");
    }

    fn cleaned(text: &str) -> String {
        clean(text, Acts::ALL, ControlActions::default()).0.into_owned()
    }

    #[test]
    fn what_acts_goes_and_what_can_be_read_stays() {
        for (text, expected) in [
            ("\u{1b}]52;c;cm0gLXJmIH4=\u{7}copied", "copied"),
            ("\u{1b}]52;c;cm0gLXJmIH4=\u{1b}\\copied", "copied"),
            ("\u{1b}]8;;https://evil.example\u{1b}\\bank.example\u{1b}]8;;\u{1b}\\!", "bank.example!"),
            ("\u{1b}]0;root@prod\u{7}ok", "ok"),
            ("\u{9d}0;root@prod\u{9c}ok", "ok"),
            ("\u{1b}P+q544e\u{1b}\\ok\u{1b}_x\u{9c}", "ok"),
            ("a\u{1b}[2J\u{1b}[1;1Hb\u{1b}[1A\u{1b}[2Kc\u{1b}[?1049hd", "a b cd"),
            ("\u{9b}2Jx", "x"),
            ("\u{1b}[8mhidden\u{1b}[0m", "hidden\u{1b}[0m"),
            ("\u{1b}[31;8mhidden", "hidden"),
            ("\u{1b}cx\u{1b}7y\u{1b}", "xy"),
            ("rm -rf ~ #\rls", "rm -rf ~ #\nls"),
            ("10%\r20%\r\rdone\r", "10%\n20%\ndone\n"),
            ("evil\u{8}\u{8}\u{8}\u{8}good", "evilgood"),
            ("ding\u{7}\u{0}\u{7f}", "ding"),
            ("a\u{85}b\u{92}", "a\u{85}b"),
            ("\u{1b}]0;never ends", "0;never ends"),
            ("\u{1b}]8;;https://a.example\nnext", "8;;https://a.example\nnext"),
            ("\u{202e}gnp.exe\u{202c} and \u{202d}x", "gnp.exe and x"),
            ("a \u{2066}b\u{2069} \u{2067}open\nclosed\u{2069}", "a \u{2066}b\u{2069} open\nclosed"),
            ("\u{2068}a\u{202e}b\u{2069}c", "\u{2068}ab\u{2069}c"),
            ("N\u{8}NA\u{8}AM\u{8}ME _\u{8}f", "NAME f"),
            ("\u{2066}\u{8}\u{2066}a\u{2069}\u{2069}", "\u{2066}\u{2066}a\u{2069}\u{2069}"),
            ("Ig\u{1b}]0;kwq\u{7}nore", "Ignore"),
            ("\u{90}a\u{90}b\u{9c}c", "ac"),
            // Not escaped, a text is not only for programs.
            ("[\"rm -rf ~\"\r,\"ls   \"]", "[\"rm -rf ~\"\n,\"ls   \"]"),
            ("{\"a\":\"\u{9b}2J\u{202e}b\"}", "{\"a\":\"b\"}"),
        ] {
            assert_eq!(cleaned(text), expected, "{text:?}");
            assert!(acts(text, ControlActions::default()).any(), "{text:?}");
            assert!(may_act(text), "{text:?}");
            let literal = serde_json::to_string(text).unwrap();
            assert!(may_act(&literal), "{literal}");
        }
    }

    #[test]
    fn character_sets_in_words_and_hidden_colours_are_taken_out() {
        for text in [
            "I\u{1b}(Bgnore",
            "I\u{1b}[8mgnore",
            "I\u{1b}[008mgnore",
            "I\u{1b}[38;5;1;8mgnore",
            "I\u{1b}[38;2;1;2;3;8mgnore",
            "I\u{1b}[138;8mgnore",
        ] {
            let (clean, found) = clean(text, Acts::ALL, ControlActions::default());
            assert!(clean == "Ignore" && found.sequences, "{text:?}: {clean:?}");
        }
    }

    #[test]
    fn honest_texts_stay_byte_for_byte() {
        for text in [
            "\u{1b}[1;31merror\u{1b}[0m: it\u{1b}[38;5;8mgrey\u{1b}[39m \u{1b}[4:3mcurly\u{1b}[m",
            "a \u{1b}[01;31m\u{1b}[Kmatch\u{1b}[m\u{1b}[K b",
            "line\r\nline\r\n\r\n",
            "old\r\r\ntool",
            "#include <x>\n\u{c}\nint main(void)\t{ return 0; }\n",
            "\u{202b}شبكة (HTML)\u{202c} and \u{2068}name\u{2069}",
            "a\u{85}b",
            "می\u{200c}خواهم \u{200f}x\u{200e}",
            "👩\u{200d}👩\u{200d}👧 café",
            // A text for programs, as they write it.
            "{\"a\":\"\\u001b[2J\\u009b2J\\u202e\\b\"}\r\n",
        ] {
            let (same, found) = clean(text, Acts::ALL, ControlActions::default());
            assert!(matches!(same, Cow::Borrowed(_)) && !found.any(), "{text:?}: {same:?}");
        }
        let plain = serde_json::to_string("line\r\nline \u{e9} — \u{1f600}").unwrap();
        assert!(!may_act(plain.trim_matches('"')) && !may_act(r"caf\u00e9 \u2014 \ud83d\ude00"));
    }

    #[test]
    fn colours_go_where_the_operator_says_so_and_single_kinds_stay() {
        let config = ControlActions { colours: false, ..ControlActions::default() };
        assert_eq!(clean("\u{1b}[31mred\u{1b}[0m", Acts::ALL, config).0, "red");
        let text = "a\rb\u{7}\u{1b}[2J";
        let only = Acts { sequences: true, ..Acts::default() };
        let (left, found) = clean(text, only, ControlActions::default());
        assert_eq!(left, "a\rb\u{7}");
        assert_eq!(found, Acts { directions: false, ..Acts::ALL });
        let rules: Vec<_> = found.rules().map(|(rule, _)| rule).collect();
        assert_eq!(Acts::of_rules(rules.into_iter()), found);
    }

    #[test]
    fn a_long_control_string_is_text_and_leaves_nothing_that_acts() {
        let title = "x".repeat(STRING - 1);
        assert_eq!(cleaned(&format!("\u{1b}]0{}\u{7}ok", "x".repeat(STRING - 2))), "ok");
        for end in ["\u{7}", "\u{9c}", "\u{1b}\\"] {
            assert_eq!(cleaned(&format!("\u{1b}]0{title}{end}ok")), format!("0{title}ok"), "{end:?}");
        }
    }

    /// With work that grows with the square of the text, this would take minutes.
    #[test]
    fn hostile_texts_take_no_more_work_than_others() {
        const SIZE: usize = 1 << 20;
        let times = |text: &str| text.repeat(SIZE / text.len());
        for text in [
            times("\u{90}"),
            times("\u{9d}"),
            times("\u{9f}a"),
            times("\u{1b}]"),
            times("\u{1b}P"),
            times("\u{9b}0"),
            times("\u{1b} "),
            times("a\u{8}"),
            times("\r"),
            format!("{}{}", times("\u{202a}"), times("\u{2069}")),
            format!("{}{}", times("\u{2066}\u{202a}"), times("\u{2069}")),
            format!("{}{}", times("\u{2066}"), times("\u{202c}")),
        ] {
            let once = cleaned(&text);
            assert!(once.len() <= text.len() && !acts(&once, ControlActions::default()).any());
        }
    }

    #[test]
    fn a_direction_whose_end_stood_in_a_sequence_goes_with_it() {
        for text in ["a\u{2066}b\u{1b}]\u{2069}\u{1b}\\c", "a\u{202b}b\u{1b}P\u{202c}\u{9c}c"] {
            assert_eq!(cleaned(text), "abc");
            assert!(acts(text, ControlActions::default()).directions);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_left_and_nothing_visible_is_lost(text in "[\\x00-\\x1f\\x7f-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}a-f\\[\\];?Hm\\\\ ]{0,40}") {
            let once = cleaned(&text);
            prop_assert_eq!(cleaned(&once), once.clone(), "{:?}", text);
            let gone = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\u{c}' | '\r' | '\u{1b}' | '\u{85}');
            prop_assert!(!once.contains(gone), "{:?} -> {:?}", text, once);
            prop_assert!(may_act(&text) || once == text);
        }
    }
}
