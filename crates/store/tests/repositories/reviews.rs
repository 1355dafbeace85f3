//! Reviews of rights, and what was decided about what they found.

use std::time::Duration;

use bartizan_store::{
    Reviews, StoredReviews,
    reviews::{Decided, Verdict},
};

use crate::bench::{at, each};

const EVERY: Duration = Duration::from_secs(100_000);

fn found(ids: &[&str]) -> Vec<(String, String)> {
    ids.iter().map(|id| ((*id).to_owned(), format!("about {id}"))).collect()
}

#[tokio::test]
async fn one_of_several_gates_reviews_when_it_is_due() {
    each(async |bench| {
        let gates = [StoredReviews::new(bench.open().await), StoredReviews::new(bench.open().await)];
        assert_eq!(gates[0].last().await.unwrap(), None);
        assert!(!gates[0].begin(EVERY, at(0)).await.unwrap(), "nothing is recorded yet to go by");
        assert!(!gates[1].begin(EVERY, at(99_999)).await.unwrap());
        let begun = [
            gates[0].begin(EVERY, at(100_000)).await.unwrap(),
            gates[1].begin(EVERY, at(100_000)).await.unwrap(),
        ];
        assert_eq!(begun.iter().filter(|begun| **begun).count(), 1);
        gates[0].finish(&[], at(100_001)).await.unwrap();
        assert!(!gates[0].begin(EVERY, at(199_999)).await.unwrap());
        assert!(gates[0].begin(EVERY, at(200_000)).await.unwrap());
        // That one never ended.
        assert!(!gates[1].begin(EVERY, at(200_100)).await.unwrap());
        assert!(gates[1].begin(EVERY, at(203_600)).await.unwrap());
        let last = gates[1].last().await.unwrap().unwrap();
        assert_eq!((last.begun_at, last.done_at), (at(203_600), Some(at(100_001))));
    })
    .await;
}

#[tokio::test]
async fn a_decision_stays_with_its_finding_and_runs_out() {
    each(async |bench| {
        let reviews = StoredReviews::new(bench.open().await);
        assert_eq!(
            reviews.finish(&found(&["unused:a", "unused:b"]), at(0)).await.unwrap(),
            ["unused:a", "unused:b"]
        );
        let waived = Decided {
            verdict: Verdict::Waived,
            by: "ann".to_owned(),
            why: "year's end".to_owned(),
            at: at(1),
            until: at(100),
        };
        assert!(reviews.decide("unused:a", &waived).await.unwrap());
        assert!(!reviews.decide("unused:z", &waived).await.unwrap());
        assert_eq!(reviews.finish(&found(&["unused:a", "unused:c"]), at(50)).await.unwrap(), ["unused:c"]);
        let findings = reviews.findings().await.unwrap();
        let ids: Vec<_> = findings.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(ids, ["unused:a", "unused:c"], "what is not found any more is gone");
        assert_eq!(findings[0].decided, Some(waived));
        assert_eq!((findings[0].found_at, findings[1].found_at), (at(0), at(50)));
        assert!(!findings[0].is_open(at(99)) && findings[0].is_open(at(100)) && findings[1].is_open(at(50)));
    })
    .await;
}
