//! `bartizan login`: a link that signs the owner of this machine in.

use std::process::ExitCode;

use bartizan_model::{Clock, Secret, SystemClock};
use bartizan_oauth::signin::mint_link;
use bartizan_store::{OsEntropy, StoredPending};
use url::Url;

use crate::{ConfigFile, Usage, config, identity::Mode, print, say_error, state::State};

/// Prints a fresh link; whoever opens it within ten minutes is the owner, once.
pub async fn login(file: ConfigFile) -> anyhow::Result<ExitCode> {
    let path = file.config.as_deref();
    let loaded = config::load(path)?;
    let config = &loaded.config;
    if config.identity.mode != Mode::Local {
        let words = "people sign in at the identity provider here; `bartizan login` is for [identity] mode = \"local\"";
        return Err(Usage(words.to_owned()).into());
    }
    if config.server.listen.port() == 0 {
        let words = "[server] listen has port 0, so nobody knows where the gate is: set a port";
        return Err(Usage(words.to_owned()).into());
    }
    let state = State::of_gate(path)?;
    let link = link(&state, &config.public_url(config.server.listen)?).await?;
    state.database().await?.close().await;
    say_error("Open this in the browser in which you use the client. It works once, for ten minutes.\n");
    print(&format!("{}\n", link.reveal()))?;
    Ok(ExitCode::SUCCESS)
}

/// A fresh link of the gate at `public_url`. The database stays open: a gate goes on with it.
pub async fn link(state: &State, public_url: &Url) -> anyhow::Result<Secret> {
    let pending = StoredPending::new(state.database().await?, state.sealer().await?);
    Ok(mint_link(public_url, &pending, &OsEntropy, SystemClock.now()).await?)
}
