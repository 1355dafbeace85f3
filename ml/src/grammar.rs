//! A grammar of attacks on agents, and of harmless texts that look like them.
//!
//! The words are data, one file per language in `grammar/`; this is the machine that speaks them. A file is sections,
//! `[name]`, of lines; a line is one way to say it. `{name}` stands for a line of that section, of the same file, else of
//! `common.txt`, else in English; `[[a|b]]` for one of several wordings (one may be empty); `\n` for a line break. `{prose}` is a real
//! sentence of the harmless training data. Braces around anything else are themselves, so that JSON can be written.

pub mod corpus;

use std::collections::BTreeMap;

use crate::random::{Random, fingerprint};

/// Every language: its code and its file.
const LANGUAGES: [(&str, &str); 21] = [
    ("en", include_str!("grammar/en.txt")),
    ("ar", include_str!("grammar/ar.txt")),
    ("bn", include_str!("grammar/bn.txt")),
    ("de", include_str!("grammar/de.txt")),
    ("es", include_str!("grammar/es.txt")),
    ("fr", include_str!("grammar/fr.txt")),
    ("hi", include_str!("grammar/hi.txt")),
    ("id", include_str!("grammar/id.txt")),
    ("it", include_str!("grammar/it.txt")),
    ("ja", include_str!("grammar/ja.txt")),
    ("ko", include_str!("grammar/ko.txt")),
    ("nl", include_str!("grammar/nl.txt")),
    ("pl", include_str!("grammar/pl.txt")),
    ("pt", include_str!("grammar/pt.txt")),
    ("ru", include_str!("grammar/ru.txt")),
    ("th", include_str!("grammar/th.txt")),
    ("tl", include_str!("grammar/tl.txt")),
    ("tr", include_str!("grammar/tr.txt")),
    ("uk", include_str!("grammar/uk.txt")),
    ("vi", include_str!("grammar/vi.txt")),
    ("zh", include_str!("grammar/zh.txt")),
];
const COMMON: &str = include_str!("grammar/common.txt");
/// Deeper than any honest nesting of sections.
const DEPTH: usize = 16;

/// Which goals to speak of. Goals are what an attacker wants; holding some back shows what the model makes of unseen ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goals {
    All,
    /// Every fifth.
    HeldOut,
    /// The others.
    Known,
}

type Sections = BTreeMap<&'static str, Vec<&'static str>>;

/// All files, read; with the prose to quote.
pub struct Grammar {
    languages: Vec<(&'static str, Sections)>,
    common: Sections,
    prose: Vec<String>,
}

impl Grammar {
    /// The grammar, speaking of `goals`, quoting `prose`.
    pub fn new(goals: Goals, prose: Vec<String>) -> Self {
        let languages = LANGUAGES.iter().map(|(code, file)| (*code, sections(file, goals))).collect();
        Self { languages, common: sections(COMMON, goals), prose }
    }

    /// Codes of the languages that have `section`.
    pub fn languages_with(&self, section: &str) -> Vec<&'static str> {
        let speaks = |(_, sections): &&(&str, Sections)| sections.contains_key(section);
        self.languages.iter().filter(speaks).map(|(code, _)| *code).collect()
    }

    /// One text of `section` in `language`; empty if there is no such section.
    pub fn speak(&self, language: &str, section: &str, random: &mut Random) -> String {
        let own = self.languages.iter().find(|(code, _)| *code == language).map(|(_, sections)| sections);
        let mut text = String::new();
        self.expand(&format!("{{{section}}}"), own, random, DEPTH, &mut text);
        text
    }

    fn english(&self) -> &Sections {
        self.languages.first().map_or(&self.common, |(_, sections)| sections)
    }

