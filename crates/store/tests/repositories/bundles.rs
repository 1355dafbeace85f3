//! Which bundle was taken up.

use bartizan_store::{Bundles, Digest, StoredBundles, bundles::Taken};

use crate::bench::{at, each};

fn taken(version: u64, content: &str) -> Taken {
    Taken { version, digest: Digest::of(content.as_bytes()) }
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn the_version_of_a_key_only_rises_on_every_gate() {
    each(async |bench| {
        let (here, there) = (StoredBundles::new(bench.open().await), StoredBundles::new(bench.open().await));
        let (ann, both) = (keys(&["ann"]), keys(&["ann", "bob"]));
        assert_eq!(here.newest(&ann).await.unwrap(), None);
        assert!(here.advance(&ann, taken(3, "three"), at(1)).await.unwrap());
        assert!(here.advance(&ann, taken(3, "three"), at(2)).await.unwrap(), "the same once more");
        assert!(!there.advance(&ann, taken(3, "other"), at(3)).await.unwrap(), "one version, one content");
        assert!(!there.advance(&ann, taken(2, "two"), at(4)).await.unwrap());
        assert_eq!(there.newest(&both).await.unwrap(), Some(taken(3, "three")));
        assert!(!there.advance(&both, taken(2, "two"), at(5)).await.unwrap());
        assert_eq!(there.newest(&keys(&["bob"])).await.unwrap(), None, "all of it or nothing");
        assert!(there.advance(&both, taken(4, "four"), at(6)).await.unwrap());
        assert_eq!(here.newest(&ann).await.unwrap(), Some(taken(4, "four")));
        assert!(
            here.advance(&keys(&["carl"]), taken(1, "one"), at(7)).await.unwrap(),
            "each key counts for itself"
        );
    })
    .await;
}
