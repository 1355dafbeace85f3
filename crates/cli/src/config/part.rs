//! Parts of a configuration, for commands that have no use for the rest of it.

use std::path::Path;

use url::Url;

use super::{Config, Problems, alerts, reading};

/// Reads and checks what of a configuration is about the audit log, for `bartizan wrap`, which has its server from elsewhere.
///
/// # Errors
/// [`Problems`], all at once.
pub fn load_audit(path: &Path) -> Result<Config, Problems> {
    load_part(path, |config| {
        let mut found = config.audit.problems();
        found.extend(alerts::problems(&config.alerts));
        found
    })
}

/// Reads and checks what of a configuration is about the shield, for commands that judge without its servers.
///
/// # Errors
/// [`Problems`], all at once.
pub fn load_shield(path: &Path) -> Result<Config, Problems> {
    load_part(path, Config::shield_problems)
}

fn load_part(path: &Path, problems: impl Fn(&Config) -> Vec<String>) -> Result<Config, Problems> {
    let shown = path.display().to_string();
    let one = |problem: String| Problems { shown: shown.clone(), found: vec![problem] };
    let text = std::fs::read_to_string(path).map_err(|error| one(format!("it cannot be read: {error}")))?;
    let config = reading::read(&text).map_err(|found| Problems::new(&shown, found))?;
    let found = problems(&config);
    if found.is_empty() { Ok(config) } else { Err(Problems { shown, found }) }
}

impl Config {
    /// What is wrong with `[shield]`.
    pub(super) fn shield_problems(&self) -> Vec<String> {
        let mut found = self.shield.problems();
        let of_bundle = self.shield.bundle.iter().flat_map(bartizan_shield::bundle::BundleConfig::problems);
        found.extend(of_bundle.map(|problem| format!("[shield.bundle] {problem}")));
        for (name, opinion) in &self.shield.second_opinion {
            if name.is_empty()
                || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            {
                found.push(format!("[shield.second_opinion] `{name}`: a name is made of a-z, 0-9 and -"));
            }
            if opinion.url().is_some_and(|url| !opinion.endpoint.is_empty() && Url::parse(&url).is_err()) {
                found.push(format!("[shield.second_opinion.{name}] endpoint is no URL"));
            }
            found.extend(
                opinion.problems().into_iter().map(|p| format!("[shield.second_opinion.{name}] {p}")),
            );
        }
        found
    }
}