    fn expand(
        &self,
        line: &str,
        own: Option<&Sections>,
        random: &mut Random,
        depth: usize,
        out: &mut String,
    ) {
        let mut rest = line;
        while let Some(at) = rest.find(['{', '[', '\\']) {
            let (plain, special) = rest.split_at(at);
            out.push_str(plain);
            if let Some(after) = special.strip_prefix("\\n") {
                out.push('\n');
                rest = after;
            } else if let Some((choices, after)) =
                special.strip_prefix("[[").and_then(|inner| inner.split_once("]]"))
            {
                let choices: Vec<&str> = choices.split('|').collect();
                let choice = random.pick(&choices).copied().unwrap_or_default();
                self.expand(choice, own, random, depth.saturating_sub(1), out);
                rest = after;
            } else if let Some((name, after)) =
                special.strip_prefix('{').and_then(|inner| inner.split_once('}'))
                && depth > 0
                && self.expand_section(name, own, random, depth, out)
            {
                rest = after;
            } else {
                let mut characters = special.chars();
                out.extend(characters.next());
                rest = characters.as_str();
            }
        }
        out.push_str(rest);
    }

    fn expand_section(
        &self,
        name: &str,
        own: Option<&Sections>,
        random: &mut Random,
        depth: usize,
        out: &mut String,
    ) -> bool {
        if name == "prose"
            && let Some(sentence) = random.pick(&self.prose)
        {
            out.push_str(sentence);
            return true;
        }
        let lines = own
            .and_then(|own| own.get(name))
            .or_else(|| self.common.get(name))
            .or_else(|| self.english().get(name));
        let Some(line) = lines.and_then(|lines| random.pick(lines)) else { return false };
        self.expand(line, own, random, depth - 1, out);
        true
    }
}

fn sections(file: &'static str, goals: Goals) -> Sections {
    let mut sections = Sections::new();
    let mut name = "";
    for line in file.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        if let Some(heading) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
            && !heading.starts_with('[')
        {
            name = heading;
            continue;
        }
        let held_out = fingerprint(line).is_multiple_of(5);
        let spoken = match goals {
            Goals::All => true,
            Goals::HeldOut => held_out,
            Goals::Known => !held_out,
        };
        if spoken || !name.starts_with("goal") {
            sections.entry(name).or_default().push(line);
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in braces that no section explains, over all files.
    fn unexplained(grammar: &Grammar) -> Vec<String> {
        let mut missing = Vec::new();
        for (code, own) in grammar.languages.iter().chain([&("common", grammar.common.clone())]) {
            for line in own.values().flatten() {
                let names =
                    line.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name);
                let plain = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                for name in names.filter(|name| !name.is_empty()).filter(plain) {
                    let known =
                        [own, &grammar.common, grammar.english()].iter().any(|s| s.contains_key(name));
                    if !known && !matches!(name, "prose" | "payload") {
                        missing.push(format!("{code}: {name}"));
                    }
                }
            }
        }
        missing
    }

    #[test]
    fn every_name_in_every_language_is_explained() {
        let grammar = Grammar::new(Goals::All, vec!["A sentence.".to_owned()]);
        assert_eq!(unexplained(&grammar), Vec::<String>::new());
        assert!(grammar.languages_with("override").len() >= 16);
    }

    #[test]
    fn known_and_held_out_goals_have_no_line_in_common() {
        let all = sections("[goal_x]\na\nb\nc\nd\ne\nf\ng\nh\n[other]\nz\n", Goals::All);
        let held = sections("[goal_x]\na\nb\nc\nd\ne\nf\ng\nh\n[other]\nz\n", Goals::HeldOut);
        let known = sections("[goal_x]\na\nb\nc\nd\ne\nf\ng\nh\n[other]\nz\n", Goals::Known);
        let count = |from: &Sections| from.get("goal_x").map_or(0, Vec::len);
        assert_eq!(count(&all), count(&held) + count(&known));
        assert_eq!(known.get("other"), Some(&vec!["z"]));
    }

    #[test]
    fn braces_that_name_no_section_stay() {
        let grammar = Grammar::new(Goals::All, Vec::new());
        let mut out = String::new();
        grammar.expand(r#"{"a": "[[x]]", "b": {}}\n"#, None, &mut Random::new(1), DEPTH, &mut out);
        assert_eq!(out, "{\"a\": \"x\", \"b\": {}}\n");
    }
}
