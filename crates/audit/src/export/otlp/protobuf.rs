//! The few messages of opentelemetry-proto that logs and spans need, in protobuf's wire format. Numbers in comments are fields.

use super::{
    LogRecord, SCOPE,
    traces::{SERVER, Span},
};

/// Wire types (protobuf encoding, "Message Structure").
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// `ExportLogsServiceRequest` over log records that are encoded already.
pub fn request(resource: &[(&str, String)], version: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let mut scope = Vec::new();
    bytes(&mut scope, 1, SCOPE.as_bytes()); // InstrumentationScope.name
    bytes(&mut scope, 2, version.as_bytes()); // .version
    let mut scope_logs = Vec::new();
    bytes(&mut scope_logs, 1, &scope); // ScopeLogs.scope
    for record in records {
        bytes(&mut scope_logs, 2, record); // .log_records
    }
    let mut about = Vec::new();
    for (key, value) in resource {
        bytes(&mut about, 1, &key_value(key, value)); // Resource.attributes
    }
    let mut resource_logs = Vec::new();
    bytes(&mut resource_logs, 1, &about); // ResourceLogs.resource
    bytes(&mut resource_logs, 2, &scope_logs); // .scope_logs
    let mut out = Vec::new();
    bytes(&mut out, 1, &resource_logs); // ExportLogsServiceRequest.resource_logs
    out
}

/// `LogRecord`.
pub fn log_record(record: &LogRecord) -> Vec<u8> {
    let mut out = Vec::new();
    fixed64(&mut out, 1, record.nanos); // time_unix_nano
    tag(&mut out, 2, VARINT); // severity_number
    varint(&mut out, record.severity.into());
    bytes(&mut out, 3, record.severity_text.as_bytes()); // severity_text
    bytes(&mut out, 5, &string_value(&record.body)); // body
    for (key, value) in &record.attributes {
        bytes(&mut out, 6, &key_value(key, value)); // attributes
    }
    if let Some(trace) = &record.trace {
        bytes(&mut out, 9, trace); // trace_id
    }
    fixed64(&mut out, 11, record.nanos); // observed_time_unix_nano
    bytes(&mut out, 12, record.event_name.as_bytes()); // event_name
    out
}

/// `Span`.
pub fn span(span: &Span) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, &span.trace); // trace_id
    bytes(&mut out, 2, &span.id); // span_id
    bytes(&mut out, 5, span.name.as_bytes()); // name
    tag(&mut out, 6, VARINT); // kind
    varint(&mut out, SERVER.into());
    fixed64(&mut out, 7, span.start); // start_time_unix_nano
    fixed64(&mut out, 8, span.end); // end_time_unix_nano
    for (key, value) in &span.attributes {
        bytes(&mut out, 9, &key_value(key, value)); // attributes
    }
    if let Some((trace, id)) = &span.link {
        let mut link = Vec::new();
        bytes(&mut link, 1, trace); // Link.trace_id
        bytes(&mut link, 2, id); // .span_id
        bytes(&mut out, 13, &link); // links
    }
    if span.is_error {
        let mut status = Vec::new();
        tag(&mut status, 3, VARINT); // Status.code
        varint(&mut status, 2); // STATUS_CODE_ERROR
        bytes(&mut out, 15, &status); // status
    }
    out
}

/// `ExportLogsServiceResponse.partial_success(1).rejected_log_records(1)`; 0 if it is not there or not readable.
pub fn rejected(response: &[u8]) -> u64 {
    let partial = fields(response).find_map(|(number, field)| match field {
        Field::Bytes(bytes) if number == 1 => Some(bytes),
        _ => None,
    });
    let count = fields(partial.unwrap_or_default()).find_map(|(number, field)| match field {
        Field::Varint(count) if number == 1 => Some(count),
        _ => None,
    });
    count.unwrap_or(0)
}

/// `KeyValue` with a string.
fn key_value(key: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, key.as_bytes()); // key
    bytes(&mut out, 2, &string_value(value)); // value
    out
}

/// `AnyValue.string_value`.
fn string_value(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, value.as_bytes());
    out
}

fn tag(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    tag(out, field, BYTES);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn fixed64(out: &mut Vec<u8>, field: u64, number: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&number.to_le_bytes());
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    // Seven bits at a time, the top bit says that more follow.
    while let [low, ..] = number.to_le_bytes()
        && number >= 0x80
    {
        out.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    out.push(low);
}

enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, up to the first that cannot be read.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let key = read_varint(&mut message)?;
        let field = match key & 7 {
            VARINT => Field::Varint(read_varint(&mut message)?),
            BYTES => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                Field::Bytes(message.split_off(..length)?)
            }
            FIXED64 => message.split_off(..8).map(|_| Field::Other)?,
            FIXED32 => message.split_off(..4).map(|_| Field::Other)?,
            _ => return None,
        };
        Some((key >> 3, field))
    })
}

fn read_varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
