//! OCSF 1.8.0 events (schema.ocsf.io; attacks.md §2.6).

use serde_json::{Map, Value, json};

use super::{
    Answer, Authorization, Format, Record, Shipment, Source, VERSION, Verdict, judge_status, scaled,
};
use crate::event::{Decision, EventId, Kind};
use bartizan_model::{Secret, Timestamp};

/// The schema version the events claim.
const SCHEMA: &str = "1.8.0";

/// A class and an activity in it.
struct Class {
    class: u32,
    category: u32,
    activity: u32,
}

/// One entry as an OCSF event.
pub fn event(record: &Record, source: &Source) -> Value {
    let entry = &record.entry;
    let class = class_of(record);
    let severity = scaled(entry.severity(), [1, 2, 3, 4, 5]);
    let mut out = json!({
        "category_uid": class.category,
        "class_uid": class.class,
        "activity_id": class.activity,
        "type_uid": class.class * 100 + class.activity,
        "time": entry.time.as_unix_millis(),
        "severity_id": severity,
        "status_id": if record.succeeded() { 1 } else { 2 },
        "message": record.title(),
        "metadata": {
            "version": SCHEMA,
            "product": { "name": "Bartizan", "vendor_name": "Bartizan", "version": VERSION },
            "uid": entry.id,
            "log_name": source.log,
            "sequence": entry.seq,
            "event_code": entry.kind,
        },
        "raw_data": record.line,
    });
    let details = &entry.details;
    set(
        &mut out,
        "/metadata/correlation_uid",
        details.call.map(|call| json!(call)).or_else(|| details.trace.as_ref().map(|t| json!(t))),
    );
    set(&mut out, "/status_code", details.code.map(|code| json!(code.to_string())));
    set(&mut out, "/status_detail", details.reason.as_ref().map(|reason| json!(reason)));
    set(&mut out, "/duration", details.duration_us.map(|us| json!(us / 1000)));
    set(&mut out, "/activity_name", (class.activity == 99).then(|| json!(entry.kind)));
    if let Some(decision) = details.decision {
        // Profile security_control: what was done about it.
        let (action, disposition) = match decision {
            Decision::Permit => (1, 1),
            Decision::Deny => (2, 2),
            Decision::Hold => (2, 3),
        };
        set(&mut out, "/metadata/profiles", Some(json!(["security_control"])));
        set(&mut out, "/action_id", Some(json!(action)));
        set(&mut out, "/disposition_id", Some(json!(disposition)));
    }
    particulars(&mut out, class.class, record, source);
    let unmapped = json!({ "owasp": details.owasp, "policies": details.policies, "labels": details.labels });
    set(&mut out, "/unmapped", Some(unmapped));
    if !details.scopes.is_empty() {
        set(&mut out, "/unmapped/scopes", Some(json!(details.scopes)));
    }
    if !record.content.is_empty() {
        set(&mut out, "/unmapped/content", Some(json!(record.content)));
    }
    set(&mut out, "/unmapped/grant", details.grant.as_ref().map(|grant| json!(grant)));
    set(&mut out, "/unmapped/redirect_uri", details.redirect_uri.as_ref().map(|uri| json!(uri)));
    out
}

/// What the class requires beside the base event.
fn particulars(out: &mut Value, class: u32, record: &Record, source: &Source) {
    let details = &record.entry.details;
    let user = user(record);
    let server = details.server.as_ref().map_or("bartizan", |server| server.as_str());
    let resource = details.tool.as_ref().or(details.resource.as_ref());
    let resources = resource.map(|name| json!([{ "name": name, "type": "mcp" }]));
    match class {
        6003 => {
            let operation =
                details.method.as_ref().map_or(record.entry.kind.as_str(), |method| method.as_str());
            set(out, "/actor", Some(json!({ "user": user })));
            set(out, "/api", Some(json!({ "operation": operation, "service": { "name": server } })));
            set(
                out,
                "/src_endpoint",
                Some(json!({ "name": record.entry.client.as_ref().map_or("unknown", |c| c.as_str()) })),
            );
            set(out, "/src_endpoint/ip", record.address.as_ref().map(|address| json!(address)));
            set(out, "/dst_endpoint", Some(json!({ "name": server })));
            set(out, "/resources", resources);
        }
        3002 => {
            let source = record.address.as_ref().map(|address| json!({ "ip": address }));
            set(out, "/src_endpoint", source);
            set(out, "/user", Some(user));
            set(out, "/actor", record.entry.client.as_ref().map(|client| json!({ "app_uid": client })));
            set(out, "/service", Some(json!({ "name": server })));
            set(out, "/auth_protocol_id", Some(json!(6)));
        }
        3003 => {
            let privileges = match details.scopes.as_slice() {
                [] => json!([resource.map_or(server, |name| name.as_str())]),
                scopes => json!(scopes),
            };
            set(out, "/user", Some(user));
            set(out, "/actor", record.entry.client.as_ref().map(|client| json!({ "app_uid": client })));
            set(out, "/privileges", Some(privileges));
        }
        3004 => {
            let change = details.change.as_ref();
            let name = change.map_or(record.entry.kind.as_str(), |change| change.name.as_str());
            let kind = change.map_or("configuration", |change| change.entity.as_str());
            set(out, "/entity", Some(json!({ "name": name, "type": kind })));
            set(out, "/entity/version", change.and_then(|c| c.to.as_ref()).map(|to| json!(to)));
            set(out, "/actor", Some(json!({ "user": user })));
        }
        2004 => {
            let title = record.title();
            set(out, "/finding_info", Some(json!({ "uid": record.entry.id, "title": title })));
            set(out, "/is_alert", Some(json!(true)));
            set(out, "/confidence_id", Some(json!(0)));
            set(out, "/evidences", Some(json!([{ "data": { "findings": details.findings } }])));
            set(out, "/resources", resources);
            set(out, "/actor", Some(json!({ "user": user })));
        }
        1007 => {
            set(out, "/process", Some(json!({ "pid": details.pid.unwrap_or(0), "name": server })));
            set(out, "/actor", Some(json!({ "user": user })));
            set(out, "/device", Some(json!({ "hostname": source.host, "type_id": 0 })));
        }
        _ => {}
    }
}

