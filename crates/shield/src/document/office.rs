//! Office files (ECMA-376): the words in the XML of a DOCX, XLSX or PPTX, comments, notes and hidden sheets with them.

use super::{Reader, Unread, zip};

/// How many times the text's limit may be unpacked: XML is mostly tags.
const UNPACKED: usize = 8;

pub fn read(reader: &mut Reader, bytes: &[u8], name: &str) {
    let entries = match zip::entries(bytes, 4 * reader.left.parts) {
        Ok(entries) => entries,
        Err(why) => return reader.unread(why),
    };
    let is_office = entries.iter().any(|entry| entry.name == "[Content_Types].xml");
    if !is_office {
        return reader.unread(Unread::Kind);
    }
    let mut left = reader.left.bytes.saturating_mul(UNPACKED);
    let speaks = |name: &str| {
        name.ends_with(".xml")
            && ["word/", "xl/", "ppt/", "docProps/", "customXml/"]
                .iter()
                .any(|folder| name.starts_with(folder))
            && !["styles.xml", "theme", "fontTable", "settings.xml", "numbering.xml"]
                .iter()
                .any(|dull| name.contains(dull))
    };
    for (number, entry) in entries.iter().enumerate().filter(|(_, entry)| speaks(&entry.name)) {
        match entry.unpack(left) {
            Ok(xml) => {
                left -= xml.len();
                reader.text(&format!("{name}/{number}"), words(&String::from_utf8_lossy(&xml)).into());
            }
            Err(why) => reader.unread(why),
        }
    }
    // What a file carries inside it is not opened.
    if entries.iter().any(|e| e.name.contains("/embeddings/") || e.name.ends_with("vbaProject.bin")) {
        reader.unread(Unread::Kind);
    }
}

/// The text of an XML document: what stands between tags, attributes that are shown, a line for every paragraph, row and
/// cell.
fn words(xml: &str) -> String {
    let mut out = String::with_capacity(xml.len() / 4);
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        push(&mut out, rest.get(..start).unwrap_or_default());
        let tag = rest.get(start..).unwrap_or_default();
        if let Some(data) = tag.strip_prefix("<![CDATA[") {
            let end = data.find("]]>").unwrap_or(data.len());
            out.push_str(data.get(..end).unwrap_or_default());
            rest = data.get(end..).unwrap_or_default().strip_prefix("]]>").unwrap_or_default();
            continue;
        }
        let length = tag.find('>').map_or(tag.len(), |end| end + 1);
        let inside = tag.get(..length).unwrap_or_default();
        let name = inside.trim_start_matches(['<', '/']).split([' ', '/', '>', '\n', '\r', '\t']).next();
        let name = name.unwrap_or_default().rsplit(':').next().unwrap_or_default();
        match name {
            "p" | "br" | "tr" | "row" | "si" | "c" | "cr" | "v" | "is" | "comment" | "sheet" => {
                out.push('\n')
            }
            "tab" | "tc" => out.push('\t'),
            _ => {}
        }
        // Alternative texts and names of sheets are words too.
        for attribute in ["descr=\"", "title=\"", "name=\"", "tooltip=\""] {
            if let Some(at) = inside.find(attribute)
                && let Some(value) = inside.get(at + attribute.len()..).and_then(|v| v.split('"').next())
                && value.contains(' ')
            {
                out.push('\n');
                push(&mut out, value);
                out.push('\n');
            }
        }
        rest = tag.get(length..).unwrap_or_default();
    }
    push(&mut out, rest);
    out
}

/// Adds text with its entities read.
fn push(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(rest.get(..at).unwrap_or_default());
        let behind = rest.get(at + 1..).unwrap_or_default();
        let entity = behind.split(';').next().filter(|name| name.len() <= 8 && name.len() < behind.len());
        let c = entity.and_then(|name| match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => {
                let digits = name.strip_prefix('#')?;
                let number = match digits.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => digits.parse().ok()?,
                };
                char::from_u32(number)
            }
        });
        match (c, entity) {
            (Some(c), Some(name)) => {
                out.push(c);
                rest = behind.get(name.len() + 1..).unwrap_or_default();
            }
            _ => {
                out.push('&');
                rest = behind;
            }
        }
    }
    out.push_str(rest);
}
