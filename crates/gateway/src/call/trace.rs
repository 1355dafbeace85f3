//! The gate's own trace, which servers are told in the place of a client's.

use bartizan_model::Entropy;

/// A trace of our own: the client's ids stay this side (Trace Context §3.2).
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Of our span in it: 16 hexadecimal digits.
    pub span: String,
}

impl Trace {
    pub(super) fn fresh(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0; 24];
        entropy.fill(&mut bytes);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let (id, span) = hex.split_at_checked(32).unwrap_or_default();
        Self { id: id.to_owned(), span: span.to_owned() }
    }

    /// As `traceparent`.
    pub(super) fn parent(&self) -> String {
        format!("00-{}-{}-01", self.id, self.span)
    }
}
