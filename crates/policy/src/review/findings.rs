//! What a review found, each under a name that the next review gives it too.

use super::{Review, Verdict};

/// One thing to decide about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its stable name: `unused:POLICY`, `over-broad:POLICY`.
    pub id: String,
    /// What it is, for people.
    pub words: String,
    /// Whether the right was not used at all.
    pub is_unused: bool,
}

impl Review {
    /// The rights that were not used, or give more than was used, by name.
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |right: &super::Right| {
            let (policy, used, granted) = (&right.policy, right.used.len(), right.granted);
            match right.verdict {
                Verdict::Fits => None,
                Verdict::Unused => Some(Finding {
                    id: format!("unused:{policy}"),
                    words: format!("nobody used the policy `{policy}`, which gives {granted} actions"),
                    is_unused: true,
                }),
                Verdict::OverBroad => Some(Finding {
                    id: format!("over-broad:{policy}"),
                    words: format!(
                        "the policy `{policy}` gives {granted} actions, of which {used} were used"
                    ),
                    is_unused: false,
                }),
            }
        };
        let mut found: Vec<_> = self.rights.iter().filter_map(finding).collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }
}
