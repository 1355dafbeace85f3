//! Reading a configuration file, so that whoever made several mistakes hears of them together.

use super::{Config, mistakes::misread};

/// Mistakes of form that are named at most.
const MOST: usize = 20;

/// The configuration in `text`.
///
/// # Errors
/// What is wrong with its form. A reader of TOML stops at the first mistake, so it is asked again without the lines of that one, as long as
/// what is left is still as it was meant.
pub fn read(text: &str) -> Result<Config, Vec<String>> {
    let mut left = text.to_owned();
    // With where each is, for the reader finds them in an order of its own.
    let mut found = Vec::new();
    let mut gone = Vec::new();
    while found.len() < MOST {
        let error = match toml::from_str(&left) {
            Ok(config) if found.is_empty() => return Ok(config),
            Ok(_) => break,
            Err(error) => error,
        };
        let missing = error.message().strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        if missing.is_some_and(|field| gone.iter().any(|key| key == field)) {
            // It was there, with the mistake that was named.
            break;
        }
        let is_missing = missing.is_some();
        let span = error.span();
        found.push((span.as_ref().map(|span| span.start), misread(error, &left)));
        let Some((key, rest)) = span.and_then(|span| without(&left, span)) else { break };
        if is_missing || toml::from_str::<toml::Table>(&rest).is_err() {
            break;
        }
        gone.push(key);
        left = rest;
    }
    found.sort();
    Err(found.into_iter().map(|(_, mistake)| mistake).collect())
}

/// The key on the lines of `span`, and `text` with blanks for these lines, so that what is behind them stays where it was; `None` if
/// they begin a table, whose keys would then be another's.
fn without(text: &str, span: std::ops::Range<usize>) -> Option<(String, String)> {
    let begin = text.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let end = text.get(span.end..)?.find('\n').map_or(text.len(), |at| span.end + at);
    let lines = text.get(begin..end)?;
    if lines.trim_start().starts_with('[') {
        return None;
    }
    let key = lines.split('=').next()?.trim().to_owned();
    let blanks = lines.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' });
    let rest = text.get(..begin)?.chars().chain(blanks).chain(text.get(end..)?.chars()).collect();
    Some((key, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        read(text).err().unwrap_or_default()
    }

    #[test]
    fn mistakes_of_form_are_named_together() {
        let found = mistakes(
            "[server]\nlisten = \"here\"\nlisen = 1 # ä\n[identity]\nmode = \"locl\"\n\
             [[servers]]\nname = \"a\"\ncommand = \"true\"\n[shield]\nspotlight = [\n  \"x\",\n  \"y\"]\n",
        );
        assert_eq!(found.len(), 5, "{found:#?}");
        let expected = [("listen", 2), ("lisen", 3), ("mode", 5), ("command", 8), ("spotlight", 10)];
        for (mistake, (word, line)) in found.iter().zip(expected) {
            assert!(
                mistake.contains(word) && mistake.contains(&format!("line {line},")),
                "{word}: {found:#?}"
            );
        }
        assert!(
            !found.iter().any(|mistake| mistake.contains("= ")),
            "no line of the file is told: {found:#?}"
        );
    }

    #[test]
    fn no_mistake_is_made_up() {
        for (text, expected) in [
            ("", 0),
            ("x = [", 1),
            // Without its name a server has none; that was not the mistake.
            ("[[servers]]\nname = \"A\"\ncommand = [\"x\"]\n", 1),
            // Without its line the keys behind it would be another table's.
            ("[serve]\nlisten = 1\n[identity]\nmode = \"local\"\n", 1),
            ("[[audit.export]]\nname = \"x\"\nkind = \"splunk-hec\"\nurl = \"https://a\"\n", 1),
            // Of a value on several lines the first alone is blank, which leaves no TOML.
            ("[server]\nx = [\n 1,\n]\n", 1),
            ("[[audit.export]]\nname = \"x\"\nkind = \"splunk\"\n", 1),
        ] {
            let found = mistakes(text);
            assert_eq!(found.len(), expected, "{text}: {found:#?}");
        }
    }
}
