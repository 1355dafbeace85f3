//! The body of `add-checkpoint` (C2SP tlog-witness).

use crate::tree::Hash;

/// The most lines that a proof has.
const MOST_HASHES: usize = 63;

/// What a log asks a witness for: to sign `checkpoint`, which the tree of `old` entries grows into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// How many entries the checkpoint covers that the witness signed last; 0 for none.
    pub old: u64,
    /// The consistency proof (RFC 9162 §2.1.4), empty if `old` is 0.
    pub proof: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

impl AddCheckpoint {
    /// The body.
    pub fn encode(&self) -> String {
        let proof: String = self.proof.iter().map(|hash| format!("{hash}\n")).collect();
        format!("old {}\n{proof}\n{}", self.old, self.checkpoint)
    }

    /// The request in a body; `None` if it is none.
    pub fn parse(body: &str) -> Option<Self> {
        let (head, checkpoint) = body.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let digits = lines.next()?.strip_prefix("old ")?;
        let old = digits.parse().ok().filter(|old: &u64| old.to_string() == digits)?;
        let proof = lines.map(|line| line.parse().ok()).collect::<Option<Vec<Hash>>>()?;
        (proof.len() <= MOST_HASHES && checkpoint.ends_with('\n')).then(|| Self {
            old,
            proof,
            checkpoint: checkpoint.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_it_is_written_and_in_no_other_spelling() {
        let note = "log.example/a\n3\nAAAA=\n\n— log.example/a AAAA\n";
        let asked = AddCheckpoint {
            old: 2,
            proof: vec![Hash::leaf(b"a"), Hash::leaf(b"b")],
            checkpoint: note.to_owned(),
        };
        assert_eq!(AddCheckpoint::parse(&asked.encode()), Some(asked.clone()));
        let first = AddCheckpoint { old: 0, proof: Vec::new(), ..asked.clone() };
        assert_eq!(first.encode(), format!("old 0\n\n{note}"));
        assert_eq!(AddCheckpoint::parse(&first.encode()), Some(first));
        let good = asked.encode();
        for bad in [
            "",
            "old 2",
            "old 2\n\n",
            &good.replace("old 2", "old 02"),
            &good.replace("old 2", "old -2"),
            &good.replace("old 2", "Old 2"),
            &good.replace("old 2\n", "old 2 \n"),
            &good.replace("old 2\n", "old 2\nnonsense\n"),
            good.trim_end(),
            &format!("old 2\n{}\n{note}", format!("{}\n", Hash::leaf(b"a")).repeat(64)),
        ] {
            assert_eq!(AddCheckpoint::parse(bad), None, "{bad:?}");
        }
    }
}
