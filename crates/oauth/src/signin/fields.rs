//! Queries and forms, each name once.

use std::collections::BTreeMap;

use http::header;
use url::form_urlencoded;

use super::refusal::Refusal;
use crate::facade::Asked;

/// Fields of a form; ours have no more.
const MAX: usize = 16;

/// The fields of a query or form.
pub(super) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// The query of a request.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if a name is there twice: which counts would be anybody's choice.
    pub fn of_query(asked: &Asked<'_>) -> Result<Self, Refusal> {
        Self::parse(asked.query.unwrap_or_default().as_bytes())
    }

    /// The form in the body of a request that one of our own pages sent.
    ///
    /// # Errors
    /// [`Refusal::OtherSite`] for a form of another page's, or one that only a script can send (attacks.md CD-02);
    /// [`Refusal::Malformed`].
    pub fn of_form(asked: &Asked<'_>, origin: &str) -> Result<Self, Refusal> {
        if !is_from_here(asked, origin) {
            return Err(Refusal::OtherSite);
        }
        let kind = one(asked, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Refusal::OtherSite);
        }
        Self::parse(asked.body)
    }

    fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text) {
            if fields.len() == MAX || fields.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(Refusal::Malformed);
            }
        }
        Ok(Self(fields))
    }

    /// The value of a field; an empty one is as good as none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn needed(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or(Refusal::Malformed)
    }
}

/// Whether the browser says that a page of ours sent this. Our pages send no referrer, so their `Origin` is `null` (Fetch,
/// "append a request Origin header") and `Sec-Fetch-Site` decides; a browser that sends neither is too old.
fn is_from_here(asked: &Asked<'_>, origin: &str) -> bool {
    let (Ok(site), Ok(named)) = (one(asked, "sec-fetch-site"), one(asked, header::ORIGIN.as_str())) else {
        return false;
    };
    match (site, named) {
        (Some(site), None | Some("null")) => site == "same-origin",
        (Some(site), Some(named)) => site == "same-origin" && named == origin,
        (None, named) => named == Some(origin),
    }
}

/// Whether a person goes to the page, as far as the browser says.
pub(super) fn is_visit(asked: &Asked<'_>) -> bool {
    matches!(one(asked, "sec-fetch-mode"), Ok(None | Some("navigate")))
}

/// The one line of this name, if there is one.
fn one<'a>(asked: &Asked<'a>, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut lines = asked.headers.get_all(name).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Refusal::Malformed);
    }
    line.map(|line| line.to_str().map_err(|_| Refusal::Malformed)).transpose()
}
