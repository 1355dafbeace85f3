//! Azure App Service and Container Apps as far as a program on them sees its identity, by the published contract: an endpoint on
//! the machine itself that the environment names (`IDENTITY_ENDPOINT`), and a mark that only the program knows
//! (`IDENTITY_HEADER`), so that nobody who has the program fetch a URL gets a token.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use crate::{Heard, Pen, Upstream, parameter};

/// The mark.
const MARK: &str = "mark-of-the-platform";

/// What it answers instead of a token.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status line and body, as JSON, with more header lines.
    Answer(&'static str, String, String),
    /// A token whose life is over.
    Expired,
    /// Nothing, until whoever asks gives up.
    Silence,
}

/// A platform on loopback that manages one identity, whose client id is `ours`.
pub struct Platform {
    server: Upstream,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Platform {
    /// One that gives tokens.
    pub fn start() -> Self {
        let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
        let known = Arc::clone(&fault);
        let server = Upstream::modern(move |heard, pen| {
            let fault = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
            answer(fault.as_ref(), heard, pen);
            true
        });
        Self { server, fault }
    }

    /// The same, which answers this from the start on.
    pub fn faulty(fault: Fault) -> Self {
        let platform = Self::start();
        *platform.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        platform
    }

    /// Its address.
    pub fn origin(&self) -> String {
        self.server.origin()
    }

    /// The variables that it sets.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let place = format!("{}/msi/token", self.server.origin());
        [("IDENTITY_ENDPOINT", place), ("IDENTITY_HEADER", MARK.to_owned())]
    }

    /// The token it gives out for this resource.
    pub fn token(resource: &str) -> String {
        format!("machine-token-for-{resource}")
    }

    /// Everything it was asked.
    pub fn heard(&self) -> Vec<Heard> {
        self.server.heard()
    }

    /// The resources for which it gave a token.
    pub fn given(&self) -> Vec<String> {
        self.heard().iter().filter_map(|heard| good(heard).ok()).collect()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Whether any of its secrets is in `text`.
    pub fn is_told(text: &str) -> bool {
        text.contains("machine-token-for") || text.contains(MARK)
    }
}

/// The resource that is asked for, or the answer to what is no good question.
fn good(heard: &Heard) -> Result<String, (&'static str, &'static str)> {
    let of = |name: &str| parameter(&format!("http://x{}", heard.target()), name);
    if heard.method() != "GET" || heard.path() != "/msi/token" {
        return Err(("404 Not Found", "no such place"));
    }
    if heard.line("x-identity-header") != Some(MARK) {
        return Err(("401 Unauthorized", "the mark is wrong"));
    }
    if of("api-version").as_deref() != Some("2019-08-01") {
        return Err(("400 Bad Request", "the api-version is not known"));
    }
    if of("client_id").is_some_and(|id| id != "ours") {
        return Err((
            "400 Bad Request",
            "no User Assigned or Delegated Managed Identity found for specified ClientId",
        ));
    }
    of("resource").ok_or(("400 Bad Request", "a resource is needed"))
}

fn answer(fault: Option<&Fault>, heard: &Heard, pen: &mut Pen) {
    let resource = match good(heard) {
        Ok(resource) => resource,
        Err((status, message)) => {
            let body = json!({ "statusCode": status.get(..3), "message": message });
            return pen.whole(status, "application/json", "", &body.to_string());
        }
    };
    let expires_on = match fault {
        Some(Fault::Answer(status, lines, body)) => {
            return pen.whole(status, "application/json", lines, body);
        }
        Some(Fault::Silence) => return pen.wait_closed(),
        Some(Fault::Expired) => "1000000000",
        None => "4102444800",
    };
    let body = json!({
        "access_token": Platform::token(&resource), "expires_on": expires_on, "resource": resource, "token_type": "Bearer",
        "client_id": "ours",
    });
    pen.json(&body.to_string());
}
