//! `bartizan.lock`, out and in.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use bartizan_model::ServerName;
use bartizan_shield::drift::{Definition, LockFile, Locked};
use bartizan_store::{
    Digest,
    pins::{Form, Key, Kind, Ruling},
};

use super::{Consent, Desk, End, Format, scan::Scan, show};
use crate::say_error;

/// Lock files are not larger than this, in bytes.
const LOCK_BYTES: u64 = 64 << 20;

/// The text of a lock file, `-` for standard input.
pub fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(LOCK_BYTES).read_to_string(&mut text)?;
    } else {
        let open = std::fs::File::open(file);
        open.and_then(|open| open.take(LOCK_BYTES).read_to_string(&mut text))
            .with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

/// What is in the text of a lock file.
pub fn parse(text: &str) -> anyhow::Result<LockFile> {
    text.parse().context("not a proper bartizan.lock")
}

impl Desk<'_> {
    /// Writes every approved form.
    pub(super) async fn export(
        &self,
        server: Option<&ServerName>,
        output: Option<PathBuf>,
    ) -> anyhow::Result<End> {
        let mut pins = Vec::new();
        for pin in self.pins.list(server).await? {
            let Some(record) = self.pins.read(&pin.key).await? else { continue };
            let Some(form) = record.form(pin.approved) else { continue };
            let kind = pin.key.kind.as_str().to_owned();
            let definition = Definition::read(&kind, &form.text)?;
            pins.push(Locked { server: pin.key.server, kind, definition });
        }
        let count = pins.len();
        let text = LockFile::new(pins)?.to_string();
        match output {
            None => (self.say)(&text)?,
            Some(file) => {
                let write = || {
                    let folder =
                        file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                    let mut draft = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
                    draft.write_all(text.as_bytes())?;
                    draft.persist(&file).map_err(|refused| refused.error)?;
                    std::io::Result::Ok(())
                };
                write().with_context(|| format!("cannot write {}", file.display()))?;
                say_error(&format!("{}: {count} definition(s)\n", file.display()));
            }
        }
        Ok(End::Clean)
    }

    /// Approves what a lock file holds and is not approved yet.
    pub(super) async fn import(
        &self,
        text: &str,
        server: Option<&ServerName>,
        is_check: bool,
        consent: &Consent,
        format: Format,
    ) -> anyhow::Result<End> {
        let mut records = Vec::new();
        let mut rulings = Vec::new();
        let mut suspect = 0;
        let file = parse(text)?;
        let scan = self.scan.as_ref().context("nothing judges the lock file")?;
        let catalogue = Scan::catalogue(self.pins, &file).await?;
        for locked in file.into_pins() {
            if server.is_some_and(|server| *server != locked.server) {
                continue;
            }
            let key = Key {
                server: locked.server.clone(),
                kind: Kind::named(&locked.kind).context("no such kind")?,
                name: locked.definition.name().to_owned(),
            };
            let known = self.pins.read(&key).await?;
            let hash = Digest(locked.definition.hash());
            if known.as_ref().is_some_and(|known| known.pin.is_open() && known.pin.approved == Some(hash)) {
                continue;
            }
            let findings = scan.findings(&catalogue, &locked);
            suspect += usize::from(findings.iter().any(|finding| finding.blocks));
            let form = Form {
                hash,
                body: Digest(locked.definition.body()),
                text: locked.definition.text().to_owned(),
                first_seen: self.now,
                approved_at: None,
                findings,
            };
            records.push(show::proposed(known, &key, &form, self.now));
            rulings.push(Ruling::Import { key, form });
        }
        self.show(&records, format).await?;
        if is_check {
            return Ok(if rulings.is_empty() { End::Clean } else { End::Findings });
        }
        if rulings.is_empty() {
            say_error("everything in it is approved already\n");
            return Ok(End::Clean);
        }
        if suspect > 0 {
            say_error(&format!(
                "something is found in {suspect} definition(s) for which the gate would hold them (`!` above)\n"
            ));
        }
        self.carry_out(&rulings, "import", consent).await
    }
}

/// What a file in a repository is like: a lock file is no secret.
fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