fn user(record: &Record) -> Value {
    let mut user = json!({ "name": record.person().unwrap_or_else(|| "unknown".to_owned()), "type_id": 0 });
    set(&mut user, "/uid", record.person_id().map(|id| json!(id)));
    user
}

fn class_of(record: &Record) -> Class {
    use Kind as K;
    let in_class = |class, activity| Class { class, category: class / 1000, activity };
    match record.entry.kind {
        K::SignInSucceeded | K::SignInFailed => in_class(3002, 1),
        K::SignedOut | K::TokenRevoked => in_class(3002, 2),
        K::TokenIssued | K::TokenRefused => in_class(3002, 3),
        K::TokenRefreshed => in_class(3002, 5),
        K::ConsentWithdrawn | K::AccountUnlinked => in_class(3003, 2),
        K::ConsentAsked
        | K::ConsentGranted
        | K::ConsentDenied
        | K::AccountLinked
        | K::AccountRefused
        | K::ApprovalRequested
        | K::ApprovalGranted
        | K::ApprovalRejected
        | K::AdminActed => in_class(3003, 1),
        K::CallOpened
        | K::CallEvent
        | K::CallClosed
        | K::QuestionAsked
        | K::QuestionAnswered
        | K::Authorized
        | K::RequestRefused => in_class(6003, activity_of(record)),
        K::TokenReplayed
        | K::ShieldFound
        | K::PinDrifted
        | K::AlertRaised
        | K::ComponentJudged
        | K::PolicyReviewed => in_class(2004, 1),
        K::ClientRefused => in_class(3004, 99),
        K::PinRecorded
        | K::PinRolledBack
        | K::ConfigChanged
        | K::PolicyChanged
        | K::SecretChanged
        | K::KeyRotated
        | K::ClientChanged
        | K::ClientFetched
        | K::Responded => in_class(3004, 3),
        K::PersonErased => in_class(3004, 4),
        K::ChildStarted => in_class(1007, 1),
        K::ChildStopped => in_class(1007, 2),
        // What OCSF has no class for is a base event.
        K::ServerStderr
        | K::ServerLog
        | K::ExportFailed
        | K::LogOpened
        | K::LogCheckpoint
        | K::LogRotated
        | K::LogLost
        | K::LogDropped
        | K::LogClosed => Class { class: 0, category: 0, activity: 99 },
    }
}

/// Lists and reads are reads; what a tool does, nobody knows.
fn activity_of(record: &Record) -> u32 {
    let method = record.entry.details.method.as_ref().map_or("", |method| method.as_str());
    if method.ends_with("/list") || method.ends_with("/read") || method.ends_with("/get") { 2 } else { 99 }
}

/// Sets the value at a path whose parent is there; nothing if there is no value.
fn set(out: &mut Value, path: &str, value: Option<Value>) {
    let (Some(value), Some((parent, name))) = (value, path.rsplit_once('/')) else { return };
    if let Some(parent) = out.pointer_mut(parent).and_then(Value::as_object_mut) {
        let parent: &mut Map<String, Value> = parent;
        parent.insert(name.to_owned(), value);
    }
}

/// OCSF events as lines of JSON to an HTTP collector.
pub struct OcsfHttp {
    /// Where to.
    pub url: String,
    /// The bearer token, if the collector wants one.
    pub token: Option<Secret>,
    /// Where the events are from.
    pub source: Source,
}

impl Format for OcsfHttp {
    fn max_events(&self) -> usize {
        500
    }

    fn max_bytes(&self) -> usize {
        1 << 20
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        let mut line = serde_json::to_vec(&event(record, &self.source)).ok()?;
        line.push(b'\n');
        Some(line)
    }

    fn pack(&self, events: &[Vec<u8>], _first: EventId, _now: Timestamp) -> Shipment {
        let authorization = match &self.token {
            Some(secret) => Authorization::Secret { scheme: "Bearer", secret: secret.clone() },
            None => Authorization::None,
        };
        Shipment::Post {
            url: self.url.clone(),
            headers: vec![("content-type", "application/x-ndjson".to_owned())],
            authorization,
            body: events.concat(),
        }
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        judge_status(answer)
    }
}

/// OCSF events as lines of JSON for a stream, such as a file that a collector reads.
pub struct OcsfLines {
    /// Where the events are from.
    pub source: Source,
}

impl Format for OcsfLines {
    fn max_events(&self) -> usize {
        500
    }

    fn max_bytes(&self) -> usize {
        4 << 20
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        let mut line = serde_json::to_vec(&event(record, &self.source)).ok()?;
        line.push(b'\n');
        Some(line)
    }

    fn pack(&self, events: &[Vec<u8>], _first: EventId, _now: Timestamp) -> Shipment {
        Shipment::Stream(events.concat())
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        judge_status(answer)
    }
}
