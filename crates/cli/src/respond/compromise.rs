//! `bartizan respond compromise`: one plan about one server, recorded as it goes, resumed where it stopped.

use std::{fs::File, process::ExitCode};

use anyhow::{Context, bail};
use bartizan_audit::{Details, Event, Kind, Log, Text, event::Change};
use bartizan_model::{Caller, Clock, Entropy, ServerName, SystemClock, Timestamp};
use bartizan_store::{
    Database, OsEntropy, Plans, StoredPlans,
    plans::{Item, Plan, Standing, Step},
};
use clap::Args;

use super::{Doing, exposure, grants, held, pins, show, unknown_server};
use crate::{
    Format,
    audit::when,
    config::{self, Loaded, Upstream},
    run::base_of,
    say_error,
    state::State,
};

/// `bartizan respond compromise`
#[derive(Args)]
pub struct CompromiseArgs {
    /// The server.
    server: ServerName,
    #[command(flatten)]
    doing: Doing,
    /// Since when it cannot be trusted: an RFC 3339 time, or how long ago (90s, 15m, 2h, 7d). What was approved later is
    /// taken back, and only what was called later is listed. Without it, what is approved counts as good, and all that
    /// the audit log holds is listed.
    #[arg(long, value_name = "TIME", value_parser = when)]
    since: Option<Timestamp>,
    /// Say what would be done, and do none of it.
    #[arg(long, conflicts_with_all = ["status", "rotated"])]
    dry_run: bool,
    /// Say how far the plan is, and do nothing.
    #[arg(long, conflicts_with = "rotated")]
    status: bool,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How `--format json` was spelt before.
    #[arg(long, hide = true)]
    json: bool,
    /// A secret that holds another value now, as `--status` names it: for those whose value cannot be seen from here.
    #[arg(long, value_name = "PLACE")]
    rotated: Vec<String>,
    /// Forget linked accounts whose authorization server cannot revoke them now. Their tokens stay good there until they
    /// end by themselves.
    #[arg(long)]
    dangerous_forget_unrevoked: bool,
}

impl CompromiseArgs {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// Everything the steps work with.
pub struct Scene {
    /// Where the gate keeps things.
    pub state: State,
    /// Its database.
    pub database: Database,
    /// What is done about which server.
    pub server: ServerName,
    /// Since when, if it is known.
    pub since: Option<Timestamp>,
    /// The configuration.
    pub loaded: Loaded,
    /// Where its relative paths start.
    pub base: std::path::PathBuf,
    /// Drop links that cannot be revoked.
    pub forgets_unrevoked: bool,
}

impl Scene {
    /// The server as it is configured, if it still is.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.loaded.config.servers.iter().find(|s| s.name == self.server)
    }
}

/// What became of a step: its own standing, words, and those of its pieces.
pub struct Done {
    /// How far the step is.
    pub standing: Standing,
    /// In words.
    pub words: String,
}

/// A run of a plan: where each end of a piece is kept, and recorded.
pub struct Run {
    plans: StoredPlans,
    plan: Plan,
    log: Log,
}

impl Run {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where plans are kept.
    pub fn plans(&self) -> &StoredPlans {
        &self.plans
    }

    /// The log of this process.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Records what was done, of this kind, to the thing of this name.
    ///
    /// # Errors
    /// What cannot be recorded is not counted as done.
    pub async fn record(&self, kind: Kind, entity: &str, name: &str, to: &str) -> anyhow::Result<()> {
        let details = Details {
            server: Some(self.plan.server.clone()),
            change: Some(Change {
                entity: Text::new(entity),
                name: Text::new(name),
                from: None,
                to: Some(Text::new(to)),
            }),
            message: Some(Text::new(&format!("plan {}: {}", self.plan.id, self.plan.why))),
            ..Details::default()
        };
        let event = Event::new(kind).by(&Caller::local_owner()).with(details);
        self.log.note(event).await.map(drop).context("it cannot be recorded")
    }

    /// Keeps how far a piece is; an empty name stands for the step itself.
    ///
    /// # Errors
    /// The database's.
    pub async fn settle(
        &self,
        step: Step,
        name: &str,
        standing: Standing,
        words: &str,
    ) -> anyhow::Result<()> {
        let item = Item {
            step,
            name: name.to_owned(),
            standing,
            words: words.to_owned(),
            at: Some(SystemClock.now()),
        };
        Ok(self.plans.settle(&self.plan.id, &item).await?)
    }
}

/// Runs it.
pub async fn compromise(arguments: CompromiseArgs) -> anyhow::Result<ExitCode> {
    crate::start_log("warn");
    let path = arguments.doing.place.config.clone();
    let state = State::of_gate(path.as_deref())?;
    let database = state.database().await?;
    let scene = Scene {
        server: arguments.server.clone(),
        since: arguments.since,
        loaded: config::load(path.as_deref())?,
        base: base_of(path.as_deref()),
        forgets_unrevoked: arguments.dangerous_forget_unrevoked,
        state,
        database: database.clone(),
    };
    let done = scene.answer(&arguments).await;
    database.close().await;
    done
}

