//! Browsers of people who are signed in.

use crate::{
    Answer, Browser, Gate, Issuer,
    browser::{field, onward},
    issuer::query_of,
};

impl Browser {
    /// A browser at `gate` that has been nowhere yet.
    pub fn at(gate: &Gate) -> Self {
        Self::new(gate.stranger(), &gate.address().to_string())
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
        let mut visitor = Self::at(gate);
        let page = visitor.get(&path);
        let done = visitor
            .post("/oauth/sign-in", &[("link", &field(&page, "link").expect("the page has the link"))]);
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
        let mut visitor = Self::at(gate);
        let page = visitor.get(path);
        let leaving = visitor.post(path, &[("csrf", &field(&page, "csrf").expect("the page has a form"))]);
        let departure = onward(&leaving).expect("the page leads on");
        issuer.signs_in(&departure, subject, groups);
        let back = visitor.get(&format!("/oauth/callback?state={}&code=good", query_of(&departure, "state")));
        assert_eq!(back.line("location"), Some(path), "{}", back.text());
        let page = visitor.get(path);
        (visitor, page)
    }
}
