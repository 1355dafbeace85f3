//! The body of a request. Whoever is refused before it was read still hears the answer: the rest is read and forgotten.

use bartizan_mcp::{Refusal, code};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::limits::{BODY_WAIT, REQUEST_BYTES, UNREAD_WAIT};

/// What a request has beside its head, not read yet.
pub struct Body {
    incoming: Option<Incoming>,
    unread: Option<oneshot::Sender<Incoming>>,
}

impl Body {
    /// A body of which it does not matter what is left unread, since nothing else comes after it: HTTP/2 ends each stream
    /// by itself (RFC 9113 §8.1).
    pub fn new(incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), unread: None }
    }

    /// A body in a connection that goes on after it, and what will be left of it.
    pub fn shared(incoming: Incoming) -> (Self, Unread) {
        if incoming.is_end_stream() {
            return (Self::new(incoming), Unread(None));
        }
        let (sender, receiver) = oneshot::channel();
        (Self { incoming: Some(incoming), unread: Some(sender) }, Unread(Some(receiver)))
    }

    /// The body, of at most `limit` bytes.
    ///
    /// # Errors
    /// 413 over the limit, 408 if it comes too slowly, 400 if it breaks off.
    pub async fn read(mut self, limit: usize) -> Result<Vec<u8>, Refusal> {
        let Some(body) = &mut self.incoming else { return Ok(Vec::new()) };
        let too_long = || Refusal::new(413, code::LIMIT, format!("the body is longer than {limit} bytes"));
        let hint = body.size_hint().lower();
        if hint > limit as u64 {
            return Err(too_long());
        }
        let mut whole = Vec::with_capacity(usize::try_from(hint).unwrap_or(0));
        let reading = async {
            while let Some(frame) = body.frame().await {
                let frame =
                    frame.map_err(|_| Refusal::new(400, code::INVALID_REQUEST, "the body broke off"))?;
                if let Ok(data) = frame.into_data() {
                    if whole.len() + data.len() > limit {
                        return Err(too_long());
                    }
                    whole.extend_from_slice(&data);
                }
            }
            Ok(whole)
        };
        let slow = |_| Refusal::new(408, code::LIMIT, "the body came too slowly");
        tokio::time::timeout(BODY_WAIT, reading).await.map_err(slow)?
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let (Some(body), Some(unread)) = (self.incoming.take(), self.unread.take())
            && !body.is_end_stream()
        {
            let _ = unread.send(body);
        }
    }
}

/// What nobody wanted to read of a body.
///
/// A connection whose request is not read to its end can only be closed. Closing it while the peer still sends resets it,
/// and with that the answer may be lost (RFC 9112 §9.6), or the next request, since the answer did not say that it is the
/// last.
pub struct Unread(Option<oneshot::Receiver<Incoming>>);

impl Unread {
    /// Reads what is left, within bounds; `false` if there is more, and the connection must end with this answer.
    /// Whoever asked first (`Expect: 100-continue`) has sent nothing yet, and is not asked for it now.
    pub async fn skip(self, asked_first: bool) -> bool {
        let Some(mut body) = self.0.and_then(|mut left| left.try_recv().ok()) else { return true };
        if asked_first || body.size_hint().lower() > REQUEST_BYTES as u64 {
            return false;
        }
        let skipping = async {
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.ok()?.data_ref().map_or(0, bytes::Bytes::len);
                if bytes > REQUEST_BYTES {
                    return None;
                }
            }
            Some(())
        };
        matches!(tokio::time::timeout(UNREAD_WAIT, skipping).await, Ok(Some(())))
    }
}
