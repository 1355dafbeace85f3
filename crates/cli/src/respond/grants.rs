//! The step `grants`: what people granted the gate at the server is revoked (RFC 7009) and forgotten.

use std::sync::Arc;

use bartizan_audit::{Kind, Persons};
use bartizan_model::{Caller, SystemClock};
use bartizan_oauth::{
    SubjectTokens,
    outbound::{Assertions, Revoked, UserOauth},
};
use bartizan_store::{
    Links, Plans,
    links::Account,
    plans::{Standing, Step},
};

use super::compromise::{Done, Run, Scene};
use crate::endpoints::{self, Desk};

/// How often it is looked whether somebody linked an account meanwhile.
const ROUNDS: usize = 3;

/// The pseudonym of whose account it is, and what would be done.
pub async fn intended(scene: &Scene, persons: &Persons) -> anyhow::Result<Vec<(String, String)>> {
    let accounts = scene.state.links().await?.of_server(&scene.server).await?;
    let words = |account: &Account| {
        let known = persons.find(&whose(account)).map(|person| person.pseudonym().to_string());
        (
            known.unwrap_or_else(|| "somebody not in the log".into()),
            "its linked account is revoked and forgotten".into(),
        )
    };
    Ok(accounts.iter().map(words).collect())
}

fn whose(account: &Account) -> Caller {
    Caller::new(&account.issuer, &account.subject, "")
}

/// Revokes and forgets every account that is linked.
pub async fn revoke_all(scene: &Scene, run: &Run) -> anyhow::Result<Done> {
    let links = Arc::new(scene.state.links().await?);
    let config = &scene.loaded.config;
    let desk = Desk {
        links: links.clone(),
        sealer: scene.state.sealer().await?,
        public_url: config.public_url(config.server.listen)?,
        subjects: Arc::new(SubjectTokens::new(Arc::default(), Arc::new(SystemClock))),
        assertions: Assertions::new(Arc::new(scene.state.provider_tokens().await?), Arc::new(SystemClock)),
    };
    let credential = match scene.upstream() {
        Some(upstream) => endpoints::personal(config, upstream, &scene.base, &desk)?,
        None => None,
    };
    let (mut done, mut by_hand, mut failed) = finished_before(links.as_ref(), scene, run).await?;
    for _ in 0..ROUNDS {
        let accounts = links.of_server(&scene.server).await?;
        if accounts.is_empty() || failed > 0 {
            break;
        }
        for account in accounts {
            let pseudonym = run.log().persons().of(&whose(&account))?.pseudonym().to_string();
            // Before it is begun: what a crash leaves behind is then known to have been begun.
            run.settle(Step::Grants, &pseudonym, Standing::Waiting, "begun").await?;
            let (standing, words) = one(scene, links.as_ref(), credential.as_ref(), &account).await?;
            match standing {
                Standing::Failed | Standing::Waiting => failed += 1,
                Standing::ByHand => by_hand += 1,
                Standing::Done => done += 1,
            }
            if standing != Standing::Failed {
                run.record(Kind::Responded, "grant", &pseudonym, &words).await?;
            }
            run.settle(Step::Grants, &pseudonym, standing, &words).await?;
        }
    }
    let standing = match (failed, by_hand) {
        (0, 0) => Standing::Done,
        (0, _) => Standing::ByHand,
        _ => Standing::Failed,
    };
    let mut words = format!("{done} linked account(s) revoked and forgotten");
    if by_hand > 0 {
        words.push_str(&format!(", {by_hand} forgotten and not revoked"));
    }
    if failed > 0 {
        words.push_str(&format!(
            ", {failed} not: run it again, or with --dangerous-forget-unrevoked if it never succeeds"
        ));
    }
    Ok(Done { standing, words })
}

/// What an earlier run did: an account that it began with and that is linked no more was revoked, for it is forgotten only
/// then.
async fn finished_before(links: &dyn Links, scene: &Scene, run: &Run) -> anyhow::Result<(u32, u32, u32)> {
    let linked = links.of_server(&scene.server).await?;
    let is_linked = |name: &str| {
        linked.iter().any(|account| {
            run.log().persons().find(&whose(account)).is_some_and(|p| p.pseudonym().to_string() == name)
        })
    };
    let (mut done, mut by_hand) = (0, 0);
    let items = run.plans().items(&run.plan().id).await?;
    for item in
        items.into_iter().filter(|i| i.step == Step::Grants && !i.name.is_empty() && !is_linked(&i.name))
    {
        match item.standing {
            Standing::ByHand => by_hand += 1,
            Standing::Done => done += 1,
            Standing::Waiting | Standing::Failed => {
                let words = "revoked and forgotten before the plan was cut short";
                run.record(Kind::Responded, "grant", &item.name, words).await?;
                run.settle(Step::Grants, &item.name, Standing::Done, words).await?;
                done += 1;
            }
        }
    }
    Ok((done, by_hand, 0))
}

async fn one(
    scene: &Scene,
    links: &dyn Links,
    credential: Option<&UserOauth>,
    account: &Account,
) -> anyhow::Result<(Standing, String)> {
    let Some(credential) = credential else {
        let grant = links.grant(account).await.ok().flatten();
        links.unlink(account).await?;
        let at = grant.map_or_else(|| "its authorization server".to_owned(), |grant| grant.upstream);
        let words = format!(
            "forgotten; the server has no `user-oauth` credential now, so nobody can be asked: revoke the gate's access at {at}"
        );
        return Ok((Standing::ByHand, words));
    };
    Ok(match credential.revoke(&account.issuer, &account.subject).await {
        Ok(Revoked::Yes { upstream, left: None }) => (Standing::Done, format!("revoked at {upstream}")),
        Ok(Revoked::Yes { upstream, left: Some(left) }) => {
            (Standing::Done, format!("revoked at {upstream}, except {left}"))
        }
        Ok(Revoked::NoWay { upstream }) => {
            let words = format!(
                "forgotten; {upstream} has no revocation endpoint (RFC 7009), so its tokens end by themselves: revoke the gate's access there"
            );
            (Standing::ByHand, words)
        }
        Ok(Revoked::Nothing) => (Standing::Done, "was gone already".to_owned()),
        Err(why) if scene.forgets_unrevoked => {
            links.unlink(account).await?;
            (Standing::ByHand, format!("forgotten without being revoked ({why})"))
        }
        Err(why) => (Standing::Failed, why),
    })
}
