//! Prints docs/attacks.md (`just matrix`).

use std::{
    io::{self, Write},
    path::Path,
};

use bartizan_trials::matrix::Matrix;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let matrix = Matrix::read(&root)?;
    let faults = matrix.faults(&root)?;
    if !faults.is_empty() {
        return Err(io::Error::other(faults.join("\n")));
    }
    write!(io::stdout(), "{matrix}")
}
