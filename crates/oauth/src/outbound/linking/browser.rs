//! What a browser sends: parameters and header lines, each of which counts only if it is there once.

use http::{HeaderMap, header};
use url::form_urlencoded;

/// Parameters of a query or a form.
#[derive(Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn read(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).take(64).map(|(n, v)| (n.into(), v.into())).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// The value of a parameter that stands once: of two, nobody knows which counts (RFC 6749 §3.1).
    pub fn one(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        values.next().filter(|value| values.next().is_none() && !value.is_empty())
    }
}

/// Whether a browser says that another site sent this (Fetch Metadata).
pub(super) fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin")
}

/// A cookie that is there once.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(n, _)| *n == name).map(|(_, value)| value);
    found.next().filter(|_| found.next().is_none())
}
