//! One subscription over every server there is: a server that ends its part, or comes later, is listened to again.

use std::sync::Arc;

use bartizan_mcp::{Message, era, json::Value, message};
use futures::future::join_all;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::opening::Offers;
use crate::{
    Asker, Gate,
    flow::{Flow, Out, Replies},
    limits::{CONTROL_WAIT, LISTEN_REST, LONGEST_LISTEN_REST, MERGED_WAIT},
    listening::Listener,
    modern,
    server::Server,
};

/// What is told of a list that may have changed unheard, by what was asked for.
const LISTS: [(&str, &str); 3] = [
    ("toolsListChanged", "notifications/tools/list_changed"),
    ("promptsListChanged", "notifications/prompts/list_changed"),
    ("resourcesListChanged", "notifications/resources/list_changed"),
];

/// Whose subscription it is, and to whom all that is heard goes.
struct Ear {
    gate: Arc<Gate>,
    asker: Asker,
    listener: Listener,
    message: Message,
    /// The subscription's id (a JSON text).
    id: String,
    to: mpsc::Sender<Out>,
}

/// What came of asking one server.
enum Part {
    /// It tells from now on; this is what it honours.
    Heard(Box<Flow>, Message),
    /// It does not.
    Refused,
    /// It cannot be asked now.
    Lost,
}

/// Opens it: one acknowledgement of all that the servers honour, then what each tells.
pub(super) fn listen(gate: &Arc<Gate>, asker: &Asker, message: &Message) -> Replies {
    let (to, from) = mpsc::channel(64);
    let id = message.id_value().map(|v| v.text().to_owned()).unwrap_or_default();
    let (gate, asker, message) = (Arc::clone(gate), asker.clone(), message.clone());
    let listener = Listener::new(&gate, &asker);
    let ear = Arc::new(Ear { gate, asker, listener, message, id, to });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // Whoever is gone hears nothing of its end.
        let _ = ear.serve().await;
    });
    Replies::Many(from, tasks)
}

/// The client is gone.
struct Gone;

