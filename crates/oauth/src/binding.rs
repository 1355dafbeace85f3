//! Tokens that only work in the hands of whoever holds a key (RFC 7800, RFC 9449, RFC 8705).

use crate::{Error, json::Object};

/// What a token's `cnf` ties it to; nothing for a bearer token. With both, both must be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Binding {
    /// SHA-256 thumbprint of a DPoP key (RFC 9449 §6.1).
    pub jkt: Option<String>,
    /// SHA-256 thumbprint of a client certificate (RFC 8705 §3.1).
    pub certificate: Option<String>,
}

impl Binding {
    /// Reads `cnf`.
    ///
    /// # Errors
    /// [`Error::BindingUnknown`] for a member that cannot be checked here: leaving it out would turn a bound token
    /// into a bearer token.
    pub fn of(claims: &Object) -> Result<Self, Error> {
        let Some(confirmation) = claims.object("cnf")? else { return Ok(Self::default()) };
        let binding = Self {
            jkt: confirmation.text("jkt")?.map(str::to_owned),
            certificate: confirmation.text("x5t#S256")?.map(str::to_owned),
        };
        let is_known = confirmation.names().all(|name| matches!(name, "jkt" | "x5t#S256"));
        if is_known && binding != Self::default() { Ok(binding) } else { Err(Error::BindingUnknown) }
    }
}
