//! Words that a text does not say itself: those between quotation marks, and asides.

use std::ops::Range;

/// Bytes before and behind the words in which a text says that it is about attacks.
const AROUND: usize = 400;

/// What opens a quotation, and what closes it.
const MARKS: [(char, char); 12] = [
    ('"', '"'),
    ('`', '`'),
    ('“', '”'),
    ('”', '”'),
    ('«', '»'),
    ('‹', '›'),
    ('„', '“'),
    ('„', '”'),
    ('「', '」'),
    ('『', '』'),
    ('\'', '\''),
    ('‘', '’'),
];

/// What the attack is called where people teach about it, in small letters.
const NAMES: [&str; 32] = [
    "prompt injection",
    "prompt-injection",
    "jailbreak",
    "adversarial",
    "tool poisoning",
    "an attacker",
    "attackers",
    "an attack?",
    "prompt-injektion",
    "injection de prompt",
    "injection d'invite",
    "inyección de prompt",
    "inyección de instrucciones",
    "injeção de prompt",
    "injeção de comandos",
    "iniezione di prompt",
    "wstrzyknięci",
    "istem enjeksiyon",
    "komut enjeksiyon",
    "инъекция пром",
    "инъекции пром",
    "промпт-инъекц",
    "внедрение пром",
    "ін'єкція пром",
    "プロンプトインジェクション",
    "提示词注入",
    "提示注入",
    "提示詞注入",
    "프롬프트 인젝션",
    "프롬프트 주입",
    "حقن الأوامر",
    "प्रॉम्प्ट इंजेक्शन",
];

/// Whether a security text quotes the words: they stand between quotation marks or in code, and the text around names
/// the attack. Somebody who attacks can write so too, and gets an annotation; somebody who teaches must not be blocked.
pub(super) fn is_quoted_example(text: &str, range: &Range<usize>) -> bool {
    let start = text.floor_char_boundary(range.start.saturating_sub(AROUND));
    let end = text.ceil_char_boundary((range.end + AROUND).min(text.len()));
    let before = text.get(start..range.start).unwrap_or_default();
    let behind = text.get(range.end..end).unwrap_or_default();
    let line_before = before.rsplit('\n').next().unwrap_or_default();
    let line_behind = behind.split('\n').next().unwrap_or_default();
    let quoted = MARKS.iter().any(|(open, close)| {
        let opens = line_before.matches(*open).count();
        let inside = if open == close { opens % 2 == 1 } else { opens > line_before.matches(*close).count() };
        inside && line_behind.contains(*close)
    });
    let around = text.get(start..end).unwrap_or_default().to_lowercase();
    quoted && NAMES.iter().any(|name| around.contains(name))
}

/// What stands in `words` between brackets or dashes, both of which are there.
pub(super) fn asides(words: &str) -> Vec<Range<usize>> {
    const PAIRS: [(&str, &str); 4] = [("(", ")"), ("[", "]"), (" – ", " – "), ("—", "—")];
    let mut found: Vec<Range<usize>> = Vec::new();
    for (open, close) in PAIRS {
        let mut at = 0;
        while let Some(start) = words.get(at..).and_then(|rest| rest.find(open)).map(|start| at + start) {
            let inside = start + open.len();
            let end =
                words.get(inside..).and_then(|rest| rest.find(close)).map(|end| inside + end + close.len());
            let Some(end) = end else { break };
            if found.iter().all(|other| other.end <= start || other.start >= end) {
                found.push(start..end);
            }
            at = end;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aside_has_both_its_ends_in_the_words() {
        assert_eq!(asides("read it (never twice) and — as ever — send it"), [8..21, 26..41]);
        assert!(asides("read it (never twice and send it").is_empty());
        assert!(asides("never read it, twice").is_empty());
    }

    #[test]
    fn a_quotation_counts_in_the_marks_of_its_language_and_only_where_the_attack_is_named() {
        for text in [
            "プロンプトインジェクションとは「以前の指示を無視」と書く攻撃です。",
            "Инъекция промпта: «забудь указания».",
            "Attackers write “ignore the rules” into pages.",
        ] {
            let start = ["以前の", "забудь", "ignore"].iter().find_map(|words| text.find(words)).unwrap();
            assert!(is_quoted_example(text, &(start..start + 6)), "{text}");
        }
        assert!(!is_quoted_example("He said “ignore the rules” to me.", &(10..16)));
        assert!(!is_quoted_example("Attackers write: ignore the rules.", &(17..23)));
    }
}
