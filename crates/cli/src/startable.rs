//! Whether a gate would start with a configuration: what its file alone does not show, for `config check` and `doctor`.
//!
//! Files are read that the configuration names. Nothing is started or made, and nobody is asked.

use std::path::Path;

use bartizan_model::SecretRef;

use crate::{
    config::{Config, Given, Loaded, Upstream},
    endpoints, opinions, policy, run, secrets,
};

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// With these a gate does not start.
    pub problems: Vec<String>,
    /// What may be otherwise where the gate runs: secrets and programs that are not here.
    pub warnings: Vec<String>,
}

/// Looks at what `loaded` names.
pub async fn look(loaded: &Loaded) -> Found {
    let (config, base) = (&loaded.config, run::base_of(loaded.path.as_deref()));
    let mut found = Found::default();
    if let Some(files) = &config.server.tls
        && let Err(error) = endpoints::listener_tls(files, &base)
    {
        found.problems.push(format!("{error:#}"));
    }
    for server in &config.servers {
        look_at(server, config, &base, &mut found);
    }
    found.problems.extend(policy::problems(loaded, &base));
    found
}

/// The models of a configuration that do not work.
pub async fn unusable_models(loaded: &Loaded) -> Vec<String> {
    let base = run::base_of(loaded.path.as_deref());
    let tried = opinions::try_models(&loaded.config, &base).await.into_iter();
    let unusable = |(name, tried): (String, anyhow::Result<_>)| {
        tried.err().map(|error| format!("[shield.second_opinion.{name}]: {error:#}"))
    };
    tried.filter_map(unusable).collect()
}

fn look_at(server: &Upstream, config: &Config, base: &Path, found: &mut Found) {
    let name = &server.name;
    let set: Vec<_> = server.set_env.values().filter_map(Given::kept).collect();
    let has_all = set.iter().all(|place| secrets::read(place, base).is_ok());
    let set = set.into_iter().map(|place| (place, "the gate does not start"));
    let shown = server.credential.secrets().into_iter().map(|place| (place, "its calls fail"));
    for (place, then) in set.chain(shown) {
        // Vaults are asked when the gate starts, and by `doctor`.
        if matches!(place, SecretRef::Env { .. } | SecretRef::File { .. })
            && let Err(error) = secrets::read(place, base)
        {
            found.warnings.push(format!("server `{name}`: {error:#}; without it {then}"));
        }
    }
    match (endpoints::reachable(server, config, base), &server.command) {
        (Err(error), None) => found.problems.push(format!("server `{name}`: {error:#}")),
        // The gate starts all the same, and tries to start the server again and again.
        (Err(error), Some(_)) if has_all => found.warnings.push(format!("server `{name}`: {error:#}")),
        _ => {}
    }
}
