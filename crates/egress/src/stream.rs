//! Bytes to a receiver that speaks no HTTP, such as syslog over TLS (RFC 5425).

use std::{sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use crate::{
    Egress, Error, Peer,
    connect::{Purpose, zone_of},
    tls,
};

/// Where syslog over TLS listens (RFC 5425 §4.1), if a URL names no port.
const TLS_PORT: u16 = 6514;

/// A receiver of bytes.
#[derive(Clone)]
pub struct StreamEndpoint {
    purpose: Arc<Purpose>,
    uri: Uri,
}

impl Egress {
    /// A receiver the operator named by `tls://host[:port]` (6514 by default), or on loopback by `tcp://host:port`. Its
    /// address may be private, and loopback if the URL says so.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Plaintext`] or [`Error::Tls`] for a peer that cannot be used.
    pub fn stream(&self, peer: &Peer) -> Result<StreamEndpoint, Error> {
        let url = &peer.url;
        let (scheme, port) = match url.scheme() {
            "tls" => ("https", url.port().unwrap_or(TLS_PORT)),
            "tcp" => ("http", url.port().ok_or(Error::Url("it needs a port"))?),
            _ => return Err(Error::Url("it is neither tls nor tcp")),
        };
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && matches!(url.path(), "" | "/");
        let host = url.host_str().filter(|host| is_bare && !host.is_empty());
        let host = host.ok_or(Error::Url("write scheme://host:port and nothing more"))?;
        // Only in a URL of a scheme it knows does the parser read a host as an address.
        let known: Url = format!("{scheme}://{host}:{port}/")
            .parse()
            .map_err(|_| Error::Url("its host is neither a name nor an address"))?;
        let zone = zone_of(&known);
        if scheme == "http" && zone != crate::address::Zone::Loopback && !peer.dangerous_plaintext {
            return Err(Error::Plaintext);
        }
        let host = known.host_str().unwrap_or_default();
        let uri = format!("{scheme}://{host}:{port}/").parse().map_err(|_| Error::Url("it is no URI"))?;
        let mut tls = (*tls::client(&peer.tls, &self.platform, scheme == "https", &[])?).clone();
        // Some receivers that ask for our certificate break off a session that is resumed (OpenSSL without a session id
        // context, as in rsyslog); and what is refused today must not pass by what was agreed yesterday.
        tls.resumption = Resumption::disabled();
        let tls = Arc::new(tls);
        Ok(StreamEndpoint { purpose: self.purpose(zone, tls)?, uri })
    }
}

impl StreamEndpoint {
    /// Connects, writes `bytes`, says that nothing more comes, and waits until the receiver closes too: only then is it
    /// known to have read them all. Over TLS its `close_notify` says so (RFC 5425 §4.4), which nobody on the way can forge.
    ///
    /// # Errors
    /// [`Error`]; unless it [sent nothing](Error::sent_nothing), any part of the bytes may have been read.
    pub async fn deliver(&self, bytes: &[u8], within: Duration) -> Result<(), Error> {
        let delivering = async {
            let stream = Arc::clone(&self.purpose).connect(self.uri.clone()).await?;
            let mut stream = TokioIo::new(stream);
            let broken = |error: std::io::Error| Error::Broken(error.to_string());
            let written = async {
                stream.write_all(bytes).await?;
                stream.flush().await?;
                stream.shutdown().await
            };
            let written = written.await;
            // A receiver that refuses our certificate says so here, under TLS 1.3 after the handshake (RFC 8446 §4.4.2);
            // its reason is worth more than the pipe that broke.
            let mut rest = [0; 512];
            loop {
                match stream.read(&mut rest).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => return Err(broken(error)),
                }
            }
            written.map_err(broken)
        };
        tokio::time::timeout(within, delivering).await.map_err(|_| Error::Timeout)?
    }
}

impl std::fmt::Debug for StreamEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamEndpoint({})", self.uri.authority().map_or("", |a| a.as_str()))
    }
}
