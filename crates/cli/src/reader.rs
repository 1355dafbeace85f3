//! The process that reads documents for a gate: this binary, started again, in a cell.

use std::{io::Write, process::ExitCode, time::Duration};

use bartizan_gateway::documents::Readers;
use bartizan_sandbox::cell::{self, CellLimits};
use bartizan_shield::document::{Limits, wire};

use crate::doctor::Check;

/// The first argument that makes this binary a reader.
pub const ARGUMENT: &str = "__read";

/// The program's own pages are part of it.
const LIMITS: CellLimits = CellLimits { memory: 768 << 20, processor: Duration::from_secs(60) };

/// Reads until the gate is gone. Must be called before anything starts a thread.
pub fn serve() -> ExitCode {
    // Where a reader stumbles, its complaint holds words of the document.
    std::panic::set_hook(Box::new(|_| {}));
    // Fail closed: what cannot be confined does not read.
    let Ok(cell) = cell::enter(LIMITS) else { return ExitCode::from(2) };
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let said = output.write_all(&[cell.to_byte()]).and_then(|()| output.flush());
    match said.and_then(|()| wire::serve(input, output, Limits::default())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The readers of a gate.
pub fn readers() -> anyhow::Result<Readers> {
    Ok(Readers::new(crate::own_binary()?.into(), ARGUMENT))
}

/// What confines readers here.
pub async fn check() -> Check {
    let id = "documents.reader";
    let cell = match readers() {
        Ok(readers) => readers.probe().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let always = "limits on memory, time and files, no new privileges, an empty environment";
    match cell {
        Ok(cell) if cell.files && cell.calls => {
            Check::pass(id, format!("documents are read by a process with Landlock, seccomp, {always}"))
        }
        Ok(cell) => {
            let lacks = match (cell.files, cell.calls) {
                (false, true) => "Landlock",
                (true, false) => "seccomp",
                _ => "Landlock and seccomp",
            };
            Check::warn(
                id,
                format!("documents are read by a process with {always}; this kernel has no {lacks}"),
                "use a Linux kernel of 5.13 or newer with both switched on, or set `[shield.documents] unread = \"block\"`",
            )
        }
        Err(error) => Check::fail(
            id,
            format!("no process to read documents starts: {error}"),
            "the binary must be readable and executable for the gate's user; until then documents count as unread",
        ),
    }
}
