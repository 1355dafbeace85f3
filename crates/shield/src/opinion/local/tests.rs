use super::*;
use crate::fragment::{Fragment, Kind};

fn model(more: &str) -> OnnxModel {
    let pinned = |file: &str| format!("{{ file = '{file}', sha256 = '{}' }}", "0a".repeat(32));
    let text = format!(
        "model = {}\ntokenizer = {}\nlabels = ['benign', 'injection', 'jailbreak']\nattack_labels = ['injection', 'jailbreak']\n{more}",
        pinned("m/model.onnx"),
        pinned("m/tokenizer.json"),
    );
    toml::from_str(&text).unwrap()
}

#[test]
fn the_worst_of_windows_that_meet_counts_and_every_piece_has_one() {
    let text = Text::of(Kind::Result, &[Fragment::new(Kind::Result, "/a", "x".repeat(100))]);
    let pieces = [0..60, 50..100];
    let window = |range: Range<usize>, attack: f32| Window { range, attack };
    let from = SeverityFrom { medium: Some(0.3), high: Some(0.5), critical: Some(0.9) };
    let found = findings(
        "guard",
        &text,
        &pieces,
        &[window(0..30, 0.4), window(25..60, 0.95), window(50..70, 0.1), window(68..100, 0.6)],
        &from,
    )
    .unwrap();
    let shown: Vec<_> =
        found.iter().map(|f| (f.places[0].range.clone(), f.severity, f.score.unwrap())).collect();
    assert_eq!(shown, [(0..60, Severity::Critical, 0.95), (68..100, Severity::High, 0.6)]);
    assert_eq!(found[0].rule, "opinion.guard");

    let nothing = findings("guard", &text, &pieces, &[window(0..60, 0.1), window(50..100, 0.2)], &from);
    assert_eq!(nothing, Ok(Vec::new()));
    for odd in [
        vec![],
        vec![window(0..60, 0.9)],
        vec![window(0..60, 0.9), window(40..99, 0.9)],
        vec![window(0..60, f32::NAN), window(50..100, 0.0)],
        vec![window(0..60, 1.5), window(50..100, 0.0)],
    ] {
        let found = findings("guard", &text, &pieces, &odd, &from);
        assert!(matches!(found, Err(NoOpinion::Malformed(_))), "{odd:?}");
    }
}

#[test]
fn a_probability_is_as_grave_as_the_operator_says() {
    let severity = |from: &SeverityFrom, attack: f32| from.severity(attack);
    let default = SeverityFrom::default();
    assert_eq!((severity(&default, 0.49), severity(&default, 0.5)), (None, Some(Severity::High)));
    let only_medium: SeverityFrom = toml::from_str("medium = 0.8").unwrap();
    assert_eq!(severity(&only_medium, 0.99), Some(Severity::Medium));
}

/// attacks.md SC-12.
#[test]
fn a_file_that_is_called_as_a_program_is_none_and_what_cannot_work_is_named() {
    assert_eq!(model("").problems(), Vec::<String>::new());
    for name in ["model.pt", "model.PTH", "pytorch_model.bin", "model.pkl", "model.joblib", "weights.npz"] {
        let mut model = model("");
        model.model.file = name.into();
        let problems = model.problems();
        assert!(problems.len() == 1 && problems[0].contains("run code"), "{name}: {problems:?}");
    }
    for name in ["model.safetensors", "model", "onnx", "model.onnx.gz", "model.rten"] {
        let mut model = model("");
        model.model.file = name.into();
        assert!(model.problems()[0].contains("ends in `.onnx`"), "{name}");
    }
    let one = |change: &dyn Fn(&mut OnnxModel), words: &str| {
        let mut model = model("");
        change(&mut model);
        let problems = model.problems();
        assert!(problems.len() == 1 && problems[0].contains(words), "{words}: {problems:?}");
    };
    one(&|m| m.tokenizer.file = "tokenizer.model".into(), "onnx.tokenizer.file");
    one(&|m| m.model.sha256 = "0a".repeat(31), "onnx.model.sha256");
    one(&|m| m.tokenizer.sha256 = "x".repeat(64), "onnx.tokenizer.sha256");
    one(&|m| m.labels.push("benign".into()), "onnx.labels");
    one(&|m| m.attack_labels = vec!["attack".into()], "none of `onnx.labels`");
    one(&|m| m.attack_labels.clear(), "onnx.attack_labels");
    one(&|m| m.attack_labels.push("injection".into()), "twice");
    one(&|m| m.attack_labels.push("benign".into()), "everything");
    one(&|m| m.severity_from = SeverityFrom { medium: None, high: None, critical: None }, "severity_from");
    one(&|m| m.severity_from.critical = Some(0.4), "severity_from");
    one(&|m| m.severity_from.high = Some(0.0), "severity_from");
    one(&|m| m.severity_from.high = Some(f32::NAN), "severity_from");
    one(&|m| m.max_tokens = 8, "max_tokens");
    one(&|m| m.max_tokens = 5000, "max_tokens");
}
