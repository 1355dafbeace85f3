//! docs/attacks.md: attack → mechanism → trial, and three lists of OWASP beside them.
//!
//! Nothing here is compiled with the trials: they are found by reading their sources, where a name begins with the id
//! of its attack and a comment `Also: AA-02, PH-08.` adds further ones. `attacks.toml` says what answers each attack,
//! `owasp.toml` what answers each item of the lists.

mod sources;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::Deserialize;

pub use sources::Trial;

/// Everything the page says.
pub struct Matrix {
    attacks: Vec<Attack>,
    lists: Vec<List>,
    trials: Vec<Trial>,
}

/// A row of the catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// `PH-01`
    pub id: String,
    /// What it is called.
    pub name: String,
    /// `P0`, `P1` or `P2`.
    pub priority: String,
    /// The mechanism and where it is; absent while nothing is built.
    pub how: Option<String>,
    /// What of it is not built yet.
    pub missing: Option<String>,
    /// Why it is not for a gate to answer.
    pub not_ours: Option<String>,
    /// Tests outside the trials, as `path::name`.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

/// How far an attack is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Answered, and tried.
    Built,
    /// Answered in part.
    Partly,
    /// Not answered yet.
    Later,
    /// Not for a gate to answer.
    NotOurs,
}

/// One of OWASP's lists.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    name: String,
    item: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    id: String,
    title: String,
    control: Option<String>,
    not_ours: Option<String>,
    #[serde(default)]
    attacks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attacks {
    attack: Vec<Attack>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    list: Vec<List>,
}

impl Attack {
    /// How far it is answered.
    pub fn state(&self) -> State {
        match (&self.not_ours, &self.how, &self.missing) {
            (Some(_), ..) => State::NotOurs,
            (None, None, _) => State::Later,
            (None, Some(_), Some(_)) => State::Partly,
            (None, Some(_), None) => State::Built,
        }
    }
}

impl Matrix {
    /// Reads the registry and the sources of the workspace at `root`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let invalid = |error: toml::de::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let trials = root.join("crates/trials");
        let attacks: Attacks =
            toml::from_str(&fs::read_to_string(trials.join("attacks.toml"))?).map_err(invalid)?;
        let lists: Lists =
            toml::from_str(&fs::read_to_string(trials.join("owasp.toml"))?).map_err(invalid)?;
        let found = sources::trials(&trials.join("tests/it"))?;
        Ok(Self { attacks: attacks.attack, lists: lists.list, trials: found })
    }

    /// The rows of the catalogue.
    pub fn attacks(&self) -> &[Attack] {
        &self.attacks
    }

    /// The trials that were found.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// The trials of one attack.
    fn trials_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Trial> {
        self.trials.iter().filter(move |t| t.attacks.iter().any(|a| a == id))
    }

    /// What contradicts itself: rows without a trial, trials without a row, tests that are not there.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn faults(&self, root: &Path) -> io::Result<Vec<String>> {
        let mut faults = Vec::new();
        let mut rows = BTreeMap::new();
        for attack in &self.attacks {
            let id = attack.id.as_str();
            if rows.insert(id, attack).is_some() {
                faults.push(format!("{id} stands twice"));
            }
            let tried = self.trials_of(id).count() + attack.elsewhere.len();
            match attack.state() {
                State::Built | State::Partly if tried == 0 => {
                    faults.push(format!("{id} is answered and never tried"))
                }
                State::Later | State::NotOurs if tried > 0 => {
                    faults.push(format!("{id} is tried; say in attacks.toml what answers it"));
                }
                _ => {}
            }
            for test in &attack.elsewhere {
                if !sources::exists(root, test)? {
                    faults.push(format!("{id} names `{test}`, which is not there"));
                }
            }
        }
        let named: BTreeSet<_> = self.trials.iter().flat_map(|t| &t.attacks).map(String::as_str).collect();
        let listed = self.lists.iter().flat_map(|l| &l.item).flat_map(|i| &i.attacks).map(String::as_str);
        for id in named.into_iter().chain(listed).filter(|id| !rows.contains_key(id)) {
            faults.push(format!("{id} is in no catalogue"));
        }
        for item in self.lists.iter().flat_map(|l| &l.item) {
            if item.control.is_some() == item.not_ours.is_some() {
                faults.push(format!("{} needs either `control` or `not_ours`", item.id));
            }
        }
        Ok(faults)
    }
}
