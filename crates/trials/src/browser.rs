//! A person's browser: it keeps cookies and says what browsers say of a request. It runs nothing.

use std::collections::BTreeMap;

use crate::{Answer, Ask, Client, encode};

/// A browser at the gate.
pub struct Browser {
    client: Client,
    host: String,
    /// Its cookies, by name.
    pub cookies: BTreeMap<String, String>,
}

impl Browser {
    /// A browser that reaches `client`'s gate as `host`.
    pub fn new(client: Client, host: &str) -> Self {
        Self { client, host: host.to_owned(), cookies: BTreeMap::new() }
    }

    /// A visit of a page, not sent yet.
    pub fn visit(&self, target: &str) -> Ask {
        self.dress(self.client.request("GET", target)).line("Sec-Fetch-Mode", "navigate")
    }

    /// A form as a page of the gate's sends it, not sent yet.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> Ask {
        self.form_with(path, fields, &[("Origin", "null"), ("Sec-Fetch-Site", "same-origin")])
    }

    /// A form as a page sends it that these lines tell of, not sent yet.
    pub fn form_with(&self, path: &str, fields: &[(&str, &str)], lines: &[(&str, &str)]) -> Ask {
        let ask = self.dress(self.client.request("POST", path));
        let ask = lines.iter().fold(ask, |ask, (name, value)| ask.line(name, value));
        ask.line("Content-Type", "application/x-www-form-urlencoded").body(encode(fields))
    }

    /// Visits a page.
    pub fn get(&mut self, target: &str) -> Answer {
        let ask = self.visit(target);
        self.send(ask)
    }

    /// Sends a form.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let ask = self.form(path, fields);
        self.send(ask)
    }

    /// Sends a request, and keeps what cookies come of it.
    pub fn send(&mut self, ask: Ask) -> Answer {
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

    fn dress(&self, ask: Ask) -> Ask {
        let ask = ask.with("Host", &self.host);
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if cookies.is_empty() { ask } else { ask.line("Cookie", &cookies.join("; ")) }
    }
}

/// The value of a hidden field of a page, if it has one.
pub fn field(page: &Answer, name: &str) -> Option<String> {
    let text = page.text();
    let (_, rest) = text.split_once(&format!(r#"name="{name}" value=""#))?;
    rest.split('"').next().map(unescape)
}

/// Where a page or a redirect leads on by itself, if it does.
pub fn onward(answer: &Answer) -> Option<String> {
    if let Some(location) = answer.line("location") {
        return Some(location.to_owned());
    }
    let text = answer.text();
    let (_, rest) = text.split_once(r#"content="0; url="#)?;
    rest.split('"').next().map(unescape)
}

fn unescape(text: &str) -> String {
    let marks = [("&#38;", "&"), ("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'")];
    marks.iter().fold(text.to_owned(), |text, (mark, plain)| text.replace(mark, plain))
}
