//! `bartizan secrets erase`: a person is forgotten, in every copy of the database too.

use std::process::ExitCode;

use anyhow::Context;
use bartizan_audit::{Event, event::Kind};
use bartizan_model::{Caller, Clock, SystemClock};
use bartizan_store::{erase, responses::LONGEST_TOKEN};

use crate::{
    say_error,
    shield::kept::{Reports, Whose},
    state::State,
};

/// Erases `subject` of `issuer`. Exit code 1 if nothing of them was there.
pub async fn erase(state: &State, issuer: &str, subject: &str) -> anyhow::Result<ExitCode> {
    let keys = state.keys().await?;
    let database = state.database().await?;
    let (person, by) = (Caller::new(issuer, subject, ""), Caller::local_owner());
    let log = state.log("erase")?;
    // Recorded first. What fails after this is done by asking again.
    let again = "not everything is erased yet: run it again";
    let was_in_log = log.erase(&person, &by).await.context(again)?;
    let ids = erase::keys_of(&database, issuer, subject).await.context(again)?;
    if !was_in_log {
        let _ = log.note(Event::new(Kind::PersonErased).by(&by)).await.context(again)?;
    }
    if !ids.is_empty() {
        let now = SystemClock.now();
        let keys = keys.file.change(now, |keys, _| keys.puncture(&ids)).await;
        keys.context("the person's key is not destroyed").context(again)?;
    }
    // As when it is taken back: a row of a role that somebody puts back counts for nothing.
    let admins = state.admins(database.clone()).await.context(again)?;
    let roles = admins.take_all(issuer, subject, SystemClock.now()).await.context(again)?;
    let mut erased =
        erase::erase(&database, issuer, subject, SystemClock.now(), LONGEST_TOKEN).await.context(again)?;
    erased.other += roles;
    let whose = Whose { issuer: issuer.to_owned(), subject: subject.to_owned() };
    let reports = Reports::of(state).await?.forget(&whose).context(again)?;
    database.close().await;
    // A rotation that runs beside this may have made another key in between.
    let late: Vec<_> = erased.keys.iter().filter(|id| !ids.contains(id)).cloned().collect();
    if !late.is_empty() {
        keys.file.change(SystemClock.now(), |keys, _| keys.puncture(&late)).await.context(again)?;
    }
    if erased.is_nothing() && reports == 0 && !was_in_log {
        say_error("nothing of this person was there\n");
        return Ok(ExitCode::from(1));
    }
    say_error(&format!(
        "erased: {} data key(s), {} grant(s), {} linked account(s), {} browser(s), {} other row(s), \
         {reports} report(s){}\n\
         A running gate refuses what speaks for them within seconds. Copies of the database hold nothing of them that opens,\n\
         as long as {} is put back from no older copy: replace those copies now.\n",
        erased.keys.len(),
        erased.grants,
        erased.links,
        erased.browsers,
        erased.other,
        if was_in_log { ", and who they were in the audit log" } else { "" },
        keys.file.path().display()
    ));
    Ok(ExitCode::SUCCESS)
}
