//! Servers that see one client where there are several people: what they list, tell and are told (25/tasks, 25/res; SEP-2663
//! §Security: task ids of other requestors).

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bartizan_trials::{Answer, Client, Gate, Issuer, Session, Upstream, eventually, prober};
use serde_json::{Value, json};

use crate::text;

/// A gate before people of `issuer`, who may do everything.
pub(super) fn for_people(issuer: &Issuer, servers: &str) -> Gate {
    Gate::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://gate.example\"\n\
         [identity]\nmode = \"resource-server\"\n{}[policy.roles.people]\ngroups = [\"people\"]\n\
         [[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{servers}",
        issuer.config(),
    ))
}

pub(super) fn person(gate: &Gate, issuer: &Issuer, name: &str) -> Client {
    gate.bearer(issuer.token(name, "https://gate.example/mcp/up", json!({})))
}

/// A legacy server that makes a task of every call, lists everybody's, and tells everybody of all of them.
fn tasks() -> Upstream {
    let made: Arc<Mutex<Vec<String>>> = Arc::default();
    Upstream::legacy(move |heard, pen| {
        let view = |id: &str| {
            format!(
                r#"{{"taskId":"{id}","status":"working","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttl":60000}}"#
            )
        };
        let json = heard.json();
        let result = match (heard.method(), heard.rpc().as_str()) {
            ("POST", "tools/call") => {
                let id = format!("task-of-{}", heard.tool());
                made.lock().unwrap().push(id.clone());
                format!(r#"{{"task":{}}}"#, view(&id))
            }
            ("POST", "tasks/list") => {
                let all: Vec<_> = made.lock().unwrap().iter().map(|id| view(id)).collect();
                format!(r#"{{"tasks":[{},{{"status":"working"}}]}}"#, all.join(","))
            }
            ("POST", "tasks/get" | "tasks/cancel") => view(text(&json, "/params/taskId")),
            ("GET", _) => {
                pen.stream();
                for id in made.lock().unwrap().iter() {
                    let status = view(id);
                    pen.event(
                        None,
                        &format!(
                            r#"{{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{status}}}"#
                        ),
                    );
                    pen.event(None, &format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"error","data":"about {id}","_meta":{{"io.modelcontextprotocol/related-task":{{"taskId":"{id}"}}}}}}}}"#));
                }
                pen.event(None, r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
                pen.wait_closed();
                return true;
            }
            _ => return false,
        };
        pen.result(&heard.id(), &result);
        true
    })
}

fn listed(session: &Session, id: &str) -> Vec<String> {
    let answer = session.request(id, "tasks/list", "").send();
    let json = answer.json();
    let tasks = json.pointer("/result/tasks").and_then(|t| t.as_array());
    let tasks = tasks.unwrap_or_else(|| panic!("{}", answer.text()));
    assert!(!answer.text().contains("task-of-"), "{}", answer.text());
    tasks.iter().map(|task| text(task, "/taskId").to_owned()).collect()
}

