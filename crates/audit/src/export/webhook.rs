//! A webhook that proves where it comes from: Standard Webhooks, HMAC-SHA-256.

use aws_lc_rs::hmac;
use bartizan_model::{Secret, Timestamp};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Answer, Authorization, Format, Record, Shipment, Source, Verdict, judge_status};
use crate::event::EventId;

/// A receiver of webhooks.
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// The shared secret.
    pub secret: Secret,
    /// Where the events are from.
    pub source: Source,
}

impl Format for Webhook {
    fn max_events(&self) -> usize {
        100
    }

    fn max_bytes(&self) -> usize {
        256 << 10
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        serde_json::to_vec(&record.json()).ok()
    }

    fn pack(&self, events: &[Vec<u8>], first: EventId, now: Timestamp) -> Shipment {
        let source: Value = json!({ "host": self.source.host, "log": self.source.log });
        let mut body = format!(r#"{{"type":"audit.entries","source":{source},"entries":["#).into_bytes();
        body.extend(events.join(&b','));
        body.extend_from_slice(b"]}");
        let (id, timestamp) = (format!("msg_{first}"), now.as_unix().to_string());
        let signature = sign(&self.secret, &id, &timestamp, &body);
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("webhook-id", id),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signature),
        ];
        Shipment::Post { url: self.url.clone(), headers, authorization: Authorization::None, body }
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        judge_status(answer)
    }
}

/// `v1,` and the Base64 of HMAC-SHA-256 over `id.timestamp.body` (Standard Webhooks, "Signature scheme"). A secret that
/// begins with `whsec_` is Base64 behind it; any other is taken as its bytes.
pub fn sign(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> String {
    let decoded = secret.reveal().strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let key = Zeroizing::new(decoded.unwrap_or_else(|| secret.reveal().as_bytes().to_vec()));
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.sign()))
}
