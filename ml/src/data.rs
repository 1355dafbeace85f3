//! Documents: what is read from JSON lines and what the grammar makes.

use std::{fs, io, path::Path};

use bartizan_shield::{classifier::Kind, normalize::normalize};
use serde_json::Value;

/// One labelled text. An attack knows which part of it attacks; the rest is what it hides in.
#[derive(Clone, Debug)]
pub struct Document {
    pub before: String,
    /// The attack itself; empty in a harmless document.
    pub attack: String,
    pub after: String,
    pub kind: Kind,
    /// File or grammar family, for tables.
    pub set: String,
    /// What must stay together when data is held out: a server, a crate, a page.
    pub group: String,
    pub language: String,
}

impl Document {
    pub fn text(&self) -> String {
        [self.before.as_str(), &self.attack, &self.after].concat()
    }

    pub const fn is_attack(&self) -> bool {
        !self.attack.is_empty()
    }
}

/// The file of this name in `folder`, one JSON object a line: `text`, `label` (1 for an attack), `kind`, `split`, and if
/// there are any `sub`, `lang`.
///
/// # Errors
/// The file cannot be read, or a line is no such object or of another split: nothing is trained on what measures it.
pub fn read(folder: &Path, set: &str, split: &str) -> io::Result<Vec<Document>> {
    let content = fs::read_to_string(folder.join(set).with_extension("jsonl"))?;
    content.lines().filter(|line| !line.trim().is_empty()).map(|line| parse(line, set, split)).collect()
}

/// Honest texts of this repository that earlier models took for attacks: passages of manuals and READMEs, definitions of tools. Their
/// licences allow it; each row names its own.
const HONEST: &str = include_str!("../data/honest.jsonl");
/// The set that [`HONEST`] is.
pub const HONEST_SET: &str = "honest";

/// The set [`HONEST_SET`].
///
/// # Errors
/// As for [`read`].
pub fn honest() -> io::Result<Vec<Document>> {
    HONEST.lines().map(|line| parse(line, HONEST_SET, "train")).collect()
}

/// The stems of the `.jsonl` files in `folder`, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn sets(folder: &Path) -> io::Result<Vec<String>> {
    let mut stems = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            stems.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    stems.sort();
    Ok(stems)
}

fn parse(line: &str, set: &str, split: &str) -> io::Result<Document> {
    let row: Value = serde_json::from_str(line)?;
    let field = |name: &str| row.get(name).and_then(Value::as_str);
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("a row of {set} is not a {split} row"));
    if field("split") != Some(split) {
        return Err(bad());
    }
    let text = normal(field("text").ok_or_else(bad)?);
    let attack = row.get("label").and_then(Value::as_u64).ok_or_else(bad)? == 1;
    let kind = match field("kind").ok_or_else(bad)? {
        "tool_description" => Kind::Definition,
        "code" => Kind::Code,
        "user_prompt" => Kind::ClientText,
        _ => Kind::Result,
    };
    let first_line = text.lines().next().unwrap_or_default().to_owned();
    let group = field("sub")
        .filter(|_| matches!(set, "cargo_readmes" | "toolsdk_tools" | HONEST_SET))
        .map_or(first_line, str::to_owned);
    let (before, attack) = if attack { (String::new(), text) } else { (text, String::new()) };
    Ok(Document {
        before,
        attack,
        after: String::new(),
        kind,
        set: set.to_owned(),
        group,
        language: field("lang").unwrap_or_default().to_owned(),
    })
}

/// The text as the shield hands it to the model.
pub fn normal(text: &str) -> String {
    normalize(text).text().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_knows_its_kind_and_group_and_rows_of_another_split_are_refused() {
        let row =
            r#"{"text":"find: Finds.","label":0,"kind":"tool_description","split":"train","sub":"finder"}"#;
        let document = parse(row, "toolsdk_tools", "train").unwrap();
        assert_eq!((document.kind, document.group.as_str()), (Kind::Definition, "finder"));
        assert!(!document.is_attack());
        assert!(parse(row, "toolsdk_tools", "eval").is_err());
        assert!(parse(r#"{"text":"x","kind":"code","split":"train"}"#, "s", "train").is_err(), "no label");
    }
}
