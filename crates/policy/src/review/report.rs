//! A review for people.

use std::fmt;

use super::{Review, Tally, Verdict};

impl fmt::Display for Review {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>10} {:>12} {:>9}  verdict", "right", "uses", "last used", "actions")?;
        for right in &self.rights {
            let verdict = match right.verdict {
                Verdict::Fits => "",
                Verdict::OverBroad => "gives more than was used",
                Verdict::Unused => "never used",
            };
            let actions = format!("{}/{}", right.used.len(), right.granted);
            writeln!(
                f,
                "{:<40} {:>10} {:>12} {actions:>9}  {verdict}",
                right.policy,
                right.tally.uses,
                day(right.tally)
            )?;
        }
        writeln!(f, "\n{:<40} {:>10} {:>12}  roles", "person", "uses", "last seen")?;
        for (user, person) in &self.people {
            let roles = person.roles.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            writeln!(f, "{user:<40} {:>10} {:>12}  {roles}", person.tally.uses, day(person.tally))?;
        }
        for (role, policies) in &self.roles {
            let used: Vec<String> =
                policies.iter().map(|(policy, tally)| format!("`{policy}` {}×", tally.uses)).collect();
            writeln!(f, "role {role}: {}", used.join(", "))?;
        }
        for (server, credential) in &self.credentials {
            if credential.not_recorded {
                writeln!(
                    f,
                    "credential of {server}: no call recorded the scopes it needed, so nothing is proposed"
                )?;
                continue;
            }
            for (scope, tally) in &credential.scopes {
                writeln!(
                    f,
                    "credential of {server}: scope {scope}, {} uses, last {}",
                    tally.uses,
                    day(*tally)
                )?;
            }
        }
        for (id, text) in &self.patch {
            match text {
                Some(text) => writeln!(f, "\n+ {id}\n{text}")?,
                None => writeln!(f, "\n- {id}")?,
            }
        }
        let replay = &self.replay;
        writeln!(
            f,
            "\nreplay: {} distinct queries asked again, {} broken",
            replay.asked,
            replay.broken.len()
        )?;
        if replay.not_repeatable > 0 {
            writeln!(
                f,
                "  {} are denied today as well, or their arguments were not recorded",
                replay.not_repeatable
            )?;
        }
        if replay.not_kept > 0 {
            writeln!(f, "  {} uses were beyond the bound and not asked again", replay.not_kept)?;
        }
        Ok(())
    }
}

/// The day of the last use.
fn day(tally: Tally) -> String {
    let time = i64::try_from(tally.last).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    time.filter(|_| tally.uses > 0).map_or_else(|| "never".into(), |t| t.date().to_string())
}
