//! Requests of the modern era: each carries everything (26/base, 26/http).

use std::sync::Arc;

use bartizan_audit::EventId;
use bartizan_mcp::{Era, Kind, Message, Refusal, code, era, json::Value};
use http::HeaderMap;
use tracing::Instrument;

use crate::{
    Asker, Gate, Target, badge,
    call::{Call, Line, asked_to_visit, own_question_of_task},
    flow::{Flow, Replies, Reply},
    handles::Task,
    limits::CONTROL_WAIT,
    merged,
    server::{ModernLink, NotModern, Server, final_message, is_header_mismatch, modern_headers},
    stages,
    upstream::{
        Answer, Failure,
        http::{Posted, Wire},
    },
};

/// Answers one modern message; `headers` is absent on stdio.
///
/// # Errors
/// The refusal, before anything was sent.
pub async fn exchange(
    gate: &Arc<Gate>,
    asker: &Asker,
    target: &Target,
    message: &Message,
    headers: Option<&HeaderMap>,
) -> Result<Reply, Refusal> {
    match message.kind() {
        Kind::Request => {}
        // A cancellation over HTTP is the closing of a stream; a posted one means nothing (C-16, A-10).
        Kind::Notification if era::is_client_notification(Era::Modern, &message.method()) => {
            return Ok(Reply::Accepted);
        }
        Kind::Notification => {
            return Err(Refusal::new(
                400,
                code::INVALID_REQUEST,
                "this notification is not part of this revision",
            ));
        }
        Kind::Response => {
            return Err(Refusal::new(
                400,
                code::INVALID_REQUEST,
                "clients do not send responses in this revision",
            ));
        }
    }
    let servers = gate.servers(target)?;
    era::check_modern(message, headers, |method| servers.iter().any(|s| s.allows(method)))?;
    check_extension(message)?;
    let answered = match (target, servers.as_slice()) {
        (Target::Server(_), [server]) => {
            let opened = open(gate, asker, server, false, message, headers).await;
            opened.map(|flow| Reply::Replies(Replies::One(Box::new(flow))))
        }
        _ => merged::modern(gate, asker, &servers, message, headers).await,
    };
    answered.or_else(|refusal| match asked_to_visit(message, &refusal) {
        Some(text) => Ok(Reply::Message { status: 200, text }),
        None => Err(refusal.as_answer(&message.method())),
    })
}

