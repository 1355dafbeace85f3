use super::*;
use crate::event::{Alteration, Decision, Details, Finding, Kind, Moment, Outcome, Owasp, Reason};
use std::sync::Arc;

use bartizan_model::SeededEntropy;
use serde_json::{Value, json};

fn source() -> Source {
    Source { host: "gate-1".to_owned(), log: "bartizan-0/gate".to_owned() }
}

fn entry(kind: Kind) -> Entry {
    Entry {
        seq: 41,
        base: 40,
        id: EventId::random(&SeededEntropy::new(1)),
        time: Moment::from_unix_millis(1_760_000_000_042),
        kind,
        person: None,
        client: Some("ide".into()),
        address: None,
        stranger_address: None,
        details: Box::default(),
    }
}

fn record(entry: Entry) -> Record {
    let identity = Identity { issuer: "https://id.example".to_owned(), subject: "alice".to_owned() };
    let address = Some("192.0.2.7".to_owned());
    Record {
        line: serde_json::to_string(&entry).unwrap(),
        entry,
        identity: Some(identity),
        address,
        content: Content::default(),
    }
}

pub fn denied() -> Record {
    let mut entry = entry(Kind::Authorized);
    *entry.details = Details {
        server: Some("files".parse().unwrap()),
        method: Some("tools/call".into()),
        tool: Some("read_file".into()),
        decision: Some(Decision::Deny),
        reason: Some(Reason::try_from("policy.denied").unwrap()),
        owasp: vec![Owasp::Mcp02],
        policies: vec!["contractors".into()],
        duration_us: Some(1234),
        trace: Some("0af7651916cd43dd8448eb211c80319c".into()),
        ..Details::default()
    };
    record(entry)
}

/// Attack PH-23: what each format's own syntax could be broken with.
fn hostile() -> Record {
    let attack = "a|b=c\\d\"e\"]f}{\r\nCEF:0|x|\u{1b}[2J${jndi:x} </event>";
    let mut entry = entry(Kind::ServerStderr);
    entry.client = Some(attack.into());
    *entry.details =
        Details { tool: Some(attack.into()), message: Some(attack.into()), ..Details::default() };
    let mut record = record(entry);
    record.identity = Some(Identity { issuer: attack.to_owned(), subject: attack.to_owned() });
    record
}

fn syslog(body: syslog::Body) -> syslog::Syslog {
    syslog::Syslog { source: source(), body, enterprise: 32473, process: 7 }
}

#[test]
fn a_denied_call_in_cef() {
    let id = denied().entry.id;
    assert_eq!(
        cef::line(&denied(), &source()),
        format!(
            "CEF:0|Bartizan|Bartizan|{VERSION}|authorization.decided|authorization.decided: tools/call read_file at files (policy.denied)|6|\
             rt=1760000000042 act=deny outcome=failure src=192.0.2.7 dvchost=gate-1 dhost=files suser=alice suid=https://id.example:alice \
             requestMethod=tools/call reason=policy.denied externalId={id} cat=authorization \
             cs1Label=tool cs1=read_file cs2Label=server cs2=files cs3Label=client_id cs3=ide cs4Label=policy cs4=contractors \
             cs5Label=trace cs5=0af7651916cd43dd8448eb211c80319c cs6Label=owasp cs6=MCP02 cn1Label=latency_ms cn1=1"
        )
    );
}

/// A reader of CEF as the guide writes it: fields of the header end at an unescaped `|`, values of the extension before
/// an unescaped `key=`.
#[test]
fn nothing_hostile_leaves_its_cef_field() {
    let line = cef::line(&hostile(), &source());
    assert!(!line.contains(['\r', '\n', '\u{1b}']) && !line.contains("${"));
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if fields.len() < 8 => fields.last_mut().unwrap().push(chars.next().unwrap()),
            '|' if fields.len() < 8 => fields.push(String::new()),
            c => fields.last_mut().unwrap().push(c),
        }
    }
    assert_eq!(fields.len(), 8);
    assert_eq!(fields[4], "server.stderr");
    let unescaped = fields[7].as_bytes().windows(2).filter(|w| w[1] == b'=' && w[0] != b'\\').count();
    let keys = fields[7].split(' ').filter(|word| {
        word.split_once('=')
            .is_some_and(|(key, _)| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric()))
    });
    assert_eq!(keys.count(), unescaped, "{}", fields[7]);
}

