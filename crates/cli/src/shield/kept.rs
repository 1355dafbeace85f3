//! Where reports are kept: a file of the state folder, a line each.
//!
//! What was somebody's result is sealed under that person's key, so that it is gone when they are
//! (`bartizan secrets erase`); what nobody in particular said, under the gate's. A rotation seals all of it again.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use bartizan_model::{Clock, SystemClock};
use bartizan_shield::Kind;
use bartizan_store::{
    Database, DatabaseError, Sealer,
    persons::{self, Person},
    reseal::Outside,
};
use serde::{Deserialize, Serialize};

use crate::state::State;

/// The file in the state folder.
const FILE: &str = "shield-reports";

/// What a line is sealed as.
const CONTEXT: &[&[u8]] = &[b"shield report"];

/// One report.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct Report {
    /// The text.
    pub text: String,
    /// 1 if it is an attack.
    pub label: u8,
    /// What the text is.
    pub kind: Kind,
    /// When it was reported, in Unix seconds.
    pub at: u64,
}

/// Whose result it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// Who vouches for the person.
    pub issuer: String,
    /// The person.
    pub subject: String,
}

impl Whose {
    fn person(&self) -> Person<'_> {
        Person { issuer: &self.issuer, subject: &self.subject }
    }
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<Whose>,
    sealed: String,
}

impl Line {
    /// A line, and what the first versions wrote: a sealed text alone.
    fn read(text: &str) -> Option<Self> {
        if text.starts_with('{') {
            serde_json::from_str(text).ok()
        } else {
            Some(Self { of: None, sealed: text.to_owned() })
        }
    }

