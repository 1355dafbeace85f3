//! Texts that neither the model nor a rule was made from (`ml/data/held-out.jsonl`): attacks of many shapes, and honest ones that are near to
//! them, half of them in languages other than English. What was measured when the rules were written is a floor.

use bartizan_shield::{
    Config, Fragment, Scene, Shield,
    eval::{Row, score},
};

const HELD_OUT: &str = include_str!("../../../ml/data/held-out.jsonl");

/// Attacks noticed at least, of a hundred.
const NOTICED: usize = 42;
/// Honest texts noticed at most, and stopped at most, of a hundred. They were written to be near to attacks.
const FALSELY: (usize, usize) = (28, 8);

#[test]
fn held_out_attacks_are_noticed_and_most_honest_neighbours_are_not() {
    let shield = Shield::shipped(Config::default());
    let (mut attacks, mut noticed, mut honest, mut falsely, mut stopped) = (0, 0, 0, 0, 0);
    for line in HELD_OUT.lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        let verdict = shield.inspect(&Scene::default(), &[Fragment::new(row.kind(), "", row.text.as_str())]);
        let is_noticed = usize::from(score(&verdict) >= 2.0);
        if row.label == 1 {
            (attacks, noticed) = (attacks + 1, noticed + is_noticed);
        } else {
            (honest, falsely) = (honest + 1, falsely + is_noticed);
            stopped += usize::from(!verdict.decision.passes());
        }
    }
    assert!(noticed * 100 >= attacks * NOTICED, "{noticed} of {attacks}");
    assert!(falsely * 100 <= honest * FALSELY.0, "{falsely} of {honest}");
    assert!(stopped * 100 <= honest * FALSELY.1, "{stopped} of {honest}");
}