#[test]
fn a_denied_call_in_syslog() {
    let message = syslog::message(&denied(), &syslog(syslog::Body::Json));
    let id = denied().entry.id;
    let head = format!(
        "<108>1 2025-10-09T08:53:20.042Z gate-1 bartizan 7 authorization.decided [mcp@32473 id=\"{id}\" seq=\"41\" \
         log=\"bartizan-0/gate\" person=\"alice\" src=\"192.0.2.7\" client=\"ide\" server=\"files\" method=\"tools/call\" tool=\"read_file\" \
         decision=\"deny\" reason=\"policy.denied\"] \u{feff}"
    );
    let body = message.strip_prefix(&head).unwrap_or_else(|| panic!("{message}"));
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["identity"]["subject"], "alice");
    let frame = String::from_utf8(syslog::frame(&message)).unwrap();
    let (length, rest) = frame.split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), rest.len(), "octets, not characters");
}

#[test]
fn nothing_hostile_leaves_its_syslog_parameter() {
    for body in [syslog::Body::Json, syslog::Body::Cef, syslog::Body::Ocsf] {
        let message = syslog::message(&hostile(), &syslog(body));
        let (_, data) = message.split_once("[mcp@32473").unwrap();
        // Parameters as RFC 5424 §6.3.3 has them.
        let (mut quoted, mut escaped, mut end) = (false, false, None);
        for (at, c) in data.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ']' if !quoted => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        assert!(data.split_at(end.unwrap()).1.starts_with("] \u{feff}"), "{message}");
        assert!(!message.contains(['\r', '\n', '\u{1b}']), "{message}");
    }
    let mut odd = syslog(syslog::Body::Cef);
    odd.source.host = "gate 1\nx".to_owned();
    assert!(syslog::message(&denied(), &odd).contains(" gate_1_x bartizan "));
}

/// What the schema requires of each class (ocsf-schema 1.8.0, attacks.md §2.6), for every kind of event.
#[test]
fn every_kind_is_an_ocsf_event_of_its_class() {
    for kind in Kind::ALL {
        let event = ocsf::event(&record(entry(*kind)), &source());
        for base in [
            "/time",
            "/severity_id",
            "/metadata/version",
            "/metadata/product/name",
            "/metadata/product/vendor_name",
            "/metadata/uid",
            "/class_uid",
            "/category_uid",
            "/type_uid",
            "/activity_id",
        ] {
            assert!(event.pointer(base).is_some_and(|v| !v.is_null()), "{kind} lacks {base}");
        }
        let class = event["class_uid"].as_u64().unwrap();
        assert_eq!(event["type_uid"].as_u64().unwrap(), class * 100 + event["activity_id"].as_u64().unwrap());
        assert_eq!(event["category_uid"].as_u64().unwrap(), class / 1000);
        let required: &[&str] = match class {
            6003 => &["/actor/user/name", "/api/operation", "/api/service/name", "/src_endpoint/name"],
            3002 => &["/user/name", "/service/name"],
            3003 => &["/user/name", "/privileges/0"],
            3004 => &["/entity/name"],
            2004 => &["/finding_info/uid", "/finding_info/title"],
            1007 => &["/process/pid", "/actor/user/name", "/device/type_id"],
            0 => &["/activity_name"],
            other => panic!("class {other}"),
        };
        for path in required {
            assert!(event.pointer(path).is_some(), "{kind} (class {class}) lacks {path}");
        }
        assert!(event["raw_data"].as_str().unwrap().starts_with("{\"seq\":41"));
        assert!(!event.to_string().contains("null"), "what is not known is left out: {event}");
    }
    let mut nobody = denied();
    nobody.identity = None;
    assert!(!ocsf::event(&nobody, &source()).to_string().contains("null"));
    let event = ocsf::event(&denied(), &source());
    assert_eq!(
        (&event["class_uid"], &event["status_id"], &event["action_id"]),
        (&6003.into(), &2.into(), &2.into())
    );
    assert_eq!(event["unmapped"]["owasp"][0], "MCP02");
}

fn post(shipment: Shipment) -> (String, Vec<(&'static str, String)>, Authorization, Vec<u8>) {
    match shipment {
        Shipment::Post { url, headers, authorization, body } => (url, headers, authorization, body),
        Shipment::Stream(_) => panic!("not a post"),
    }
}

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, retry_after: None, body: body.as_bytes().to_vec() }
}

