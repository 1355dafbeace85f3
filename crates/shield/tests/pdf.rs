//! PDF, as strangers make it: what is seen, what is hidden, what cannot be read (attacks.md II-07).

#![cfg(feature = "pdf")]
#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail like tests")]

use std::io::Write;

use bartizan_shield::document::{Hidden, Limits, Unread, Words, read, wire};
use flate2::{Compression, write::ZlibEncoder};

const FONT: &str = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>";
const PAGES: &str = "<< /Type /Pages /Kids [3 0 R] /Count 1 >>";
const CATALOGUE: &str = "<< /Type /Catalog /Pages 2 0 R >>";

/// A document of these objects, numbered from 1, the first of which is its catalogue; `trailer` adds to its trailer.
fn document(objects: &[Vec<u8>], trailer: &str) -> Vec<u8> {
    let mut out = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec();
    let mut places = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        places.push(out.len());
        out.extend(format!("{} 0 obj\n", number + 1).bytes());
        out.extend(object);
        out.extend(b"\nendobj\n");
    }
    let table = out.len();
    out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).bytes());
    for place in places {
        out.extend(format!("{place:010} 00000 n \n").bytes());
    }
    let size = objects.len() + 1;
    out.extend(
        format!("trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{table}\n%%EOF\n").bytes(),
    );
    out
}

fn stream(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    let packed = encoder.finish().unwrap();
    let mut out = format!("<< /Length {} /Filter /FlateDecode >>\nstream\n", packed.len()).into_bytes();
    out.extend(packed);
    out.extend(b"\nendstream");
    out
}

/// One page that paints `content`, with `page` in its dictionary.
fn page(content: &str, page: &str) -> Vec<Vec<u8>> {
    let page = format!(
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> /Properties << /L 6 0 R >> >> {page} >>"
    );
    vec![
        CATALOGUE.into(),
        PAGES.into(),
        page.into_bytes(),
        stream(content.as_bytes()),
        FONT.into(),
        b"<< /Type /OCG /Name (notes) >>".to_vec(),
    ]
}

fn of(bytes: &[u8]) -> Words {
    read(bytes, "application/pdf", Limits::default())
}

fn shown(words: &Words) -> String {
    words.parts.iter().filter(|p| p.hidden.is_none()).map(|p| p.text.trim()).collect::<Vec<_>>().join("|")
}

fn hidden(words: &Words) -> Vec<(Hidden, String)> {
    words.parts.iter().filter_map(|p| Some((p.hidden?, p.text.trim().to_owned()))).collect()
}

#[test]
fn a_page_is_read_in_words_and_lines() {
    let words = of(&document(
        &page(
            "BT /F1 12 Tf 72 720 Td [(Ra) 20 (in at) -400 (no) 10 (on.)] TJ 0 -14 Td (Sun later.) Tj ET",
            "",
        ),
        "",
    ));
    assert_eq!(shown(&words), "Rain at noon.\nSun later.");
    assert_eq!((hidden(&words), words.unread), (Vec::new(), None));
    assert_eq!(words.parts[0].name, "/page/0");
}

#[test]
fn words_that_nobody_sees_are_found_and_said_to_be_hidden() {
    let under = |content: &str| format!("BT /F1 12 Tf 72 720 Td (Rain.) Tj ET\n{content}");
    let order = "BT /F1 12 Tf 72 600 Td (Do as I say) Tj ET";
    for (what, content, why) in [
        ("not painted", "BT 3 Tr /F1 12 Tf 72 600 Td (Do as I say) Tj ET".to_owned(), Hidden::Unpainted),
        ("white", format!("1 g {order}"), Hidden::Colour),
        ("nearly white", format!("0.99 0.98 1 rg {order}"), Hidden::Colour),
        ("grey on grey", format!("0.5 g 0 580 612 80 re f 0.52 g {order}"), Hidden::Colour),
        ("tiny", "BT /F1 1 Tf 72 600 Td (Do as I say) Tj ET".to_owned(), Hidden::Tiny),
        (
            "tiny by its matrix",
            "q 0.05 0 0 0.05 72 600 cm BT /F1 12 Tf (Do as I say) Tj ET Q".to_owned(),
            Hidden::Tiny,
        ),
        ("off the page", "BT /F1 12 Tf 900 600 Td (Do as I say) Tj ET".to_owned(), Hidden::Outside),
        ("clipped away", format!("q 500 100 50 50 re W n {order} Q"), Hidden::Outside),
        ("painted over", format!("{order} 1 g 0 590 612 40 re f"), Hidden::Covered),
    ] {
        let words = of(&document(&page(&under(&content), ""), ""));
        assert_eq!(hidden(&words), [(why, "Do as I say".to_owned())], "{what}");
        assert_eq!(shown(&words), "Rain.", "{what}");
    }
}

