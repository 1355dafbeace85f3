//! A person in front of the gate's pages: a browser with cookies and without scripts.

use std::{collections::BTreeMap, fmt::Write};

use crate::{Answer, Client, Gate, Issuer, issuer::query_of};

/// Somebody's browser.
pub struct Visitor {
    client: Client,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    /// A browser that has been nowhere yet.
    pub fn new(gate: &Gate) -> Self {
        Self { client: gate.stranger(), cookies: BTreeMap::new() }
    }

    /// The owner's browser, signed in by the link of `bartizan login`.
    ///
    /// # Panics
    /// If the link does not work.
    pub fn owner(gate: &Gate) -> Self {
        // The gate's port is of the system's choice, which its configuration does not say.
        let config = gate.folder().join("login.toml");
        let text = std::fs::read_to_string(gate.folder().join("bartizan.toml")).expect("the folder is ours");
        let text = text.replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"{}\"", gate.address()), 1);
        std::fs::write(&config, text).expect("the folder is ours");
        let done = std::process::Command::new(crate::binary())
            .args(["login", "--config"])
            .arg(&config)
            .output()
            .expect("the binary starts");
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        let link = said
            .split_whitespace()
            .find(|word| word.contains("/oauth/sign-in?link="))
            .expect("a link is printed");
        let path = link
            .split_once("/oauth/")
            .map(|(_, rest)| format!("/oauth/{rest}"))
            .expect("it is a link of ours");
        let mut visitor = Self::new(gate);
        let page = visitor.get(&path);
        let done = visitor.post("/oauth/sign-in", &[("link", &field(&page, "link"))]);
        assert_eq!(done.status, 200, "{}", done.text());
        visitor
    }

    /// A browser in which `subject` of `issuer`, who is in these groups, has signed in on the way to `path`; and the page.
    ///
    /// # Panics
    /// If the sign-in does not work.
    pub fn signed_in(
        gate: &Gate,
        issuer: &Issuer,
        (subject, groups): (&str, &[&str]),
        path: &str,
    ) -> (Self, Answer) {
        let mut visitor = Self::new(gate);
        let page = visitor.get(path);
        let leaving = visitor.post(path, &[("csrf", &field(&page, "csrf"))]);
        let departure = onward(&leaving);
        issuer.signs_in(&departure, subject, groups);
        let back = visitor.get(&format!("/oauth/callback?state={}&code=good", query_of(&departure, "state")));
        assert_eq!(back.line("location"), Some(path), "{}", back.text());
        let page = visitor.get(path);
        (visitor, page)
    }

    /// Opens a page.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], None)
    }

    /// Sends a form as a page of the gate's does.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.post_from(path, fields, &[("Origin", "null"), ("Sec-Fetch-Site", "same-origin")])
    }

    /// Sends a form as a page does that these lines tell of.
    pub fn post_from(&mut self, path: &str, fields: &[(&str, &str)], lines: &[(&str, &str)]) -> Answer {
        let pairs: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let mut lines = lines.to_vec();
        lines.push(("Content-Type", "application/x-www-form-urlencoded"));
        self.send("POST", path, &lines, Some(pairs.join("&")))
    }

    fn send(&mut self, method: &str, path: &str, lines: &[(&str, &str)], body: Option<String>) -> Answer {
        let mut ask = self.client.request(method, path);
        for (name, value) in lines {
            ask = ask.line(name, value);
        }
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            ask = ask.line("Cookie", &pairs.join("; "));
        }
        if let Some(body) = body {
            ask = ask.body(body);
        }
        let answer = ask.send();
        for line in answer.lines("set-cookie") {
            let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
            let Some((name, value)) = pair.split_once('=') else { continue };
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

/// The value of a hidden field of a page.
///
/// # Panics
/// If the page has none.
pub fn field(page: &Answer, name: &str) -> String {
    let text = page.text();
    let found =
        text.split_once(&format!(r#"name="{name}" value=""#)).and_then(|(_, rest)| rest.split('"').next());
    found.map(unescaped).unwrap_or_else(|| missing(name, &text))
}

/// Where a page leads by itself.
fn onward(page: &Answer) -> String {
    let text = page.text();
    let found = text.split_once(r#"content="0; url="#).and_then(|(_, rest)| rest.split('"').next());
    found.map(unescaped).unwrap_or_else(|| missing("an address", &text))
}

#[expect(clippy::panic, reason = "a scene that cannot be set fails its trial")]
fn missing(what: &str, page: &str) -> ! {
    panic!("the page has no {what}: {page}")
}

fn unescaped(text: &str) -> String {
    text.replace("&#38;", "&").replace("&#34;", "\"").replace("&#39;", "'")
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
