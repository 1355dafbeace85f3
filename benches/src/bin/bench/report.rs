//! The table on stdout and the same as JSON.

use serde_json::{Map, Value, json};

/// Figures that are compared as ratios, as mcpload names them.
const COMPARED: [&str; 3] = ["cpu_us", "p50_ms", "p99_ms"];

/// The column titles.
pub fn head(with_peer: bool) {
    let one = "CPU us    p50    p99 ms";
    let peer = if with_peer { format!(" | peer {one}") } else { String::new() };
    println!(
        "{:27} | direct p50    p99 | floor {one} | gate  {one}{peer} | gate/floor CPU   p50   p99",
        "cell"
    );
}

/// Prints one cell; returns it as JSON. `runs` are (proxy, figures).
pub fn row(name: &str, runs: Vec<(&'static str, Value)>) -> Value {
    let figure = |proxy: &str, key: &str| {
        runs.iter().find(|(n, _)| *n == proxy).and_then(|(_, run)| run.get(key)).and_then(Value::as_f64)
    };
    let show = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
    let columns = |proxy: &str| {
        let [cpu, p50, p99] = COMPARED.map(|key| figure(proxy, key));
        format!("{:>12} {:>6} {:>9}", show(cpu, 1), show(p50, 3), show(p99, 3))
    };
    let ratio = |key: &str| Some(figure("gate", key)? / figure("floor", key)?);
    let peer = if runs.iter().any(|(n, _)| *n == "peer") {
        format!(" | {}", columns("peer"))
    } else {
        String::new()
    };
    let [cpu, p50, p99] = COMPARED.map(|key| show(ratio(key), 2));
    println!(
        "{name:27} | {:>10} {:>6} | {} | {}{peer} | {cpu:>14} {p50:>5} {p99:>5}",
        show(figure("direct", "p50_ms"), 3),
        show(figure("direct", "p99_ms"), 3),
        columns("floor"),
        columns("gate"),
    );
    let ratios: Map<String, Value> =
        COMPARED.into_iter().map(|key| (key.to_owned(), json!(ratio(key)))).collect();
    let runs: Map<String, Value> = runs.into_iter().map(|(proxy, run)| (proxy.to_owned(), run)).collect();
    json!({ "cell": name, "runs": runs, "gate_to_floor": ratios })
}