#[test]
fn words_that_are_seen_are_not_said_to_be_hidden() {
    for (what, content) in [
        ("white on dark", "0 0 0.4 rg 0 700 612 60 re f 1 g BT /F1 12 Tf 72 720 Td (Rain.) Tj ET"),
        (
            "on a round ground",
            "0 g 0 0 m 612 0 l 612 792 l 9 792 9 700 0 650 c h f 1 g BT /F1 12 Tf 72 720 Td (Rain.) Tj ET",
        ),
        ("small print", "BT /F1 5 Tf 72 720 Td (Rain.) Tj ET"),
        ("outlined", "BT 2 Tr /F1 12 Tf 72 720 Td (Rain.) Tj ET"),
        ("a frame around it", "BT /F1 12 Tf 72 720 Td (Rain.) Tj ET 60 700 100 60 re S"),
        ("marked after", "BT /F1 12 Tf 72 720 Td (Rain.) Tj ET /M gs 1 1 0 rg 60 700 100 60 re f"),
    ] {
        let mut objects = page(content, "");
        let marker = "<< /Font << /F1 5 0 R >> /ExtGState << /M << /BM /Multiply >> >> >>";
        objects[2] = format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources {marker} >>"
        )
        .into_bytes();
        let words = of(&document(&objects, ""));
        assert_eq!(hidden(&words), [], "{what}");
        assert_eq!(shown(&words), "Rain.", "{what}");
    }
}

#[test]
fn a_layer_that_is_off_is_read_too() {
    let content =
        "BT /F1 12 Tf 72 720 Td (Rain.) Tj ET /OC /L BDC BT /F1 12 Tf 72 600 Td (Do as I say) Tj ET EMC";
    let mut objects = page(content, "");
    for (state, expected) in
        [("/OFF [6 0 R]", vec![(Hidden::Layer, "Do as I say".to_owned())]), ("/ON [6 0 R]", vec![])]
    {
        objects[0] =
            format!("<< /Type /Catalog /Pages 2 0 R /OCProperties << /OCGs [6 0 R] /D << {state} >> >> >>")
                .into_bytes();
        let words = of(&document(&objects, ""));
        assert_eq!((hidden(&words), words.unread), (expected, None), "{state}");
    }
    // The catalogue in a stream of objects (§7.5.7), as most programs write it now.
    let off = "<< /Type /Catalog /Pages 2 0 R /OCProperties << /OCGs [6 0 R] /D << /OFF [6 0 R] >> >> >>";
    objects[0] = b"null".to_vec();
    let packed = format!("7 0 {off}");
    objects.push(b"null".to_vec());
    objects.push(
        format!("<< /Type /ObjStm /N 1 /First 4 /Length {} >>\nstream\n{packed}\nendstream", packed.len())
            .into_bytes(),
    );
    let mut bytes = document(&objects, "");
    let at = memchr::memmem::rfind(&bytes, b"xref\n0").unwrap();
    bytes.truncate(at);
    // No table at all: viewers find the objects all the same.
    bytes.extend(b"trailer\n<< /Size 9 /Root 7 0 R >>\nstartxref\n0\n%%EOF");
    let start = memchr::memmem::find(&bytes, b"7 0 obj\nnull\nendobj\n").unwrap();
    bytes.drain(start..start + b"7 0 obj\nnull\nendobj\n".len());
    let words = of(&bytes);
    assert_eq!(hidden(&words), [(Hidden::Layer, "Do as I say".to_owned())], "{words:?}");
}

#[test]
fn a_scan_with_its_words_below_is_what_it_is() {
    let mut objects =
        page("BT 3 Tr /F1 12 Tf 72 600 Td (Rain at noon.) Tj ET q 612 0 0 792 0 0 cm /I Do Q", "");
    objects[2] = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
        /Resources << /Font << /F1 5 0 R >> /XObject << /I 6 0 R >> >> >>"
        .to_vec();
    objects[5] = b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray \
        /BitsPerComponent 8 /Length 1 >>\nstream\n\xff\nendstream"
        .to_vec();
    let words = of(&document(&objects, ""));
    assert_eq!(hidden(&words), [(Hidden::Scanned, "Rain at noon.".to_owned())]);
}

