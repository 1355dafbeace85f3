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
    ("HTML entities that do not end", |t| each(t, |c| format!("&#{}", u32::from(c)))),
    ("HTML entities in an attribute", |t| {
        format!("<p><img alt='{}'></p>", each(t, |c| format!("&#{};", u32::from(c))))
    }),
    ("blanks by name in an attribute", |t| {
        let escaped = t.replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
        format!("<a title=\"{}\">x</a>", escaped.replace(' ', "&nbsp;"))
    }),
    ("spaces without width by name", |t| each(t, |c| format!("{c}&ZeroWidthSpace;"))),
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
    ("base64 behind noise", |t| {
        STANDARD.encode([&[0, 159, 146, 150, 7, 7, 7, 255, 1, 2], format!("{t}. {t}").as_bytes()].concat())
    }),
    ("base64 of signs and words", |t| STANDARD.encode(format!("{}{t}", "-".repeat(150)))),
    ("UTF-16 of the other order in base64", |t| {
        STANDARD.encode(t.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>())
    }),
    ("base32", |t| base32(t.as_bytes())),
    ("numbers", |t| t.bytes().map(|b| format!("{b} ")).collect()),
    ("numbers in a list", |t| t.bytes().map(|b| format!("{b}, ")).collect()),
    ("binary", |t| t.bytes().map(|b| format!("{b:08b} ")).collect()),
    ("octal", |t| t.bytes().map(|b| format!("\\{b:03o}")).collect()),
    ("octal with soft hyphens of Latin-1", |t| t.bytes().map(|b| format!("\\255\\{b:03o}")).collect()),
    ("quoted-printable", |t| t.bytes().map(|b| format!("={b:02X}")).collect()),
    ("lines of mail that go on", |t| t.replace("re", "r=\ne").replace("st", "s=\r\nt")),
    ("lines of mail that go on at blanks", |t| t.replace(' ', "=  \n ")),
    ("quoted-printable with soft hyphens of Latin-1", |t| {
        t.bytes().map(|b| format!("={b:02X}=AD")).collect()
    }),
    ("URL encoding with soft hyphens of Latin-1", |t| t.bytes().map(|b| format!("%{b:02X}%AD")).collect()),
    ("accents", |t| each(t, |c| accented(c).to_string())),
    ("small capitals", |t| each(t, |c| small_capital(c).to_string())),
    ("marks of another script", |t| {
        each(t, |c| if c == ' ' { " ".to_owned() } else { format!("{c}\u{5b0}\u{941}") })
    }),
    ("Cyrillic rings", |t| each(t, |c| format!("{c}\u{488}"))),
    ("objects that are not there", |t| each(t, |c| format!("{c}\u{fffc}"))),
    ("tags behind a flag", |t| {
        format!(
            "\u{1f3f4}\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}{}",
            each(t, |c| moved(c, 0xe_0000).to_string())
        )
    }),
    ("tags that pass for a flag", |t| format!("\u{1f3f4}{}", each(t, |c| moved(c, 0xe_0000).to_string()))),
    ("JSON \\u", |t| each(t, |c| format!("\\u{:04x}", u32::from(c)))),
    ("\\x", |t| each(t, |c| format!("\\x{:02x}", u32::from(c)))),
    ("gzip in base64", |t| STANDARD.encode(gzip(format!("{t}. {t}. {t}.").as_bytes()))),
    ("gzip behind gzip in base64", |t| {
        STANDARD.encode([gzip(b"The weather is fine."), gzip(format!("{t}. {t}.").as_bytes())].concat())
    }),
    ("an archive in gzip in base64", |t| {
        STANDARD.encode(gzip(&[[0; 512].as_slice(), format!("{t}. {t}.").as_bytes(), &[0; 1024]].concat()))
    }),
    ("zlib of a small window in base64", |t| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(format!("{t}. {t}. {t}.").as_bytes()).unwrap();
        let mut out = encoder.finish().unwrap();
        out[..2].copy_from_slice(&[0x18, 0x19]);
        STANDARD.encode(out)
    }),
    ("terminal escapes", |t| t.replace(' ', "\u{1b}[8m \u{1b}[0m")),
    ("ROT13", |t| each(t, |c| rot13(c).to_string())),
    ("reversed", |t| t.chars().rev().collect()),
    ("leet", |t| t.replace('o', "0").replace('e', "3").replace('i', "1").replace('s', "5")),
    ("a gap after every letter", |t| {
        let spell = |word: &str| word.chars().map(String::from).collect::<Vec<_>>().join(" ");
        t.split(' ').map(spell).collect::<Vec<_>>().join("   ")
    }),
    ("a letter on every line", |t| {
        let spell = |word: &str| word.chars().map(String::from).collect::<Vec<_>>().join("\n");
        t.split(' ').map(spell).collect::<Vec<_>>().join("\n\n")
    }),
    ("2,000 blanks in front", |t| format!("Fine.{}{t}", " ".repeat(2_000))),
];

/// What a page puts between the words of a sentence: of a rule about injections the expressions are read over it.
pub(crate) const OF_PAGES: &[Disguise] = &[
    ("lines of a quotation", |t| format!("> {}", t.replace(' ', "\n> "))),
    ("lines of a comment", |t| format!("/*\n * {}\n */", t.replace(' ', "\n * "))),
    ("a line for every word", |t| t.replace(' ', "\n")),
    ("a line for every word, and one between", |t| t.replace(' ', " \r\n\r\n")),
    ("items of a list", |t| format!("- {}", t.replace(' ', "\n- "))),
    ("words that go on with a hyphen", |t| t.replace("re", "r-\ne").replace("st", "s-\nt")),
    ("words that are links", |t| {
        t.split(' ').map(|word| format!("[{word}](/b)")).collect::<Vec<_>>().join(" ")
    }),
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

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

fn accented(c: char) -> char {
    let plain = "aeiouncsAEIOU".find(c);
    plain.and_then(|at| "àéïöûñçšÂÊÎÔÛ".chars().nth(at)).unwrap_or(c)
}

fn small_capital(c: char) -> char {
    let plain = "abcdefghijklmnoprstuvwyz".find(c.to_ascii_lowercase());
    plain.and_then(|at| "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ".chars().nth(at)).unwrap_or(c)
}

fn base32(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|b| format!("{b:08b}")).collect();
    let digit = |chunk: &[char]| {
        let bits: String = chunk.iter().chain(&['0'; 5]).take(5).collect();
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from_str_radix(&bits, 2).unwrap()])
    };
    bits.chars().collect::<Vec<_>>().chunks(5).map(digit).collect()
}

fn rot13(c: char) -> char {
    let base = if c.is_ascii_uppercase() { 'A' } else { 'a' };
    if !c.is_ascii_alphabetic() {
        return c;
    }
    char::from_u32((u32::from(c) - u32::from(base) + 13) % 26 + u32::from(base)).unwrap()
}