/// What needs the tasks extension says so before anybody looks at its ids (spec.md A-114).
fn check_extension(message: &Message) -> Result<(), Refusal> {
    let listens_to_tasks = message.param("notifications").is_some_and(|n| n.get("taskIds").is_some());
    if !message.method().starts_with("tasks/") && !listens_to_tasks {
        return Ok(());
    }
    let declared = message
        .meta(era::META_CAPABILITIES)
        .and_then(|c| c.get("extensions"))
        .and_then(|e| e.get(era::TASKS));
    if declared.is_some_and(|d| !d.is_null()) {
        return Ok(());
    }
    let data = format!(r#"{{"requiredCapabilities":{{"extensions":{{"{}":{{}}}}}}}}"#, era::TASKS);
    Err(Refusal::new(400, code::MISSING_CAPABILITY, "declare the tasks extension on this request")
        .with_data(data))
}

/// Sends one modern request to `server`.
///
/// # Errors
/// The refusal, if it cannot or must not be sent.
pub async fn open(
    gate: &Arc<Gate>,
    asker: &Asker,
    server: &Arc<Server>,
    is_merged: bool,
    message: &Message,
    headers: Option<&HeaderMap>,
) -> Result<Flow, Refusal> {
    let there = (server, server.home(Era::Modern));
    let opened = stages::enter(gate, asker, there, Era::Modern, is_merged, message).await?;
    let entry = opened.call().id();
    let putting = put(gate, asker, server, is_merged, message, headers, entry);
    match putting.instrument(tracing::debug_span!("upstream.send")).await {
        Ok((call, answer)) => Ok(Flow::new(gate, call, opened, answer, None)),
        Err(refusal) => Err(opened.unsent(gate, refusal).await),
    }
}

/// Puts a request that entered as `entry` to `server`.
///
/// # Errors
/// The refusal, if nothing was sent.
async fn put(
    gate: &Arc<Gate>,
    asker: &Asker,
    server: &Arc<Server>,
    is_merged: bool,
    message: &Message,
    headers: Option<&HeaderMap>,
    entry: EventId,
) -> Result<(Call, Answer), Refusal> {
    let capabilities = message.meta(era::META_CAPABILITIES).map(Value::text).unwrap_or("{}");
    let link = match server.modern(Some(asker), capabilities).await {
        Ok(link) => link,
        Err(NotModern::Legacy) => return Err(era::mismatch(server.name().as_str(), Era::Modern)),
        // An answer like any other: the client may be able to show where an account is linked.
        Err(NotModern::Failed(failure @ Failure::NeedsLinking(_)))
            if era::may_need_input(&message.method()) =>
        {
            let call = Call::new(
                gate,
                Arc::clone(server),
                asker.clone(),
                Era::Modern,
                is_merged,
                Line::default(),
                message,
            );
            let answer = Answer::sending(std::future::ready(Err(failure)));
            return Ok((call, answer));
        }
        Err(NotModern::Failed(failure)) => {
            return Err(badge::refusal(&failure, server.name().as_str(), asker));
        }
    };
    let line = match &link {
        ModernLink::Wire(_) => Line { id: gate.mint(), process: None },
        ModernLink::Process(process) => Line { id: process.mint(), process: process.everybodys() },
    };
    let mut call = Call::new(gate, Arc::clone(server), asker.clone(), Era::Modern, is_merged, line, message);
    let text = call.outgoing(message)?;
    let name = upstream_name(&call, message, &text);
    let mirrors = match (&name, call.method.as_str()) {
        (Some(tool), "tools/call") => server.mirrors(tool, &link).await,
        _ => Arc::default(),
    };
    let arguments = message.param("arguments");
    if let Some(headers) = headers {
        for mirror in mirrors.iter() {
            mirror
                .check(arguments, headers)
                .map_err(|text| Refusal::new(400, code::HEADER_MISMATCH, text))?;
        }
    }
    if let Some(answer) = call.released().await {
        return Ok((call, answer));
    }
    if let ModernLink::Wire(wire) = &link
        && let Some(task) = call.uncertain_task()
    {
        let found = ask_for_task(wire.clone(), gate.mint(), task).await;
        call.is_certain(&found.map_err(|failure| badge::refusal(&failure, server.name().as_str(), asker))?)?;
    }
    let answer = match link {
        ModernLink::Process(process) => match process.request(line.id, text, Some(entry), true).await {
            Ok(pipe) => Answer::pipe(pipe),
            Err(failure) => return Err(failure.refusal(server.name().as_str())),
        },
        ModernLink::Wire(wire) => {
            let mut out = modern_headers(&call.method, name.as_deref());
            mirrors.iter().for_each(|m| m.write(arguments, &mut out));
            let tool = name.filter(|_| call.method == "tools/call");
            let arguments = arguments.map(|a| a.text().to_owned()).filter(|_| tool.is_some());
            Answer::sending(send(wire, Arc::clone(server), text, out, tool, arguments))
        }
    };
    Ok((call, answer))
}

/// What the server behind `wire` says of `task`.
async fn ask_for_task(wire: Wire, id: u64, task: &Task) -> Result<Message, Failure> {
    let headers = modern_headers("tasks/get", Some(&task.id));
    let sent = wire.post(own_question_of_task(id, &task.id), headers);
    let mut answer = Answer::sending(async { sent.await.map(|(posted, _)| posted) });
    let answered = tokio::time::timeout(CONTROL_WAIT, final_message(&mut answer)).await;
    answered.map_err(|_| Failure::Timeout(CONTROL_WAIT.as_secs()))?
}

/// The name that `Mcp-Name` mirrors, as the server knows it (C-02).
fn upstream_name(call: &Call, message: &Message, outgoing: &str) -> Option<String> {
    let param = era::name_param(&call.method)?;
    let as_sent = |m: &Message| m.param(param).and_then(Value::as_str).map(|n| n.into_owned());
    if call.is_merged || param == "taskId" {
        as_sent(&Message::from_spliced(outgoing.to_owned()).ok()?)
    } else {
        as_sent(message)
    }
}

/// Sends, and once more if the server refused the mirrored parameters and its tools turn out to have changed: it has
/// looked at nothing but headers then, so nothing happens twice (C-08).
async fn send(
    wire: Wire,
    server: Arc<Server>,
    text: String,
    headers: HeaderMap,
    tool: Option<String>,
    arguments: Option<String>,
) -> Result<Posted, Failure> {
    // The text is kept only for calls that may have to be sent again.
    let again = tool.as_ref().map(|_| (text.clone(), headers.clone()));
    let posted = match wire.clone().post(text, headers).await {
        Ok((posted, _)) => posted,
        Err(failure) => {
            if matches!(failure, Failure::Status(400..=499)) {
                server.doubt_era();
            }
            return Err(failure);
        }
    };
    let (Some(tool), Some((text, headers))) = (tool, again) else { return Ok(posted) };
    if !is_header_mismatch(&posted) {
        return Ok(posted);
    }
    server.tools().forget();
    let mirrors = server.mirrors(&tool, &ModernLink::Wire(wire.clone())).await;
    let mut fresh = modern_headers("tools/call", Some(&tool));
    let arguments = arguments.as_deref().map(Value::of);
    mirrors.iter().for_each(|m| m.write(arguments, &mut fresh));
    if fresh == headers {
        return Ok(posted);
    }
    wire.post(text, fresh).await.map(|(posted, _)| posted)
}