#[test]
fn splunk_gets_envelopes_one_behind_the_other_and_is_judged_by_its_code() {
    let splunk = splunk::Splunk {
        url: "https://splunk.example:8088/".to_owned(),
        token: Secret::new("t0ken".to_owned()),
        index: Some("sec".to_owned()),
        source: source(),
    };
    let events = [splunk.encode(&denied()).unwrap(), splunk.encode(&hostile()).unwrap()];
    let (url, _, authorization, body) =
        post(splunk.pack(&events, denied().entry.id, Timestamp::from_unix(0)));
    assert_eq!(url, "https://splunk.example:8088/services/collector/event");
    assert!(matches!(authorization, Authorization::Secret { scheme: "Splunk", .. }));
    assert!(!String::from_utf8_lossy(&body).contains("t0ken"));
    let envelopes: Vec<Value> =
        serde_json::Deserializer::from_slice(&body).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(envelopes.len(), 2);
    assert_eq!((&envelopes[0]["time"], &envelopes[0]["index"]), (&json!(1_760_000_000.042), &"sec".into()));
    assert_eq!(envelopes[0]["event"]["identity"]["subject"], "alice");

    let judged = |status, body: &str| splunk.judge(&answer(status, body));
    assert_eq!(judged(200, r#"{"text":"Success","code":0}"#), Verdict::Delivered);
    assert_eq!(judged(200, r#"{"text":"Server is busy","code":9}"#), Verdict::Retry { after: None });
    assert_eq!(
        judged(200, "<html>welcome</html>"),
        Verdict::Retry { after: None },
        "200 alone is not HEC's word"
    );
    assert_eq!(judged(500, r#"{"text":"Internal","code":8}"#), Verdict::Retry { after: None });
    assert_eq!(judged(429, ""), Verdict::Retry { after: None });
    assert!(matches!(judged(400, r#"{"text":"Invalid data format","code":6}"#), Verdict::Split(_)));
    for code in [1, 2, 3, 4, 7, 10, 11] {
        assert!(matches!(judged(403, &format!(r#"{{"code":{code}}}"#)), Verdict::Misconfigured(_)), "{code}");
    }
}

#[test]
fn sentinel_gets_an_array_of_rows_with_columns_it_allows() {
    let sentinel = sentinel::Sentinel {
        endpoint: "https://x.ingest.monitor.azure.com".to_owned(),
        rule: "dcr-1".to_owned(),
        stream: "Custom-Bartizan_CL".to_owned(),
        scope: "https://monitor.azure.com/.default".to_owned(),
        source: source(),
    };
    let events = [sentinel.encode(&denied()).unwrap(), sentinel.encode(&hostile()).unwrap()];
    let (url, headers, authorization, body) =
        post(sentinel.pack(&events, denied().entry.id, Timestamp::from_unix(0)));
    assert_eq!(
        url,
        "https://x.ingest.monitor.azure.com/dataCollectionRules/dcr-1/streams/Custom-Bartizan_CL?api-version=2023-01-01"
    );
    assert!(headers.contains(&("x-ms-client-request-id", denied().entry.id.to_string())));
    assert!(matches!(authorization, Authorization::AccessToken { .. }));
    let rows: Vec<Value> = serde_json::from_slice(&body).unwrap();
    assert_eq!((&rows[0]["Decision"], &rows[0]["Person"]), (&"deny".into(), &"alice".into()));
    let reserved = ["_ResourceId", "id", "_SubscriptionId", "TenantId", "Type", "UniqueId", "Title"];
    for column in rows.iter().flat_map(|row| row.as_object().unwrap().keys()) {
        assert!(
            column.len() <= 45 && column.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
            "{column}"
        );
        assert!(!reserved.contains(&column.as_str()), "{column}");
    }
    assert_eq!(sentinel.judge(&answer(204, "")), Verdict::Delivered);
    let busy = Answer { retry_after: Some(Duration::from_secs(7)), ..answer(429, "") };
    assert_eq!(sentinel.judge(&busy), Verdict::Retry { after: Some(Duration::from_secs(7)) });
    assert!(matches!(sentinel.judge(&answer(413, "")), Verdict::Split(_)));
    for status in [401, 403, 404] {
        assert!(matches!(sentinel.judge(&answer(status, "")), Verdict::Misconfigured(_)));
    }
}

pub fn otlp(encoding: otlp::Encoding) -> otlp::Otlp {
    otlp::Otlp { url: "http://127.0.0.1:4318/v1/logs".to_owned(), token: None, encoding, source: source() }
}

#[test]
fn otlp_gets_log_records_in_json() {
    let otlp = otlp(otlp::Encoding::Json);
    let events = [otlp.encode(&denied()).unwrap(), otlp.encode(&hostile()).unwrap()];
    let (_, _, _, body) = post(otlp.pack(&events, denied().entry.id, Timestamp::from_unix(0)));
    let body: Value = serde_json::from_slice(&body).unwrap();
    let records = body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["timeUnixNano"], "1760000000042000000", "64-bit numbers are strings");
    assert_eq!(records[0]["severityNumber"], 13);
    assert_eq!(records[0]["traceId"], "0af7651916cd43dd8448eb211c80319c");
    let attributes = records[0]["attributes"].as_array().unwrap();
    assert!(
        attributes.iter().any(|a| a["key"] == "gen_ai.tool.name" && a["value"]["stringValue"] == "read_file")
    );
    assert_eq!(otlp.judge(&answer(200, "{}")), Verdict::Delivered);
    for partial in
        [r#"{"partialSuccess":{"rejectedLogRecords":"1"}}"#, r#"{"partialSuccess":{"rejectedLogRecords":1}}"#]
    {
        assert!(matches!(otlp.judge(&answer(200, partial)), Verdict::Reject(_)));
    }
    assert!(matches!(otlp.judge(&answer(503, "")), Verdict::Retry { .. }));
    assert!(matches!(otlp.judge(&answer(500, "")), Verdict::Misconfigured(_)), "500 is not to be retried");
}

#[test]
fn an_otlp_receiver_that_takes_only_a_part_is_believed() {
    let otlp = otlp(otlp::Encoding::Protobuf);
    let shipment = otlp.pack(&[otlp.encode(&denied()).unwrap()], denied().entry.id, Timestamp::from_unix(0));
    assert_eq!(post(shipment).1, [("content-type", "application/x-protobuf".to_owned())]);
    // ExportLogsServiceResponse { partial_success { rejected_log_records: 300, error_message: "x" } }
    let partial = Answer { status: 200, retry_after: None, body: hex::decode("0a0608ac02120178").unwrap() };
    assert_eq!(otlp.judge(&partial), Verdict::Reject("OTLP partial success: 300 rejected".to_owned()));
    assert_eq!(otlp.judge(&answer(200, "")), Verdict::Delivered);
}

/// The vector of the Standard Webhooks specification.
#[test]
fn webhooks_are_signed_as_the_standard_says() {
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
    let signature =
        webhook::sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    let webhook = webhook::Webhook { url: "https://hook.example".to_owned(), secret, source: source() };
    let (_, headers, _, body) =
        post(webhook.pack(&[webhook.encode(&denied()).unwrap()], denied().entry.id, Timestamp::from_unix(9)));
    let header = |name| headers.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    assert_eq!(
        header("webhook-signature"),
        webhook::sign(&webhook.secret, &header("webhook-id"), "9", &body)
    );
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["entries"][0]["seq"], 41);
}

#[test]
fn a_receiver_gets_the_kinds_it_wants_and_no_others() {
    let file = Arc::new(ocsf::OcsfLines { source: source() });
    let some = Only { kinds: [Kind::Authorized].into(), format: file.clone() };
    assert!(some.encode(&denied()).unwrap().ends_with(b"\n"));
    assert!(some.encode(&hostile()).is_none());
    let all = Only { kinds: Default::default(), format: file };
    assert!(all.encode(&hostile()).is_some());
}

#[test]
fn somebody_erased_goes_by_his_pseudonym_and_what_failed_is_said_to() {
    let mut erased = denied();
    erased.identity = None;
    erased.entry.person = Some(crate::event::Pseudonym::from_bytes([7; 16]));
    assert_eq!(erased.person().unwrap(), format!("person:{}", "07".repeat(16)));
    assert!(!erased.succeeded());
    let mut closed = record(entry(Kind::CallClosed));
    assert!(closed.succeeded());
    closed.entry.details.outcome = Some(Outcome::Withheld);
    closed.entry.details.findings = vec![Finding {
        rule: "x".into(),
        severity: Severity::Critical,
        place: "result".into(),
        action: "block".into(),
    }];
    closed.entry.details.alterations =
        vec![Alteration { what: "redacted".into(), place: "result".into(), count: 2 }];
    assert!(!closed.succeeded());
    assert!(cef::line(&closed, &source()).contains("|10|rt="));
    assert!(cef::line(&closed, &source()).contains(" act=redact "));
}