#[test]
fn sh_07_a_list_of_tasks_and_what_is_told_of_them_hold_ones_own() {
    let (issuer, up) = (Issuer::start(1), tasks());
    let mut gate = for_people(&issuer, &up.config("up", ""));
    let open = |gate: &Gate, name: &str| person(gate, &issuer, name).session("/mcp/up", "2025-11-25", "{}");
    let (ann, bob) = (open(&gate, "ann"), open(&gate, "bob"));
    let make = |session: &Session, tool: &str| {
        let made = session.call("1", tool, "{}").send();
        let json = made.json();
        let id = text(&json, "/result/task/taskId").to_owned();
        assert!(!id.is_empty() && !made.text().contains("task-of-"), "{}", made.text());
        id
    };
    let (hers, his) = (make(&ann, "hers"), make(&bob, "his"));
    assert_eq!(listed(&ann, "2"), [hers.as_str()]);
    assert_eq!(listed(&bob, "2"), [his.as_str()]);
    let get = |session: &Session, id: &str, task: &str| -> Answer {
        session.request(id, "tasks/get", &format!(r#""taskId":"{task}""#)).send()
    };
    assert!(get(&ann, "3", &hers).result().is_some());
    assert!(get(&bob, "3", &hers).result().is_none(), "her id is worth nothing to him");

    // Each hears of their own, and of what concerns everybody.
    for (session, own) in [(&ann, &hers), (&bob, &his)] {
        let mut stream = session.stream();
        let status = stream.message();
        assert_eq!(text(&status, "/method"), "notifications/tasks/status", "{status}");
        assert_eq!(text(&status, "/params/taskId"), own, "{status}");
        let log = stream.message();
        assert_eq!(text(&log, "/method"), "notifications/message", "{log}");
        let related = "/params/_meta/io.modelcontextprotocol~1related-task/taskId";
        assert_eq!(text(&log, related), own, "{log}");
        let last = stream.message();
        assert_eq!(text(&last, "/method"), "notifications/tools/list_changed", "{last}");
        stream.close();
    }

    // A gate that was started anew remembers no task; who has its id asks for it by that.
    gate.restart();
    let ann = open(&gate, "ann");
    assert_eq!(listed(&ann, "1"), [""; 0]);
    let again = get(&ann, "2", &hers);
    assert_eq!(text(&again.json(), "/result/taskId"), hers, "{}", again.text());
}

/// A modern server that makes a task of every call, and tells every listener of everybody's.
fn modern_tasks() -> Upstream {
    let made: Arc<Mutex<Vec<String>>> = Arc::default();
    Upstream::modern(move |heard, pen| {
        let now = "2026-01-01T00:00:00Z";
        let view = |id: &str| json!({ "taskId": id, "status": "working", "createdAt": now, "lastUpdatedAt": now, "ttlMs": 60000 });
        let asked = heard.json();
        match heard.rpc().as_str() {
            "tools/call" => {
                let id = format!("task-of-{}", heard.tool());
                let mut task = view(&id);
                task["resultType"] = json!("task");
                made.lock().unwrap().push(id);
                pen.result(&heard.id(), &task.to_string());
            }
            "subscriptions/listen" => {
                let say = |method: &str, mut params: Value| {
                    params["_meta"] = json!({ "io.modelcontextprotocol/subscriptionId": asked["id"] });
                    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
                };
                let all = made.lock().unwrap().clone();
                let acknowledged = "notifications/subscriptions/acknowledged";
                pen.stream();
                let honoured = json!({ "notifications": asked["params"]["notifications"] });
                pen.event(None, &say(acknowledged, honoured));
                pen.event(None, &say(acknowledged, json!({ "notifications": { "taskIds": all } })));
                pen.event(None, &say("notifications/tasks", json!({ "status": "working" })));
                for id in &all {
                    pen.event(None, &say("notifications/tasks", view(id)));
                }
                pen.event(None, &say("notifications/tools/list_changed", json!({})));
                pen.wait_closed();
            }
            _ => return false,
        }
        true
    })
}

/// Also: SH-10.
#[test]
fn sh_07_whoever_listens_to_tasks_is_told_of_those_they_named() {
    const TASKS: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let (issuer, up) = (Issuer::start(1), modern_tasks());
    let mut gate = for_people(&issuer, &up.config("up", ""));
    let ask = |gate: &Gate, name: &str, method: &str, params: &str| {
        person(gate, &issuer, name).modern_declaring("/mcp/up", method, params, TASKS)
    };
    let make = |name: &str, tool: &str| {
        let made = ask(&gate, name, "tools/call", &format!(r#""name":"{tool}","arguments":{{}}"#)).send();
        let id = text(&made.json(), "/result/taskId").to_owned();
        assert!(!id.is_empty() && !made.text().contains("task-of-"), "{}", made.text());
        id
    };
    let tasks = [("ann", make("ann", "hers")), ("bob", make("bob", "his"))];
    let tells = |gate: &Gate| {
        for (name, task) in &tasks {
            let wanted = format!(r#""notifications":{{"taskIds":["{task}"],"toolsListChanged":true}}"#);
            let mut stream = ask(gate, name, "subscriptions/listen", &wanted).open();
            let first = stream.message();
            assert_eq!(text(&first, "/method"), "notifications/subscriptions/acknowledged", "{first}");
            assert_eq!(first["params"]["notifications"]["taskIds"], json!([task]), "{first}");
            let status = stream.message();
            assert_eq!(text(&status, "/method"), "notifications/tasks", "{status}");
            assert_eq!(text(&status, "/params/taskId"), task, "{status}");
            let last = stream.message();
            assert_eq!(text(&last, "/method"), "notifications/tools/list_changed", "{last}");
            stream.close();
        }
    };
    tells(&gate);
    // A gate that was started anew remembers no task, but what is named is known by its id.
    gate.restart();
    tells(&gate);
}

/// A server that calls the task of a call as the call says, and answers about `of` whatever task it is asked about.
fn mistaken_tasks(is_modern: bool, of: &Arc<Mutex<String>>) -> Upstream {
    let of = Arc::clone(of);
    let script = move |heard: &bartizan_trials::Heard, pen: &mut bartizan_trials::Pen| {
        let json = heard.json();
        let view = |id: &str| {
            let now = "2026-01-01T00:00:00Z";
            let life = if is_modern { "ttlMs" } else { "ttl" };
            json!({ "taskId": id, "status": "working", "createdAt": now, "lastUpdatedAt": now, life: 60000 })
        };
        let result = match heard.rpc().as_str() {
            "tools/call" => {
                let mut task = view(text(&json, "/params/arguments/task"));
                if is_modern {
                    task["resultType"] = json!("task");
                    task
                } else {
                    json!({ "task": task })
                }
            }
            "tasks/get" | "tasks/update" | "tasks/cancel" => {
                let mut view = view(&of.lock().unwrap());
                if is_modern {
                    view["resultType"] = json!("complete");
                }
                view
            }
            // A tool's own result, whose members mean what it likes.
            "tasks/result" => json!({ "content": [], "taskId": "his" }),
            _ => return false,
        };
        pen.result(&heard.id(), &result.to_string());
        true
    };
    if is_modern { Upstream::modern(script) } else { Upstream::legacy(script) }
}

#[test]
fn sh_07_a_server_hands_nobody_the_task_of_another() {
    const TASKS: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    for is_modern in [true, false] {
        let of = Arc::<Mutex<String>>::default();
        let (issuer, up) = (Issuer::start(1), mistaken_tasks(is_modern, &of));
        let gate = for_people(&issuer, &up.config("up", ""));
        let number = std::cell::Cell::new(0);
        let asker = |name: &str| {
            let client = person(&gate, &issuer, name);
            let session = (!is_modern).then(|| client.session("/mcp/up", "2025-11-25", "{}"));
            let number = &number;
            move |method: &str, params: &str| match &session {
                Some(session) => {
                    number.set(number.get() + 1);
                    session.request(&number.get().to_string(), method, params).send()
                }
                None => client.modern_declaring("/mcp/up", method, params, TASKS).send(),
            }
        };
        let (ann, bob) = (asker("ann"), asker("bob"));
        let made = |answer: &Answer| {
            let json = answer.json();
            let id = json.pointer("/result/task/taskId").or(json.pointer("/result/taskId"));
            id.and_then(Value::as_str).map(str::to_owned)
        };
        let call = |task: &str| format!(r#""name":"make","arguments":{{"task":"{task}"}}"#);
        assert!(made(&bob("tools/call", &call("his"))).is_some());
        let hers = made(&ann("tools/call", &call("hers"))).unwrap();
        assert!(made(&ann("tools/call", &call("other"))).is_some());

        // A call that becomes his task.
        let stolen = ann("tools/call", &call("his"));
        assert!(made(&stolen).is_none() && stolen.code() == Some(-31022), "{}", stolen.text());
        // Answers about his, about another of hers, and about one of a name that is none.
        let methods: &[&str] = if is_modern {
            &["tasks/get", "tasks/update", "tasks/cancel"]
        } else {
            &["tasks/get", "tasks/cancel"]
        };
        for method in methods {
            for about in ["his", "other", "unheard of", ""] {
                *of.lock().unwrap() = about.to_owned();
                let answer = ann(method, &format!(r#""taskId":"{hers}""#));
                assert!(made(&answer).is_none(), "{method} about `{about}`: {}", answer.text());
                assert_eq!(answer.code(), Some(-31022), "{method} about `{about}`: {}", answer.text());
            }
            *of.lock().unwrap() = "hers".to_owned();
            let answer = ann(method, &format!(r#""taskId":"{hers}""#));
            assert_eq!(made(&answer).as_ref(), Some(&hers), "{method}: {}", answer.text());
        }
        if !is_modern {
            let result = ann("tasks/result", &format!(r#""taskId":"{hers}""#));
            assert_eq!(made(&result).as_deref(), Some("his"), "as its tool wrote it: {}", result.text());
            let got = ann("tasks/get", r#""taskId":"his""#);
            assert_eq!(got.code(), Some(-32602), "which is worth nothing: {}", got.text());
        }
    }
}

/// Has the server behind `session` write `line`.
fn say(session: &Session, id: &str, method: &str, params: &str) {
    let line = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
    let arguments = json!({ "line": line }).to_string();
    let answer = session.call(id, "say", &arguments).send();
    assert_eq!(answer.said(), "said", "{}", answer.text());
    assert_eq!(answer.messages().len(), 1, "it belongs to nobody's request: {}", answer.text());
}

/// Also: SH-12.
#[test]
fn sh_10_a_process_of_everybodys_tells_each_what_they_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let arguments = ["--legacy", "--record", record.to_str().unwrap()];
    let gate = Gate::start(&prober("probe", &arguments, "shared = true"));
    let open = || gate.client().session("/mcp/probe", "2025-11-25", "{}");
    let (ann, bob) = (open(), open());
    let ask = |session: &Session, id: &str, method: &str, uri: &str| {
        let answer = session.request(id, method, &format!(r#""uri":"{uri}""#)).send();
        assert!(answer.result().is_some(), "{}", answer.text());
    };
    ask(&ann, "1", "resources/subscribe", "file:///ann");
    ask(&ann, "2", "resources/subscribe", "file:///both");
    ask(&bob, "1", "resources/subscribe", "file:///bob");
    ask(&bob, "2", "resources/subscribe", "file:///both");
    let (mut her, mut his) = (ann.stream(), bob.stream());

    for (at, uri) in ["file:///ann/diary", "file:///annex", "file:///bob", "file:///both"].iter().enumerate()
    {
        let params = format!(r#"{{"uri":"{uri}"}}"#);
        say(&ann, &format!("1{at}"), "notifications/resources/updated", &params);
    }
    say(&ann, "20", "notifications/message", r#"{"level":"error","data":"her secret"}"#);
    say(&ann, "21", "notifications/tools/list_changed", "{}");
    for (stream, uri) in [(&mut her, "file:///ann/diary"), (&mut his, "file:///bob")] {
        for uri in [uri, "file:///both"] {
            assert_eq!(text(&stream.message(), "/params/uri"), uri);
        }
        let last = stream.message();
        assert_eq!(text(&last, "/method"), "notifications/tools/list_changed", "{last}");
    }

    // What one of them wants less of is not taken from the other.
    let heard = |what: &str| fs::read_to_string(&record).unwrap().matches(what).count();
    ask(&bob, "3", "resources/unsubscribe", "file:///both");
    ask(&bob, "4", "resources/unsubscribe", "file:///ann");
    let level = bob.request("5", "logging/setLevel", r#""level":"emergency""#).send();
    assert!(level.result().is_some(), "{}", level.text());
    assert_eq!((heard("resources/unsubscribe"), heard("logging/setLevel")), (0, 0));
    say(&ann, "30", "notifications/resources/updated", r#"{"uri":"file:///both"}"#);
    say(&ann, "31", "notifications/tools/list_changed", "{}");
    assert_eq!(text(&her.message(), "/params/uri"), "file:///both");
    let last = his.message();
    assert_eq!(text(&last, "/method"), "notifications/tools/list_changed", "he listens no more: {last}");
    ask(&ann, "40", "resources/unsubscribe", "file:///both");
    assert_eq!(heard("resources/unsubscribe"), 1, "nobody listens any more");
}

#[test]
fn sh_10_a_modern_process_of_everybodys_logs_into_nobodys_answer() {
    let gate = Gate::start(&prober("probe", &["--modern"], "shared = true"));
    let client = gate.client();
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"her secret"}}"#;
    let arguments = json!({ "line": log }).to_string();
    let ask = |tool: &str, arguments: &str| {
        let call =
            client.modern("/mcp/probe", "tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#));
        let bytes = String::from_utf8(call.bytes()).unwrap();
        let (_, body) = bytes.split_once("\r\n\r\n").unwrap();
        let level = r#""_meta":{"io.modelcontextprotocol/logLevel":"debug","#;
        call.body(body.replace(r#""_meta":{"#, level))
    };
    let his = ask("pause", r#"{"ms":1500}"#);
    let his = std::thread::spawn(move || his.send());
    let hers = ask("say", &arguments).send();
    assert_eq!(hers.said(), "said", "{}", hers.text());
    let his = his.join().unwrap();
    assert_eq!(his.said(), "rested", "{}", his.text());
    for answer in [hers, his] {
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
}

#[test]
fn sh_11_an_answer_to_a_process_that_is_gone_reaches_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let arguments = ["--legacy", "--record", record.to_str().unwrap()];
    let gate = Gate::start(&prober("probe", &arguments, "may_ask = [\"elicitation\"]"));
    let session = gate.client().session("/mcp/probe", "2025-11-25", r#"{"elicitation":{}}"#);
    let ask = |id: &str| {
        let question = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"sure?","requestedSchema":{"type":"object","properties":{}}}}"#;
        let answer = session.call(id, "say", &json!({ "line": question }).to_string()).send();
        let asked = answer.messages().first().cloned().unwrap_or_default();
        let asked: Value = serde_json::from_str(&asked).unwrap();
        assert_eq!(text(&asked, "/method"), "elicitation/create", "{}", answer.text());
        asked["id"].to_string()
    };
    let first = ask("1");
    let seen = session.call("2", "look", "{}").send().said();
    let pid = serde_json::from_str::<Value>(&seen).unwrap()["pid"].as_u64().unwrap();
    bartizan_trials::kill(u32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    eventually("the session has a process again", || {
        session.call("3", "echo", "{}").send().result().map(|_| ())
    });
    let second = ask("4");
    let answer = |id: &str, content: &str| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept","content":{{"word":"{content}"}}}}}}"#
        );
        assert_eq!(session.post(body).send().status, 202);
    };
    answer(&first, "meant for the first");
    answer(&second, "meant for the second");
    let heard = || fs::read_to_string(&record).unwrap();
    eventually("the second is answered", || heard().contains("meant for the second").then_some(()));
    assert!(!heard().contains("meant for the first"), "{}", heard());
}

/// A process of everybody's that is started anew counts its tasks anew.
#[test]
fn sh_07_the_tasks_of_a_process_of_everybodys_end_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let arguments = ["--legacy", "--record", record.to_str().unwrap()];
    let issuer = Issuer::start(1);
    let gate = for_people(&issuer, &prober("up", &arguments, "shared = true"));
    let open = |name: &str| person(&gate, &issuer, name).session("/mcp/up", "2025-11-25", "{}");
    let (ann, bob) = (open("ann"), open("bob"));
    let now = "2026-01-01T00:00:00Z";
    let first =
        json!({ "taskId": "1", "status": "working", "createdAt": now, "lastUpdatedAt": now, "ttl": 60000 });
    let make = |session: &Session, id: &str| {
        let line = format!(r#"{{"jsonrpc":"2.0","id":%ID%,"result":{{"task":{first}}}}}"#);
        let made = session.call(id, "only", &json!({ "line": line }).to_string()).send();
        let json = made.json();
        let task = json.pointer("/result/task/taskId").and_then(Value::as_str).map(str::to_owned);
        task.ok_or_else(|| made.text())
    };
    let get = |session: &Session, id: &str, task: &str| {
        session.request(id, "tasks/get", &format!(r#""taskId":"{task}""#)).send()
    };
    let hers = make(&ann, "1").unwrap();
    assert_eq!(get(&ann, "2", &hers).code(), Some(-32601), "as the server says, which knows no such method");
    let doubled = make(&bob, "2").unwrap_err();
    assert!(doubled.contains("another caller's"), "while it runs, its first task is hers: {doubled}");

    let seen = ann.call("3", "look", "{}").send().said();
    let pid = serde_json::from_str::<Value>(&seen).unwrap()["pid"].as_u64().unwrap();
    bartizan_trials::kill(u32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    eventually("there is a process again", || bob.call("4", "echo", "{}").send().result().map(|_| ()));
    // He makes the first task of the next process before she hears of that one.
    let mut her_stream = ann.stream();
    let his = make(&bob, "5").unwrap();
    say(&bob, "6", "notifications/tasks/status", &first.to_string());
    say(&bob, "7", "notifications/tools/list_changed", "{}");
    let told = her_stream.message();
    assert_eq!(text(&told, "/method"), "notifications/tools/list_changed", "his is not hers: {told}");
    assert_eq!(get(&bob, "8", &his).code(), Some(-32601));
    let heard = || fs::read_to_string(&record).unwrap().matches("tasks/get").count();
    assert_eq!(heard(), 2);
    let late = get(&ann, "9", &hers);
    assert_eq!((late.code(), heard()), (Some(-32602), 2), "{}", late.text());
}

/// The dead process's question waits behind a message that others are asked about.
#[test]
fn sh_11_a_question_that_is_read_late_is_put_to_nobody() {
    let is_held = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&is_held);
    let service = Upstream::modern(move |heard, pen| {
        let documents = heard.json()["documents"].as_array().cloned().unwrap_or_default();
        let is_slow = documents.iter().any(|text| text.to_string().contains("slow horse"));
        while is_slow && held.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let judged: Vec<_> = documents.iter().map(|_| json!({ "attackDetected": false })).collect();
        let judged =
            json!({ "userPromptAnalysis": { "attackDetected": false }, "documentsAnalysis": judged });
        pen.json(&judged.to_string());
        true
    });
    let config = format!(
        "[shield.second_opinion.azure]\nkind = \"azure-prompt-shields\"\nendpoint = \"{}\"\n\
         key = {{ env = \"SHIELD_KEY\" }}\ntimeout_ms = 20000\nbudget_ms = 30000\n{}",
        service.origin(),
        prober("probe", &["--legacy"], "may_ask = [\"elicitation\"]\nsecond_opinions = [\"azure\"]")
    );
    let gate = Gate::start_with(&config, &[("SHIELD_KEY", "subscription-key-1")]);
    let session = gate.client().session("/mcp/probe", "2025-11-25", r#"{"elicitation":{}}"#);
    let seen = session.call("1", "look", "{}").send().said();
    let pid = serde_json::from_str::<Value>(&seen).unwrap()["pid"].as_u64().unwrap();
    let question = r#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"sure?","requestedSchema":{"type":"object","properties":{}}}}"#;
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"a slow horse"}}"#;
    let lines = json!({ "line": format!("{log}\n{question}") }).to_string();
    let late = session.call("2", "say", &lines);
    let late = std::thread::spawn(move || late.send());
    let is_asked =
        |heard: &bartizan_trials::Heard| heard.json()["documents"].to_string().contains("slow horse");
    eventually("it is judged what was said first", || service.heard().iter().any(is_asked).then_some(()));
    bartizan_trials::kill(u32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    eventually("the session has a process again", || {
        session.call("3", "echo", "{}").send().result().map(|_| ())
    });
    is_held.store(false, Ordering::Relaxed);
    let late = late.join().unwrap();
    let said = late.messages().join("\n");
    assert!(said.contains("a slow horse") && late.said() == "said", "{said}");
    assert!(!said.contains("elicitation/create"), "an answer would go to the next process: {said}");
}
