//! What strangers send to be let in: tokens, redirect URIs, descriptions of clients.

pub use bartizan_oauth::facade::fuzzing::{client_document, redirect_uri, token};
