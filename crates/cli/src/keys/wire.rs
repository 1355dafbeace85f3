//! Key providers and vaults over egress.

use async_trait::async_trait;
use bartizan_egress::{Egress, Peer, TlsOptions};
use bartizan_store::root::{Ask, Told, Wire};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use zeroize::Zeroizing;

/// The longest answer, in bytes.
const LONGEST: usize = 256 << 10;

/// HTTPS to the vaults the configuration names.
pub struct EgressWire {
    egress: Egress,
    tls: TlsOptions,
}

impl EgressWire {
    /// By `egress`, with `tls` towards the vault.
    pub fn new(egress: Egress, tls: TlsOptions) -> Self {
        Self { egress, tls }
    }
}

#[async_trait]
impl Wire for EgressWire {
    async fn ask(&self, ask: Ask<'_>) -> Result<Told, String> {
        let url = ask.url.parse().map_err(|_| "its address is no URL".to_owned())?;
        // Made for each request: there are few, and certificates are renewed.
        let peer = Peer { url, tls: self.tls.clone(), dangerous_plaintext: false };
        let endpoint = self.egress.endpoint(&peer).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in &ask.headers {
            let value = HeaderValue::from_str(value.reveal());
            let mut value = value.map_err(|_| format!("`{name}` cannot be sent in a header"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        let (method, body) = match ask.body {
            None => (Method::GET, bytes::Bytes::new()),
            Some(body) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (Method::POST, bytes::Bytes::copy_from_slice(body.as_bytes()))
            }
        };
        let exchange = async {
            let answer = endpoint.send(method, headers, body, ask.within).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect_within(LONGEST, ask.within).await?;
            Ok::<_, bartizan_egress::Error>(Told { status, body: Zeroizing::new(body) })
        };
        tokio::time::timeout(ask.within, exchange)
            .await
            .map_err(|_| "no answer came in time".to_owned())?
            .map_err(|error| error.to_string())
    }
}
