//! What is measured: the cells, in groups that share one upstream.

use serde_json::Value;

use crate::Error;
use crate::host::{Host, Proxy};

/// How the upstream of several cells is set up.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub era: &'static str,
    pub kind: Kind,
}

/// What the cells of a group ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// tools/call, JSON answers.
    Call,
    /// tools/list of 200 tools (about 40 kB).
    List,
    /// tools/call, answers as one-event streams.
    Stream,
}

/// How many tools a list cell's server has.
const TOOLS: usize = 200;

impl Group {
    pub const ALL: [Self; 6] = [
        Self { era: "modern", kind: Kind::Call },
        Self { era: "legacy", kind: Kind::Call },
        Self { era: "modern", kind: Kind::List },
        Self { era: "legacy", kind: Kind::List },
        Self { era: "modern", kind: Kind::Stream },
        Self { era: "legacy", kind: Kind::Stream },
    ];

    pub fn tools(self) -> usize {
        if self.kind == Kind::List { TOOLS } else { 1 }
    }

    pub fn cells(self) -> Vec<Cell> {
        let sizes: &[usize] = if self.kind == Kind::Call { &[200, 20_000] } else { &[200] };
        let connections: &[usize] = if self.kind == Kind::Call { &[1, 16, 64] } else { &[1, 16] };
        let cell = |bytes: usize, connections: usize| Cell { group: self, bytes, connections };
        sizes.iter().flat_map(|b| connections.iter().map(move |c| cell(*b, *c))).collect()
    }
}

/// One load.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub group: Group,
    /// Bytes of text that the tool returns.
    pub bytes: usize,
    pub connections: usize,
}

impl Cell {
    pub fn name(self) -> String {
        let Self { group: Group { era, kind }, bytes, connections } = self;
        match kind {
            Kind::Call => format!("{era} call {bytes}B c{connections}"),
            Kind::List => format!("{era} list {TOOLS} tools c{connections}"),
            Kind::Stream => format!("{era} sse {bytes}B c{connections}"),
        }
    }

    /// One run of the load generator; its line of JSON.
    pub fn measure(self, host: &Host, proxy: &Proxy, warm_up: f64, seconds: f64) -> Result<Value, Error> {
        let mut load = host.mcpload("load", proxy);
        load.args(["--era", self.group.era])
            .args(["-c", &self.connections.to_string(), "-n", &self.bytes.to_string()])
            .args(["-w", &warm_up.to_string(), "-d", &seconds.to_string()]);
        if self.group.kind == Kind::List {
            load.args(["--method", "tools/list", "--tools", &TOOLS.to_string()]);
        }
        if let Some(pid) = proxy.pid() {
            load.args(["--pid", &pid.to_string()]);
        }
        let result = Host::json_line(load)?;
        let count = |key: &str| result.get(key).and_then(Value::as_u64).unwrap_or(0);
        if count("errors") > 0 || count("requests") == 0 {
            return Err(
                format!("{}, {}: not every answer was right: {result}", self.name(), proxy.name).into()
            );
        }
        Ok(result)
    }
}

/// The run in the middle by CPU time, or by p50 where there is none.
pub fn median(mut runs: Vec<Value>) -> Value {
    let key = |run: &Value| {
        let figure = |name: &str| run.get(name).and_then(Value::as_f64);
        figure("cpu_us").or(figure("p50_ms")).unwrap_or(f64::MAX)
    };
    runs.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let middle = runs.len() / 2;
    runs.into_iter().nth(middle).unwrap_or_default()
}
