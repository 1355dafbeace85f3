//! PDF (ISO 32000-2): what its pages show, what they hold and do not show, and the words beside the pages: titles, notes,
//! bookmarks, fields of forms.
//!
//! `hayro` interprets the pages; [`canvas`] is what it paints on. It opens what is broken as viewers do, and keeps to no
//! bounds of memory or time: those are the process's.

mod canvas;

use std::collections::{BTreeMap, HashMap};

use hayro_interpret::{
    Context, InterpreterCache, InterpreterSettings, InterpreterWarning,
    hayro_syntax::{
        DecryptionError, LoadPdfError, Pdf,
        object::{Array, Dict, MaybeRef, Object},
        page::Page,
    },
    interpret_page,
    kurbo::{Affine, Rect},
};

use super::{Hidden, Reader, Unread};
use canvas::{Canvas, Run};

/// Pages that are read.
const PAGES: usize = 4096;
/// Text of one part; a page is not cut.
const PART: usize = 64 * 1024;
/// Objects that are looked through for words beside the pages, and how deep.
const OBJECTS: usize = 200_000;
const DEPTH: usize = 16;
/// Entries whose strings are shown to somebody, or read by tools: of the document (§14.3.3), bookmarks (§12.3.3),
/// annotations (§12.5.2), fields (§12.7.4), and the structure (§14.9), with addresses and programs.
const SPEAKING: [&[u8]; 16] = [
    b"ActualText",
    b"Alt",
    b"Author",
    b"Contents",
    b"DV",
    b"E",
    b"JS",
    b"Keywords",
    b"RC",
    b"Subj",
    b"Subject",
    b"T",
    b"TU",
    b"Title",
    b"URI",
    b"V",
];

pub fn read(reader: &mut Reader, bytes: &[u8], name: &str) {
    let pdf = match Pdf::new(bytes.to_vec()) {
        Ok(pdf) => pdf,
        Err(LoadPdfError::Decryption(DecryptionError::InvalidEncryption)) | Err(LoadPdfError::Invalid) => {
            return reader.unread(Unread::Damaged);
        }
        Err(LoadPdfError::Decryption(_)) => return reader.unread(Unread::Encrypted),
    };
    let shown = pages(&pdf);
    if pdf.pages().len() > PAGES {
        reader.unread(Unread::TooMuch);
    }
    if pdf.pages().is_empty() {
        reader.unread(Unread::Damaged);
    }
    if shown.has_unknown_letters {
        reader.unread(Unread::Letters);
    }
    let mut hidden: BTreeMap<Hidden, String> = BTreeMap::new();
    let (mut from, mut text) = (0, String::new());
    for (number, runs) in shown.pages.iter().enumerate() {
        for run in runs {
            let to = match run.hidden {
                Some(why) => hidden.entry(why).or_default(),
                None => &mut text,
            };
            run.append_to(to);
        }
        text.push('\n');
        hidden.values_mut().for_each(|text| text.push('\n'));
        if text.len() >= PART {
            reader.text(&format!("{name}/page/{from}"), std::mem::take(&mut text).into());
            from = number + 1;
        }
    }
    reader.text(&format!("{name}/page/{from}"), text.into());
    if pdf.xref().has_optional_content_groups() {
        match with_all_layers(&pdf, bytes) {
            Some(all) => {
                let layers = difference(&all.pages, &shown.pages);
                hidden.entry(Hidden::Layer).or_default().push_str(&layers);
            }
            None => reader.unread(Unread::Kind),
        }
    }
    for (why, text) in hidden {
        if !text.trim().is_empty() {
            reader.add(&format!("{name}/hidden/{}", why.as_str()), text.into(), Some(why));
        }
    }
    beside(reader, &pdf, name);
}

/// What the pages say, run by run.
#[derive(Default)]
struct Shown {
    pages: Vec<Vec<Run>>,
    has_unknown_letters: bool,
}

