//! The page.

use std::fmt::{self, Write};

use super::{Attack, Item, Matrix, State};

const HEAD: &str = "\
# Attacks

What Bartizan is tried against, what answers each attack, and which trial shows it. This page is written by `just matrix`
out of `crates/trials/attacks.toml`, `crates/trials/owasp.toml` and the names of the trials; a test holds it to that.

Every trial tells both halves: the attack fails, and the honest neighbour still works. They run against the real binary
(`cargo test --workspace`), over loopback, with a client and a server that write every byte themselves. An attack counts
by its effect (a tool called, a byte seen), and only then by the status that refused it.
";

const DEVIATIONS: &str = "\
## Where we differ from the catalogue

- **PH-12, \"re-serialised\", and big numbers.** The catalogue offers two ways: forward what was serialised again, or the
  very bytes after a strict check. We forward the bytes. Numbers of any size, `-0`, `1E+2`, escapes, key order and white
  space are data and arrive as they were written; what two parsers could read differently is refused instead (keys that
  stand twice, keys that differ in letter case only, lone surrogates, U+0000 in keys and names). So `1e999` and integers
  beyond 2^53 pass, and no reader in the gate decides anything by them.
- **PH-03, PO-08, \"re-serialised\".** The same: the message that was checked is the message that is sent, byte for byte,
  but for what is ours (ids, progress tokens, trace context, sealed handles, merged names, whose question it is).
- **PH-13, batches.** Refused everywhere but inside a 2025-03-26 session, the one revision that has them; there each member
  walks the path of a request of its own, and a batch never opens a session.
- **PH-06, a length beside chunks.** The catalogue wants 400. The HTTP reader takes the chunks, drops the length and closes
  the connection after the answer, as RFC 9112 §6.1 asks: nothing behind them is ever read as a request.
- **Statuses of refusals.** The catalogue has 403, 502, 503 and others. A request of 2026-07-28 that was read and is refused is
  answered under 200, where clients read the reason (docs/refusals.md); challenges, 429 and the protocol's own statuses stay.
- **SH-09, `initialize` with a session id.** The catalogue has it ignored; a session id that is not ours is refused (404),
  so nobody's choice is ever adopted.
";

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        let count = |state| self.attacks().iter().filter(|a| a.state() == state).count();
        writeln!(
            f,
            "Of {} attacks, {} are answered, {} in part, {} not yet, {} are not a gate's to answer. {} trials, {} more tests.\n",
            self.attacks().len(),
            count(State::Built),
            count(State::Partly),
            count(State::Later),
            count(State::NotOurs),
            self.trials().len(),
            self.attacks().iter().flat_map(|a| &a.elsewhere).collect::<std::collections::BTreeSet<_>>().len(),
        )?;
        writeln!(f, "{DEVIATIONS}")?;
        writeln!(f, "## Attack, mechanism, trial\n")?;
        writeln!(
            f,
            "Trials are functions in `crates/trials/tests/it/attacks/`; P0 must not ship unanswered.\n"
        )?;
        writeln!(f, "| attack | | mechanism | trials |\n|---|---|---|---|")?;
        for attack in self.attacks().iter().filter(|a| matches!(a.state(), State::Built | State::Partly)) {
            self.row(f, attack)?;
        }
        writeln!(f, "\n## Not built yet\n\n| attack | |\n|---|---|")?;
        for attack in self.attacks().iter().filter(|a| a.state() == State::Later) {
            writeln!(f, "| {} {} | {} |", attack.id, attack.name, attack.priority)?;
        }
        writeln!(f, "\n## Not ours\n\n| attack | | why |\n|---|---|---|")?;
        for attack in self.attacks() {
            if let Some(why) = &attack.not_ours {
                writeln!(f, "| {} {} | {} | {why} |", attack.id, attack.name, attack.priority)?;
            }
        }
        for list in &self.lists {
            writeln!(f, "\n## {}\n\n| item | control | trials |\n|---|---|---|", list.name)?;
            for item in &list.item {
                self.item(f, item)?;
            }
        }
        Ok(())
    }
}

impl Matrix {
    fn row(&self, f: &mut fmt::Formatter<'_>, attack: &Attack) -> fmt::Result {
        let Attack { id, name, priority, .. } = attack;
        write!(f, "| {id} {name} | {priority} | {}", attack.how.as_deref().unwrap_or_default())?;
        if let Some(missing) = &attack.missing {
            write!(f, "; *not yet:* {missing}")?;
        }
        let trials = self.trials_of(id).map(|t| format!("`{}::{}`", t.module, t.name));
        let elsewhere = attack.elsewhere.iter().map(|test| format!("`{test}`"));
        writeln!(f, " | {} |", trials.chain(elsewhere).collect::<Vec<_>>().join("<br>"))
    }

    fn item(&self, f: &mut fmt::Formatter<'_>, item: &Item) -> fmt::Result {
        write!(f, "| {} {} | ", item.id, item.title)?;
        match (&item.control, &item.not_ours) {
            (_, Some(why)) => write!(f, "not ours: {why}")?,
            (control, None) => f.write_str(control.as_deref().unwrap_or_default())?,
        }
        let of = |state: State| {
            let ids = item
                .attacks
                .iter()
                .filter(|id| self.attacks().iter().any(|a| a.id == **id && a.state() == state));
            ids.cloned().collect::<Vec<_>>().join(", ")
        };
        let mut tried = String::new();
        for (state, word) in [
            (State::Built, "tried"),
            (State::Partly, "in part"),
            (State::Later, "not built yet"),
            (State::NotOurs, "not ours"),
        ] {
            let ids = of(state);
            if !ids.is_empty() {
                let comma = if tried.is_empty() { "" } else { "; " };
                write!(tried, "{comma}{word}: {ids}")?;
            }
        }
        writeln!(f, " | {tried} |")
    }
}
