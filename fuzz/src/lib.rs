//! What must hold for any bytes. Each target is a function here, so that the fuzzer and the replay of the kept corpus
//! (`cargo test`) check the same. A property that does not hold panics.

mod definition;
mod headers;
mod identity;
mod json;
mod message;
mod shield;
mod sse;

pub use definition::definition;
pub use headers::headers;
pub use identity::{client_document, redirect_uri, token};
pub use json::json;
pub use message::message;
pub use shield::{document, fragments, marks, normal};
pub use sse::sse;

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(target: &str, check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let mut replayed = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            check(&std::fs::read(path).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus of `{target}` is empty");
    }

    #[test]
    fn json() {
        replay("json", super::json);
    }

    #[test]
    fn message() {
        replay("message", super::message);
    }

    #[test]
    fn headers() {
        replay("headers", super::headers);
    }

    #[test]
    fn sse() {
        replay("sse", super::sse);
    }

    #[test]
    fn definition() {
        replay("definition", super::definition);
    }

    #[test]
    fn fragments() {
        replay("fragments", super::fragments);
    }

    #[test]
    fn marks() {
        replay("marks", super::marks);
    }

    #[test]
    fn normal() {
        replay("normal", super::normal);
    }

    #[test]
    fn token() {
        replay("token", super::token);
    }

    #[test]
    fn redirect_uri() {
        replay("redirect_uri", super::redirect_uri);
    }

    #[test]
    fn client_document() {
        replay("client_document", super::client_document);
    }

    #[test]
    fn document() {
        replay("document", super::document);
    }
}