fn pages(pdf: &Pdf) -> Shown {
    let mut shown = Shown::default();
    let lost = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tell = std::sync::Arc::clone(&lost);
    let settings = InterpreterSettings {
        warning_sink: std::sync::Arc::new(move |warning| {
            if matches!(warning, InterpreterWarning::UnsupportedFont) {
                tell.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }),
        ..InterpreterSettings::default()
    };
    let cache = InterpreterCache::new();
    let (mut letters, mut unknown) = (0, 0);
    for page in pdf.pages().iter().take(PAGES) {
        let view = view(page);
        let mut canvas = Canvas::new(view);
        let mut context = Context::new(Affine::IDENTITY, view, &cache, page.xref(), settings.clone());
        interpret_page(page, &mut context, &mut canvas);
        letters += canvas.letters;
        unknown += canvas.unknown;
        shown.pages.push(canvas.into_runs());
    }
    let is_lost = lost.load(std::sync::atomic::Ordering::Relaxed);
    // A bullet or a logo here and there has no letter, a text has.
    shown.has_unknown_letters = is_lost || unknown > 16 + letters / 20;
    shown
}

/// What of a page is shown, in its own units.
fn view(page: &Page<'_>) -> Rect {
    let shown = page.intersected_crop_box();
    Rect::new(shown.x0, shown.y0, shown.x1, shown.y1).abs()
}

/// The pages with every layer switched on: the same document with a catalogue that knows of no layers (§8.11.4.2).
fn with_all_layers(pdf: &Pdf, bytes: &[u8]) -> Option<Shown> {
    let root = pdf.xref().root_id();
    let catalogue = pdf.xref().get::<Dict<'_>>(root)?;
    let known = b"/OCProperties";
    let mut written = catalogue.data().to_vec();
    let at = memchr::memmem::find(&written, known)?;
    written.get_mut(at..at + known.len())?.copy_from_slice(b"/OCForgotten__".get(..known.len())?);
    let mut bytes = bytes.to_vec();
    bytes.extend(format!("\n{} {} obj\n", root.obj_number, root.gen_number).bytes());
    bytes.extend(written);
    // There is no table there, so objects are searched for, and the last of a number counts.
    bytes.extend(b"\nendobj\nstartxref\n0\n%%EOF\n");
    let all = Pdf::new(bytes).ok()?;
    let is_same = all.pages().len() == pdf.pages().len() && !all.xref().has_optional_content_groups();
    is_same.then(|| pages(&all))
}

/// The text of runs of `all` that are not among `some`.
fn difference(all: &[Vec<Run>], some: &[Vec<Run>]) -> String {
    let mut text = String::new();
    for (all, some) in all.iter().zip(some) {
        let mut known: HashMap<&str, usize> = HashMap::new();
        for run in some {
            *known.entry(run.text.as_str()).or_default() += 1;
        }
        for run in all {
            match known.get_mut(run.text.as_str()).filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                None => run.append_to(&mut text),
            }
        }
        text.push('\n');
    }
    text
}

/// Reads the words beside the pages.
fn beside(reader: &mut Reader, pdf: &Pdf, name: &str) {
    let (mut text, mut carries) = (String::new(), false);
    let about = pdf.metadata();
    for said in [&about.title, &about.author, &about.subject, &about.keywords].into_iter().flatten() {
        say(&mut text, said);
    }
    for (number, object) in pdf.objects().into_iter().enumerate() {
        if number >= OBJECTS || text.len() > reader.left.bytes {
            reader.unread(Unread::TooMuch);
            break;
        }
        look(&object, DEPTH, &mut text, &mut carries);
    }
    reader.text(&format!("{name}/beside"), text.into());
    // Files in it, and forms and programs of other kinds.
    if carries {
        reader.unread(Unread::Kind);
    }
}

/// Adds the words that `object` speaks; `carries` tells of what is not read.
fn look(object: &Object<'_>, depth: usize, text: &mut String, carries: &mut bool) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let here = match object {
        Object::Dict(dict) => dict.clone(),
        Object::Stream(stream) => stream.dict().clone(),
        Object::Array(array) => return within(array, depth, text, carries),
        _ => return,
    };
    *carries |= here.contains_key("EmbeddedFile") || here.contains_key("EF") || here.contains_key("XFA");
    for (key, value) in here.entries() {
        // What is referred to is met by itself; a string that is, is read here.
        let speaks = SPEAKING.contains(&key.as_ref());
        match value {
            MaybeRef::NotRef(Object::String(said)) if speaks => say(text, said.as_bytes()),
            MaybeRef::NotRef(value) => look(&value, depth, text, carries),
            MaybeRef::Ref(_) if speaks => match here.get::<Object<'_>>(key.as_ref()) {
                Some(Object::String(said)) => say(text, said.as_bytes()),
                // A longer value is a stream (§7.9.4).
                Some(Object::Stream(stream)) if key.as_ref() != b"Contents" => {
                    if let Ok(said) = stream.decoded() {
                        say(text, &said);
                    }
                }
                _ => {}
            },
            MaybeRef::Ref(_) => {}
        }
    }
}

fn within(array: &Array<'_>, depth: usize, text: &mut String, carries: &mut bool) {
    for value in array.raw_iter() {
        if let MaybeRef::NotRef(value) = value {
            look(&value, depth, text, carries);
        }
    }
}

/// Adds a text string (§7.9.2.2): UTF-16, UTF-8, or one byte a character.
fn say(text: &mut String, said: &[u8]) {
    if let Some(wide) = said.strip_prefix(b"\xfe\xff") {
        let units =
            wide.chunks_exact(2).filter_map(|pair| pair.first_chunk()).map(|p| u16::from_be_bytes(*p));
        text.extend(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
    } else if let Some(wide) = said.strip_prefix(b"\xff\xfe") {
        let units =
            wide.chunks_exact(2).filter_map(|pair| pair.first_chunk()).map(|p| u16::from_le_bytes(*p));
        text.extend(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
    } else {
        let said = said.strip_prefix(b"\xef\xbb\xbf").unwrap_or(said);
        match std::str::from_utf8(said) {
            Ok(said) => text.push_str(said),
            Err(_) => text.extend(said.iter().map(|b| char::from(*b))),
        }
    }
    text.push('\n');
}
