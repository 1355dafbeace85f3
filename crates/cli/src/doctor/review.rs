//! Whether rights are reviewed when they should be, and what was found is decided about.

use bartizan_model::{Clock, SystemClock, Timestamp};
use bartizan_policy::ReviewConfig;
use bartizan_store::{
    Reviews, StoredReviews,
    reviews::{Finding, Reviewed},
};

use super::Check;
use crate::{
    config::Config,
    state::{NoState, State},
};

const ID: &str = "policy.review";

/// Looks at the reviews of the gate in `state`.
pub async fn check(state: &State, config: &Config) -> Check {
    let Some(review) = config.policy.review else {
        return Check::warn(ID, "rights are not reviewed", "set [policy.review] every, such as \"30d\"");
    };
    let looked = async {
        let stored = StoredReviews::new(state.database().await?);
        anyhow::Ok((stored.last().await?, stored.findings().await?))
    };
    match looked.await {
        Err(nobody) if nobody.is::<NoState>() => judged(&review, None, &[], SystemClock.now()),
        Ok((last, findings)) => judged(&review, last, &findings, SystemClock.now()),
        Err(error) => Check::unknown(
            ID,
            format!("reviews cannot be read: {error:#}"),
            "see `bartizan policy review list`",
        ),
    }
}

fn judged(review: &ReviewConfig, last: Option<Reviewed>, findings: &[Finding], now: Timestamp) -> Check {
    let every = review.every;
    let Some(last) = last else {
        return Check::pass(ID, format!("the first review is due {every} after the gate first runs"));
    };
    // A gate looks every ten minutes at most; a day's grace is for one that was down.
    let late = now.since(last.done_at.unwrap_or(last.begun_at)).as_secs();
    if late > every.0.as_secs().saturating_add(86_400) {
        return Check::warn(
            ID,
            format!(
                "overdue: the last review was {} days ago, and there should be one every {every}",
                late / 86_400
            ),
            "run the gate, or `bartizan policy review`",
        );
    }
    let open: Vec<_> = findings.iter().filter(|finding| finding.is_open(now)).collect();
    let is_late = |finding: &&&Finding| finding.decided.is_some() || now.since(finding.found_at) > every.0;
    let overdue: Vec<_> = open.iter().filter(is_late).map(|finding| finding.id.as_str()).collect();
    if !overdue.is_empty() {
        return Check::warn(
            ID,
            format!("overdue: {} wait(s) for a decision", overdue.join(", ")),
            "make the policy smaller, or `bartizan policy review accept|waive`",
        );
    }
    Check::pass(
        ID,
        format!("rights are reviewed every {every}; {} finding(s) wait for a decision", open.len()),
    )
}

#[cfg(test)]
mod tests {
    use bartizan_store::reviews::{Decided, Verdict};

    use super::*;
    use crate::doctor::Verdict as Came;

    #[test]
    fn a_late_review_and_a_late_decision_are_overdue() {
        let review: ReviewConfig = toml::from_str("every = \"10d\"").unwrap();
        let at = |day: u64| Timestamp::from_unix(1_800_000_000 + day * 86_400);
        let last = Some(Reviewed { begun_at: at(0), done_at: Some(at(0)) });
        let open = Finding { id: "unused:a".into(), words: String::new(), found_at: at(0), decided: None };
        let waived = |until| {
            let (by, why) = (String::new(), String::new());
            let decided = Decided { verdict: Verdict::Waived, by, why, at: at(0), until };
            Finding { decided: Some(decided), ..open.clone() }
        };
        let came = |last, findings: &[Finding], now| judged(&review, last, findings, now).verdict;
        assert_eq!(came(None, &[], at(0)), Came::Pass);
        assert_eq!(came(last, &[], at(11)), Came::Pass);
        assert_eq!(came(last, &[], at(12)), Came::Warn, "the review");
        assert_eq!(came(last, std::slice::from_ref(&open), at(10)), Came::Pass);
        assert_eq!(came(last, std::slice::from_ref(&open), at(11)), Came::Warn, "the decision");
        assert_eq!(came(last, &[waived(at(20))], at(11)), Came::Pass);
        assert_eq!(came(last, &[waived(at(5))], at(6)), Came::Warn, "what was waived until yesterday");
    }
}