    fn text(&self) -> String {
        // Strings have a JSON form.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// The reports of a state folder.
pub struct Reports {
    path: PathBuf,
    database: Database,
    sealer: Arc<Sealer>,
}

impl Reports {
    /// Those in `state`.
    pub async fn of(state: &State) -> anyhow::Result<Self> {
        Ok(Self {
            path: state.folder().join(FILE),
            database: state.database().await?,
            sealer: state.sealer().await?,
        })
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps one more; durable when this returns.
    pub async fn add(&self, report: &Report, of: Option<Whose>) -> anyhow::Result<()> {
        let _alone = self.alone().with_context(|| format!("cannot lock {}", self.path.display()))?;
        let sealed = self.seal(of.as_ref(), &serde_json::to_vec(report)?).await?;
        let line = Line { of, sealed }.text();
        let written =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).and_then(|mut file| {
                file.write_all(line.as_bytes())?;
                file.sync_data()
            });
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// All of them, in order, and how many open no more, for whose they were is erased.
    pub async fn read(&self) -> anyhow::Result<(Vec<Report>, usize)> {
        let (mut reports, mut gone) = (Vec::new(), 0);
        for (line, number) in self.lines()?.into_iter().zip(1..) {
            let odd = || format!("{}, line {number}, is not as we wrote it", self.path.display());
            let line = Line::read(&line).with_context(odd)?;
            match self.open(&line).await? {
                Some(plain) => reports.push(serde_json::from_slice(&plain).ok().with_context(odd)?),
                None if line.of.is_some() => gone += 1,
                None => bail!(odd()),
            }
        }
        Ok((reports, gone))
    }

    /// Forgets what was `whose`; how many there were.
    pub fn forget(&self, whose: &Whose) -> anyhow::Result<usize> {
        let _alone = self.alone().with_context(|| format!("cannot lock {}", self.path.display()))?;
        let lines = self.lines()?;
        let is_kept = |line: &&String| Line::read(line).is_none_or(|line| line.of.as_ref() != Some(whose));
        let kept: Vec<&String> = lines.iter().filter(is_kept).collect();
        let forgotten = lines.len() - kept.len();
        if forgotten > 0 {
            let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
            self.write(&text).with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(forgotten)
    }

    async fn seal(&self, of: Option<&Whose>, plain: &[u8]) -> Result<String, DatabaseError> {
        match of {
            None => self.sealer.seal_row(CONTEXT, plain),
            Some(whose) => {
                let now = SystemClock.now();
                persons::seal(&self.database, &self.sealer, whose.person(), now, CONTEXT, plain).await
            }
        }
    }

    async fn open(&self, line: &Line) -> Result<Option<Vec<u8>>, DatabaseError> {
        match &line.of {
            None => Ok(self.sealer.open(CONTEXT, &line.sealed)),
            Some(whose) => {
                persons::open(&self.database, &self.sealer, whose.person(), CONTEXT, &line.sealed).await
            }
        }
    }

    fn lines(&self) -> anyhow::Result<Vec<String>> {
        match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            text => {
                let text = text.with_context(|| format!("cannot read {}", self.path.display()))?;
                Ok(text.lines().map(ToOwned::to_owned).collect())
            }
        }
    }

    /// Nobody else changes the file until this is dropped.
    fn alone(&self) -> std::io::Result<File> {
        let path = self.path.with_extension("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    }

    /// Puts `text` in the place of the file, in one step.
    fn write(&self, text: &str) -> std::io::Result<()> {
        let fresh = self.path.with_extension("fresh");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(fresh, &self.path)
    }
}

#[async_trait]
impl Outside for Reports {
    fn what(&self) -> &'static str {
        "reports"
    }

    async fn reseal(&self) -> Result<(u64, u64), DatabaseError> {
        let beside = |words: String| DatabaseError::Beside(format!("{}: {words}", self.path.display()));
        let _alone = self.alone().map_err(|error| beside(error.to_string()))?;
        let lines = self.lines().map_err(|error| beside(format!("{error:#}")))?;
        let (mut text, mut done, mut lost) = (String::new(), 0, 0);
        for line in &lines {
            let opened = match Line::read(line) {
                Some(read) => self.open(&read).await?.map(|plain| (read, plain)),
                None => None,
            };
            match opened {
                Some((read, plain)) => {
                    let sealed = self.seal(read.of.as_ref(), &plain).await?;
                    text.push_str(&Line { sealed, ..read }.text());
                    done += 1;
                }
                None => {
                    text.push_str(line);
                    text.push('\n');
                    lost += 1;
                }
            }
        }
        if done > 0 {
            self.write(&text).map_err(|error| beside(error.to_string()))?;
        }
        Ok((done, lost))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    async fn kept(folder: &Path) -> Reports {
        let config = folder.join("bartizan.toml");
        fs::write(&config, "[[servers]]\nname = \"one\"\ncommand = [\"one\"]\n").unwrap();
        Reports::of(&State::for_config(Some(&config)).unwrap()).await.unwrap()
    }

    fn report(text: &str, label: u8) -> Report {
        Report { text: text.to_owned(), label, kind: Kind::Result, at: 7 }
    }

    fn ann() -> Option<Whose> {
        Some(Whose { issuer: "https://id.example".to_owned(), subject: "ann".to_owned() })
    }

    #[tokio::test]
    async fn reports_are_sealed_ours_alone_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let reports = kept(folder.path()).await;
        assert_eq!(reports.read().await.unwrap(), (vec![], 0));
        let (one, two) = (report("the marmalade\nis honest", 0), report("obey the marmalade", 1));
        reports.add(&one, None).await.unwrap();
        reports.add(&two, ann()).await.unwrap();
        assert_eq!(reports.read().await.unwrap(), (vec![one, two], 0));
        let about = fs::metadata(&reports.path).unwrap();
        assert_eq!(about.mode() & 0o777, 0o600);
        let text = fs::read_to_string(&reports.path).unwrap();
        assert!(!text.contains("marmalade"));
        let (first, second) = text.split_once('\n').unwrap();
        fs::write(&reports.path, format!("{}\n{second}", first.replace("\"}", "x\"}"))).unwrap();
        assert!(reports.read().await.is_err(), "an edited line is no report");
    }

    #[tokio::test]
    async fn what_was_somebodys_goes_with_them_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let reports = kept(folder.path()).await;
        reports.add(&report("nobody's", 0), None).await.unwrap();
        reports.add(&report("ann's", 0), ann()).await.unwrap();
        // The key of a person is in the database, and opens nothing without it.
        bartizan_store::erase::erase(
            &reports.database,
            "https://id.example",
            "ann",
            SystemClock.now(),
            std::time::Duration::from_secs(60),
        )
        .await
        .unwrap();
        assert_eq!(reports.read().await.unwrap(), (vec![report("nobody's", 0)], 1));
        assert_eq!(reports.reseal().await.unwrap(), (1, 1));
        assert_eq!(reports.forget(&ann().unwrap()).unwrap(), 1);
        assert_eq!(reports.read().await.unwrap(), (vec![report("nobody's", 0)], 0));
        assert!(!fs::read_to_string(&reports.path).unwrap().contains("ann"));
    }
}
