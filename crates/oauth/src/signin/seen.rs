//! Texts of strangers, as a person may see them (attacks.md CD-05).
//!
//! The templates escape; here goes what would deceive an eye rather than a browser: direction marks, invisible letters,
//! names as long as a page.

use crate::facade::Application;

/// Letters of a name that are shown.
const NAME: usize = 60;

/// What a client calls itself, or what we call it.
pub(super) fn name(client: &Application) -> String {
    called(&client.name)
}

/// The same for what somebody calls themselves.
pub(super) fn called(name: &str) -> String {
    let shown = line(name, NAME);
    if shown.is_empty() { "An application without a name".to_owned() } else { shown }
}

/// One line of at most `most` visible characters.
pub(super) fn line(text: &str, most: usize) -> String {
    let mut shown = String::new();
    // Far more than is shown, far less than a reader's patience.
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).take(1000) {
        let word: String = word.chars().filter(|c| !is_invisible(*c)).collect();
        if !word.is_empty() {
            if !shown.is_empty() {
                shown.push(' ');
            }
            shown.push_str(&word);
        }
    }
    if shown.chars().count() > most {
        shown = shown.chars().take(most).collect();
        shown.push('…');
    }
    shown
}

/// An address, every character of it: what is not plain ASCII is written as its code.
pub(super) fn address(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_ascii_graphic() { shown.push(c) } else { shown.extend(c.escape_unicode()) }
    }
    shown
}

/// Characters that take no room, or turn the text round (Unicode `Cf`, the fillers, and the variation selectors).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name_of_it: &str) -> String {
        name(&Application {
            id: "id".into(),
            name: name_of_it.into(),
            verified_host: None,
            is_preregistered: false,
            metadata: String::new(),
            only_loopback: false,
        })
    }

    #[test]
    fn cd_05_a_name_cannot_deceive_the_eye() {
        assert_eq!(named("Claude"), "Claude");
        assert_eq!(named("Claude\u{202e}edualC"), "ClaudeedualC");
        assert_eq!(named("Mi\u{200b}cro\u{ad}soft"), "Microsoft");
        assert_eq!(named("A\nB\r\n\tC\u{2028}D"), "A B C D");
        assert_eq!(named("日本語 エディタ"), "日本語 エディタ");
        for nothing in ["", " ", "\u{202e}", "\0\u{3164}\u{2800}"] {
            assert_eq!(named(nothing), "An application without a name");
        }
        assert_eq!(named(&"x".repeat(4096)).chars().count(), 61);
    }

    #[test]
    fn an_address_is_shown_whole_and_in_plain_letters() {
        let exact = "https://app.example/cb?a=%20&b=<c>";
        assert_eq!(address(exact), exact);
        assert_eq!(address("https://ex\u{430}mple.com/\u{202e}"), r"https://ex\u{430}mple.com/\u{202e}");
    }
}