impl Ear {
    async fn serve(self: Arc<Self>) -> Result<(), Gone> {
        // Before the servers are looked at: what changes after that is seen.
        let mut over = std::pin::pin!(Listener::new(&self.gate, &self.asker).over(None));
        let mut changes = self.gate.changes();
        let mut servers = self.gate.all_servers();
        let begun = join_all(servers.iter().map(|server| self.begin(server))).await;
        let mut honoured = Offers::default();
        for part in &begun {
            if let Part::Heard(_, told) = part {
                honoured.add_filter(told.param("notifications"));
            }
        }
        let asked = self.message.param("notifications").map_or("{}", Value::text);
        let notifications = honoured.filter(asked);
        self.tell("notifications/subscriptions/acknowledged", "notifications", &notifications).await?;
        let lists: Vec<_> =
            LISTS.iter().filter(|(wish, _)| honoured.has(wish)).map(|(_, list)| *list).collect();
        let lists: Arc<[&str]> = lists.into();
        let mut parts = JoinSet::new();
        for (server, part) in servers.iter().zip(begun) {
            if let Part::Heard(flow, _) = part {
                let (me, server, lists) = (Arc::clone(&self), Arc::clone(server), Arc::clone(&lists));
                parts.spawn(async move { me.follow(&server, Some(flow), &lists).await });
            }
        }
        while !parts.is_empty() {
            tokio::select! {
                biased;
                () = &mut over => break,
                _ = changes.changed() => {
                    let now = self.gate.all_servers();
                    let is_in = |all: &[Arc<Server>], server| all.iter().any(|one| Arc::ptr_eq(one, server));
                    let fresh: Vec<_> = now.iter().filter(|server| !is_in(&servers, server)).cloned().collect();
                    if fresh.is_empty() && now.len() == servers.len() {
                        continue;
                    }
                    servers = now;
                    for server in fresh {
                        let (me, lists) = (Arc::clone(&self), Arc::clone(&lists));
                        parts.spawn(async move { me.follow(&server, None, &lists).await });
                    }
                    self.tell_lists(&lists).await?;
                }
                _ = parts.join_next() => {}
            }
        }
        // Every server has ended its part, or all of it is over: so is the subscription (spec.md A-84).
        let (key, id) = (era::META_SUBSCRIPTION, &self.id);
        let result = format!(r#"{{"resultType":"complete","_meta":{{"{key}":{id}}}}}"#);
        self.send(Out::Final { status: 200, text: message::result(id, &result) }).await
    }

    /// Passes on what `server` tells; after its end, for as long as it is there, it is asked anew, less and less often, and whatever
    /// it may have told meanwhile counts as told (spec.md C-38, D-19). One that was not listened to yet is asked once.
    async fn follow(
        &self,
        server: &Arc<Server>,
        flow: Option<Box<Flow>>,
        lists: &[&str],
    ) -> Result<(), Gone> {
        let was_heard = flow.is_some();
        let (mut flow, mut rest, mut refusals) = (flow, LISTEN_REST, 0);
        loop {
            if let Some(mut flow) = flow.take() {
                let began = Instant::now();
                while let Some(Out::Message(text)) = flow.next().await {
                    self.send(Out::Message(text)).await?;
                }
                if began.elapsed() > LONGEST_LISTEN_REST {
                    rest = LISTEN_REST;
                }
            }
            if self.listener.is_over(None) || !self.gate.has(server) {
                return Ok(());
            }
            if was_heard && self.is_cut_off(server) {
                self.tell_lists(lists).await?;
                self.until_released(server).await;
                (rest, refusals) = (LISTEN_REST, 0);
            }
            sleep(rest).await;
            rest = (rest * 2).min(LONGEST_LISTEN_REST);
            match self.begin(server).await {
                Part::Heard(again, told) => {
                    if was_heard {
                        self.tell_lists(lists).await?;
                        let uris = told.param("notifications").and_then(|n| n.get("resourceSubscriptions"));
                        for uri in uris.into_iter().flat_map(Value::elements) {
                            self.tell("notifications/resources/updated", "uri", uri.text()).await?;
                        }
                    }
                    (flow, refusals) = (Some(again), 0);
                }
                // Once may be a quarantine that has just begun.
                Part::Refused if was_heard && refusals < 2 => refusals += 1,
                Part::Lost if was_heard => {}
                Part::Lost | Part::Refused => return Ok(()),
            }
        }
    }

    fn is_cut_off(&self, server: &Server) -> bool {
        self.gate.responses().is_quarantined(server.name())
    }

    /// Waits until `server` is out of quarantine, or another one.
    async fn until_released(&self, server: &Arc<Server>) {
        let mut changes = self.gate.changes();
        while self.gate.has(server) && self.is_cut_off(server) && changes.changed().await.is_ok() {}
    }

    /// Asks one server, and waits for what it honours.
    async fn begin(&self, server: &Arc<Server>) -> Part {
        let opening = modern::open(&self.gate, &self.asker, server, true, &self.message, None);
        let mut flow = match timeout(MERGED_WAIT, opening).await {
            Ok(Ok(flow)) => Box::new(flow),
            Ok(Err(refusal)) if refusal.status < 500 && refusal.retry_after_s.is_none() => {
                return Part::Refused;
            }
            Ok(Err(_)) | Err(_) => return Part::Lost,
        };
        match timeout(CONTROL_WAIT, flow.next()).await {
            Ok(Some(Out::Message(text))) => {
                Message::from_spliced(text).map_or(Part::Lost, |told| Part::Heard(flow, told))
            }
            Ok(_) | Err(_) => Part::Lost,
        }
    }

    /// That any of `lists` may be another one by now.
    async fn tell_lists(&self, lists: &[&str]) -> Result<(), Gone> {
        for list in lists {
            self.send(Out::Message(self.notification(list, ""))).await?;
        }
        Ok(())
    }

    /// A notification of ours with one member beside the subscription's id.
    async fn tell(&self, method: &str, key: &str, value: &str) -> Result<(), Gone> {
        self.send(Out::Message(self.notification(method, &format!(r#","{key}":{value}"#)))).await
    }

    fn notification(&self, method: &str, rest: &str) -> String {
        let params = format!(r#"{{"_meta":{{"{}":{}}}{rest}}}"#, era::META_SUBSCRIPTION, self.id);
        message::notification(method, Some(&params))
    }

    async fn send(&self, out: Out) -> Result<(), Gone> {
        self.to.send(out).await.map_err(|_| Gone)
    }
}