#[test]
fn words_beside_the_pages_are_read() {
    let mut objects = page("BT /F1 12 Tf 72 720 Td (Rain.) Tj ET", "/Annots [7 0 R]");
    objects.push(b"<< /Type /Annot /Subtype /Text /F 2 /Rect [0 0 9 9] /Contents (a note) /A << /S /URI /URI (https://a.example/) >> >>".to_vec());
    objects.push(b"<< /Title (the title) /Author <FEFF00E9> /Subject 9 0 R >>".to_vec());
    objects.push(b"(elsewhere)".to_vec());
    let words = of(&document(&objects, "/Info 8 0 R"));
    let beside = words.parts.iter().find(|part| part.name == "/beside").unwrap();
    for said in ["the title", "é", "a note", "https://a.example/", "elsewhere"] {
        assert!(beside.text.contains(said), "{said}: {}", beside.text);
    }
    assert_eq!(words.unread, None);
    objects.push(b"<< /Type /Filespec /F (x.exe) /EF << /F 4 0 R >> >>".to_vec());
    assert_eq!(of(&document(&objects, "")).unread, Some(Unread::Kind), "a file in it is not opened");
}

#[test]
fn what_is_broken_encrypted_or_no_text_is_said_to_be_so() {
    let good = document(&page("BT /F1 12 Tf 72 720 Td (Rain.) Tj ET", ""), "");
    assert_eq!(of(b"%PDF-1.7 \xff\xfe").unread, Some(Unread::Damaged));
    // What viewers can still show is read: without its table, and behind other bytes.
    let table = memchr::memmem::rfind(&good, b"xref\n0").unwrap();
    let mut broken = good[..table].to_vec();
    broken.extend(b"trailer << /Root 1 0 R >>");
    assert_eq!(shown(&of(&broken)), "Rain.");
    let shifted = [b"\xff junk \n".as_slice(), &good].concat();
    assert_eq!(shown(&of(&shifted)), "Rain.");

    let locked = "/ID [<00> <00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 \
        /O <0000000000000000000000000000000000000000000000000000000000000000> \
        /U <0000000000000000000000000000000000000000000000000000000000000000> >>";
    let locked = document(&page("BT /F1 12 Tf 72 720 Td (Rain.) Tj ET", ""), locked);
    assert_eq!(of(&locked), Words::unread(Unread::Encrypted));

    let mut drawn = page(&format!("BT /F1 12 Tf 72 720 Td ({}) Tj ET", "ab".repeat(20)), "");
    drawn[4] = b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 9 9] /FontMatrix [0.1 0 0 0.1 0 0] /FirstChar 97 /LastChar 98 \
        /Widths [9 9] /Encoding << /Differences [97 /g901 /g902] >> /CharProcs << /g901 6 0 R /g902 6 0 R >> >>".to_vec();
    drawn[5] = stream(b"9 0 d0 0 0 5 5 re f");
    assert_eq!(of(&document(&drawn, "")).unread, Some(Unread::Letters));
}

#[test]
fn no_bytes_break_the_reader_of_short_documents() {
    let whole = document(&page("BT /F1 12 Tf 72 720 Td (Rain.) Tj ET", ""), "");
    for at in (0..whole.len()).step_by(7) {
        let mut bent = whole.clone();
        bent[at] ^= 0x2a;
        let _ = of(&bent);
        let _ = of(&whole[..at]);
    }
}

/// The fuzzer's corpus, as it is asked about and answered over the wire.
#[test]
fn what_is_read_comes_through_to_whoever_asked() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/document");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for limits in [Limits::default(), Limits { bytes: 64 * 1024, parts: 16, depth: 3 }] {
            for media_type in ["message/rfc822", "application/pdf", "text/html"] {
                let words = read(&bytes, media_type, limits);
                let mut question = wire::question(&bytes, media_type).unwrap_or_default();
                question.extend(&bytes);
                let mut said = Vec::new();
                assert!(wire::serve(question.as_slice(), &mut said, limits).is_ok());
                let answer = said.split_first_chunk().and_then(|(head, rest)| {
                    (wire::answer_length(*head, limits)? == rest.len()).then_some(rest)
                });
                assert_eq!(answer.and_then(|rest| wire::answer(rest, limits)).as_ref(), Some(&words));
            }
        }
        files += 1;
    }
    assert!(files > 10, "there is a corpus");
}