impl Scene {
    async fn answer(mut self, arguments: &CompromiseArgs) -> anyhow::Result<ExitCode> {
        let plans = StoredPlans::new(self.database.clone());
        if let Some(unknown) = unknown_server(&self.server, &self.loaded.config) {
            say_error(&unknown);
        }
        if arguments.dry_run {
            let items = self.intentions().await?;
            show::intentions(&self, &items, arguments.format())?;
            return Ok(ExitCode::SUCCESS);
        }
        for place in &arguments.rotated {
            if !plans.rotated(&self.server, place, SystemClock.now()).await? {
                bail!(
                    "`{}` is not marked, or was rotated before; --status lists what is",
                    place.escape_debug()
                );
            }
        }
        if arguments.status || !arguments.rotated.is_empty() {
            let Some(plan) = plans.latest(&self.server).await? else {
                say_error(&format!("server {}: there is no plan\n", self.server));
                return Ok(ExitCode::from(1));
            };
            held::look_again(&self, &plans).await?;
            return show::status(&self, &plans, &plan, arguments.format()).await;
        }
        // Two at once would undo nothing of each other's, and each would tell half of it.
        let lock = File::create(self.state.folder().join("compromise.lock"))?;
        lock.try_lock()
            .context("another `respond compromise` is at work here: wait for it, or see --status")?;
        let (log, _) = self.state.audit(std::sync::Arc::new(OsEntropy))?.start_any(
            "respond",
            std::sync::Arc::new(SystemClock),
            bartizan_audit::Options::default(),
        )?;
        let plan = self.begin(&plans, arguments).await?;
        self.since = plan.since;
        let run = Run { plans: plans.clone(), plan: plan.clone(), log };
        self.carry_out(&run).await?;
        held::look_again(&self, &plans).await?;
        let plan = plans.latest(&self.server).await?.unwrap_or(plan);
        show::status(&self, &plans, &plan, arguments.format()).await
    }

    async fn begin(&self, plans: &StoredPlans, arguments: &CompromiseArgs) -> anyhow::Result<Plan> {
        let mut id = [0; 8];
        OsEntropy.fill(&mut id);
        let new = Plan {
            id: id.iter().map(|b| format!("{b:02x}")).collect(),
            server: self.server.clone(),
            since: arguments.since,
            why: arguments.doing.why.clone(),
            by: "owner".to_owned(),
            begun_at: SystemClock.now(),
            ended_at: None,
        };
        let plan = plans.begin(&new).await?;
        if plan.id != new.id {
            say_error(&format!("server {}: going on with the plan {}\n", self.server, plan.id));
            if arguments.since.is_some_and(|since| plan.since != Some(since)) {
                say_error("  it was begun with another --since, which counts\n");
            }
        }
        Ok(plan)
    }

    /// Every step that is not done yet. One that fails does not keep the others from being done, except the first:
    /// what is not cut off is not cleaned up.
    async fn carry_out(&self, run: &Run) -> anyhow::Result<()> {
        let before = run.plans.items(&run.plan.id).await?;
        let is_done = |step| {
            before.iter().any(|i| {
                i.step == step && i.name.is_empty() && matches!(i.standing, Standing::Done | Standing::ByHand)
            })
        };
        let mut is_over = true;
        for step in Step::ALL.into_iter().filter(|step| !is_done(*step)) {
            let done = match step {
                Step::Quarantine => self.quarantine(run).await,
                Step::Grants => grants::revoke_all(self, run).await,
                Step::Secrets => held::mark_all(self, run).await,
                Step::Pins => pins::roll_back(self, run).await,
                Step::Exposure => exposure::list(self, run).await,
            };
            let done =
                done.unwrap_or_else(|error| Done { standing: Standing::Failed, words: format!("{error:#}") });
            run.settle(step, "", done.standing, &done.words).await?;
            is_over &= matches!(done.standing, Standing::Done | Standing::ByHand);
            if step == Step::Quarantine && !is_over {
                bail!(
                    "server {} is not in quarantine, so nothing else was done: {}",
                    self.server,
                    done.words
                );
            }
        }
        if is_over && run.plan.ended_at.is_none() {
            run.record(Kind::Responded, "plan", &run.plan.id, "carried out").await?;
            run.plans.end(&run.plan.id, SystemClock.now()).await?;
        }
        Ok(())
    }

    async fn quarantine(&self, run: &Run) -> anyhow::Result<Done> {
        let stored = bartizan_store::StoredResponses::new(self.database.clone());
        let response = bartizan_store::responses::Response {
            target: bartizan_store::responses::Target::Server(self.server.clone()),
            why: format!("compromised (plan {}): {}", run.plan.id, run.plan.why),
            by: run.plan.by.clone(),
            at: SystemClock.now(),
        };
        let event = bartizan_gateway::responses::event_of(run.log.persons(), &response, true);
        let _ = run.log.note(event.by(&Caller::local_owner())).await.context("it cannot be recorded")?;
        let is_new = bartizan_store::Responses::enforce(&stored, &response).await?;
        let words = if is_new { "in force within five seconds" } else { "was in force already" };
        Ok(Done { standing: Standing::Done, words: words.to_owned() })
    }

    /// What the plan would do.
    async fn intentions(&self) -> anyhow::Result<Vec<Item>> {
        let item = |step, name: &str, words: String| Item {
            step,
            name: name.to_owned(),
            standing: Standing::Waiting,
            words,
            at: None,
        };
        let mut items =
            vec![item(Step::Quarantine, "", "nothing of it is called, shown or passed on".into())];
        let folder = self.state.audit(std::sync::Arc::new(OsEntropy))?;
        for (pseudonym, words) in grants::intended(self, folder.persons()).await? {
            items.push(item(Step::Grants, &pseudonym, words));
        }
        items
            .extend(held::secrets(self).into_iter().map(|held| item(Step::Secrets, &held.place, held.words)));
        for (_, name, verdict) in pins::verdicts(self).await? {
            items.extend(verdict.words().map(|words| item(Step::Pins, &name, words)));
        }
        let exposed = exposure::of(&self.state.audit_folder(), &self.server, self.since)?;
        for (pseudonym, seen) in &exposed.people {
            items.push(item(Step::Exposure, pseudonym, serde_json::to_string(seen)?));
        }
        Ok(items)
    }
}
