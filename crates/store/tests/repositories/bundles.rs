//! Which bundle was taken up.

use bartizan_store::{
    Bundles, DatabaseError, Digest, StoredBundles,
    bundles::{Followed, Taken},
};

use crate::bench::{Bench, at, each, sealer};

fn taken(version: u64, content: &str) -> Taken {
    Taken { version, digest: Digest::of(content.as_bytes()) }
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

async fn open(bench: &Bench) -> StoredBundles {
    StoredBundles::new(bench.open().await, sealer(), None)
}

#[tokio::test]
async fn the_version_of_a_key_only_rises_on_every_gate() {
    each(async |bench| {
        let (here, there) = (open(bench).await, open(bench).await);
        let (ann, both) = (keys(&["ann"]), keys(&["ann", "bob"]));
        assert_eq!(here.newest(&ann).await.unwrap(), None);
        assert!(here.advance(&ann, taken(3, "three"), None, at(1)).await.unwrap());
        assert!(here.advance(&ann, taken(3, "three"), None, at(2)).await.unwrap(), "the same once more");
        assert!(
            !there.advance(&ann, taken(3, "other"), None, at(3)).await.unwrap(),
            "one version, one content"
        );
        assert!(!there.advance(&ann, taken(2, "two"), None, at(4)).await.unwrap());
        assert_eq!(there.newest(&both).await.unwrap(), Some(taken(3, "three")));
        assert!(!there.advance(&both, taken(2, "two"), None, at(5)).await.unwrap());
        assert_eq!(there.newest(&keys(&["bob"])).await.unwrap(), None, "all of it or nothing");
        assert!(there.advance(&both, taken(4, "four"), None, at(6)).await.unwrap());
        assert_eq!(here.newest(&ann).await.unwrap(), Some(taken(4, "four")));
        assert!(
            here.advance(&keys(&["carl"]), taken(1, "one"), None, at(7)).await.unwrap(),
            "each key counts for itself"
        );
    })
    .await;
}

#[tokio::test]
async fn a_chain_of_keys_only_grows_on_every_gate() {
    each(async |bench| {
        let (here, there) = (open(bench).await, open(bench).await);
        let ann = keys(&["ann"]);
        assert_eq!(here.followed("root").await.unwrap(), None);
        let two = Some(("root", taken(2, "second"), "[1,2]"));
        assert!(here.advance(&ann, taken(1, "one"), two, at(1)).await.unwrap());
        let known = Followed { last: taken(2, "second"), links: Some("[1,2]".to_owned()) };
        assert_eq!(there.followed("root").await.unwrap(), Some(known.clone()));
        assert_eq!(there.followed("other").await.unwrap(), None, "each configuration has its own");
        for bad in [("root", taken(1, "first"), "[1]"), ("root", taken(2, "fork"), "[1,3]")] {
            assert!(!there.advance(&ann, taken(2, "two"), Some(bad), at(2)).await.unwrap(), "{bad:?}");
        }
        assert_eq!(here.newest(&ann).await.unwrap(), Some(taken(1, "one")), "all of it or nothing");
        let three = Some(("root", taken(3, "third"), "[1,2,3]"));
        assert!(there.advance(&ann, taken(2, "two"), three, at(3)).await.unwrap());
        assert_eq!(here.followed("root").await.unwrap().unwrap().last, taken(3, "third"));
    })
    .await;
}

/// Links that are not as they were written are none; how far they went is known beside the database, and the next bundle
/// that brings them along puts them back.
#[tokio::test]
async fn whoever_writes_to_the_database_changes_no_link_of_a_chain() {
    each(async |bench| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundles.seen");
        let bundles = StoredBundles::new(bench.open().await, sealer(), Some(file));
        let without = open(bench).await;
        let ann = keys(&["ann"]);
        let chain = Some(("root", taken(2, "second"), "[1,2]"));
        let known = Followed { last: taken(2, "second"), links: Some("[1,2]".to_owned()) };
        assert!(bundles.advance(&ann, taken(1, "one"), chain, at(1)).await.unwrap());
        bench.meddle("CREATE TABLE old_chains AS SELECT * FROM bundle_chains").await;
        let longer = Some(("root", taken(3, "third"), "[1,2,3]"));
        for (meddling, number) in [
            ("UPDATE bundle_chains SET links = 'x'", 2),
            ("UPDATE bundle_chains SET links = ''", 2),
            ("UPDATE bundle_chains SET links = '[1,2,3]'", 2),
            // Those of a row that was ours once.
            ("UPDATE bundle_chains SET links = (SELECT links FROM old_chains)", 3),
        ] {
            let (chain, known) = if number == 3 {
                assert!(bundles.advance(&ann, taken(2, "two"), longer, at(2)).await.unwrap());
                (longer, Followed { last: taken(3, "third"), links: Some("[1,2,3]".to_owned()) })
            } else {
                (chain, known.clone())
            };
            assert_eq!(bundles.followed("root").await.unwrap(), Some(known.clone()));
            bench.meddle(meddling).await;
            let lost = Followed { links: None, ..known.clone() };
            assert_eq!(bundles.followed("root").await.unwrap(), Some(lost), "{meddling}");
            assert_eq!(without.followed("root").await.unwrap(), None, "{meddling}");
            let version = if number == 3 { taken(2, "two") } else { taken(1, "one") };
            let fork = Some(("root", taken(number, "fork"), "[9]"));
            assert!(!bundles.advance(&ann, version, fork, at(3)).await.unwrap(), "{meddling}");
            assert!(bundles.advance(&ann, version, chain, at(4)).await.unwrap(), "{meddling}");
            assert_eq!(bundles.followed("root").await.unwrap(), Some(known.clone()), "{meddling}");
            assert_eq!(without.followed("root").await.unwrap(), Some(known), "{meddling}");
        }
    })
    .await;
}

