//! What attackers do to a text, for tests: the table of detection.md and more.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

type Disguise = (&'static str, fn(&str) -> String);

/// Every disguise, by name.
pub(crate) const ALL: &[Disguise] = &[
    ("zero-width characters", |t| each(t, |c| format!("{c}\u{200b}"))),
    ("soft hyphens", |t| each(t, |c| format!("{c}\u{ad}"))),
    ("Cyrillic homoglyphs", |t| each(t, |c| homoglyph(c).to_string())),
    ("full-width", |t| each(t, |c| full_width(c).to_string())),
    ("tags", |t| each(t, |c| moved(c, 0xe_0000).to_string())),
    ("variation selectors", |t| each(t, |c| format!("{c}\u{fe01}"))),
    ("bytes in variation selectors", |t| {
        format!("\u{1f600}{}", each(t, |c| moved(c, 0xe_0100 - 16).to_string()))
    }),
    ("bidi override", |t| format!("\u{202e}{t}\u{202c}")),
    ("stacked marks", |t| each(t, |c| format!("{c}\u{336}\u{30a}\u{332}\u{359}"))),
    ("HTML entities", |t| each(t, |c| format!("&#{};", u32::from(c)))),
    ("HTML tags in words", |t| {
        t.replace("re", "r<b></b>e").replace("st", "s<wbr>t").replace("no", "n<i></i>o")
    }),
    ("HTML comment", |t| format!("<p>Fine.</p><!-- {t} -->")),
    ("hidden HTML", |t| format!("<div style=\"display: none\">{t}</div>")),
    ("emphasis in words", |t| t.replace("re", "r**e**").replace("st", "s`t`").replace("no", "n**o**")),
    ("URL encoding", |t| t.bytes().map(|b| format!("%{b:02X}")).collect()),
    ("form encoding", |t| format!("q=%22{}%22", t.replace(' ', "+"))),
    ("base64", |t| STANDARD.encode(t)),
    ("base64 in lines", |t| {
        let encoded = STANDARD.encode(format!("{t}. {t}. {t}."));
        encoded.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line) + "\r\n").collect()
    }),
    ("base64 in a link", |t| format!("https://x.example/?q={}", STANDARD.encode(t))),
    ("base64 twice", |t| STANDARD.encode(STANDARD.encode(t))),
    ("UTF-16 in base64", |t| {
        STANDARD.encode(t.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>())
    }),
    ("URL encoding in base64", |t| {
        STANDARD.encode(t.bytes().map(|b| format!("%{b:02x}")).collect::<String>())
    }),
    ("hex", |t| t.bytes().map(|b| format!("{b:02x}")).collect()),
    ("hex in pairs", |t| t.bytes().map(|b| format!("{b:02x} ")).collect()),
    ("JSON \\u", |t| each(t, |c| format!("\\u{:04x}", u32::from(c)))),
    ("\\x", |t| each(t, |c| format!("\\x{:02x}", u32::from(c)))),
    ("gzip in base64", |t| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(format!("{t}. {t}. {t}.").as_bytes()).unwrap();
        STANDARD.encode(encoder.finish().unwrap())
    }),
    ("terminal escapes", |t| t.replace(' ', "\u{1b}[8m \u{1b}[0m")),
    ("ROT13", |t| each(t, |c| rot13(c).to_string())),
    ("reversed", |t| t.chars().rev().collect()),
    ("leet", |t| t.replace('o', "0").replace('e', "3").replace('i', "1").replace('s', "5")),
    ("a gap after every letter", |t| {
        let spell = |word: &str| word.chars().map(String::from).collect::<Vec<_>>().join(" ");
        t.split(' ').map(spell).collect::<Vec<_>>().join("   ")
    }),
    ("2,000 blanks in front", |t| format!("Fine.{}{t}", " ".repeat(2_000))),
];

fn each(text: &str, f: impl Fn(char) -> String) -> String {
    text.chars().map(f).collect()
}

fn moved(c: char, by: u32) -> char {
    char::from_u32(u32::from(c) + by).unwrap()
}

fn full_width(c: char) -> char {
    if c == ' ' { '\u{3000}' } else { moved(c, 0xfee0) }
}

fn homoglyph(c: char) -> char {
    "aаeеoоiіpрcсxхyуsѕjјAАBВEЕHНKКMМOОPРCСTТXХ"
        .chars()
        .collect::<Vec<_>>()
        .chunks(2)
        .find(|pair| pair[0] == c)
        .map_or(c, |pair| pair[1])
}

fn rot13(c: char) -> char {
    let base = if c.is_ascii_uppercase() { 'A' } else { 'a' };
    if !c.is_ascii_alphabetic() {
        return c;
    }
    char::from_u32((u32::from(c) - u32::from(base) + 13) % 26 + u32::from(base)).unwrap()
}