#[tokio::test]
async fn whoever_writes_to_the_database_takes_no_version_back() {
    each(async |bench| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundles.seen");
        let bundles = StoredBundles::new(bench.open().await, sealer(), Some(file.clone()));
        let ann = keys(&["ann"]);
        let chain = |number: u64, word: &str| Some(("root", taken(number, word), "[]"));
        assert!(bundles.advance(&ann, taken(3, "three"), chain(1, "a"), at(1)).await.unwrap());
        bench.meddle("CREATE TABLE old_versions AS SELECT * FROM bundle_versions").await;
        bench.meddle("CREATE TABLE old_chains AS SELECT * FROM bundle_chains").await;
        assert!(bundles.advance(&ann, taken(5, "five"), chain(2, "b"), at(2)).await.unwrap());
        let now = async || {
            let chain = bundles.followed("root").await.unwrap().map(|followed| followed.last);
            (bundles.newest(&ann).await.unwrap(), chain)
        };
        let expected = (Some(taken(5, "five")), Some(taken(2, "b")));
        for tables in ["versions", "chains"] {
            let number = if tables == "versions" { "version" } else { "number" };
            let restore = format!("INSERT INTO bundle_{tables} SELECT * FROM old_{tables}");
            let lower = format!("UPDATE bundle_{tables} SET {number} = 1");
            // A row that is edited, an older one that was ours once, and none at all.
            for meddling in [vec![lower.as_str()], vec!["", restore.as_str()], vec![""]] {
                for step in meddling {
                    let step = if step.is_empty() {
                        format!("DELETE FROM bundle_{tables}")
                    } else {
                        step.to_owned()
                    };
                    bench.meddle(&step).await;
                }
                assert_eq!(now().await, expected, "{tables}");
                assert!(!bundles.advance(&ann, taken(4, "four"), chain(2, "b"), at(3)).await.unwrap());
                assert!(!bundles.advance(&ann, taken(6, "six"), chain(1, "a"), at(3)).await.unwrap());
            }
        }
        // What is newer is taken up as ever, over rows that are not ours too.
        bench.meddle("INSERT INTO bundle_versions SELECT * FROM old_versions").await;
        bench.meddle("UPDATE bundle_versions SET mark = 'x', version = 99").await;
        assert_eq!(now().await, expected, "a version nobody took up keeps no bundle out");
        assert!(bundles.advance(&ann, taken(6, "six"), chain(3, "c"), at(4)).await.unwrap());
        assert_eq!(now().await, (Some(taken(6, "six")), Some(taken(3, "c"))));

        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\t6\t", "\t4\t")).unwrap();
        assert!(
            matches!(bundles.newest(&ann).await, Err(DatabaseError::Beside(_))),
            "nor is the file believed"
        );
    })
    .await;
}
