//! docs/attacks.md says what is so.

use std::{fs, path::Path};

use bartizan_trials::matrix::Matrix;

#[test]
fn the_page_of_attacks_is_the_one_the_registry_makes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let matrix = Matrix::read(&root).unwrap();
    assert_eq!(matrix.faults(&root).unwrap(), Vec::<String>::new());
    assert_eq!(matrix.attacks().len(), 160, "the whole catalogue");
    assert!(matrix.trials().len() > 50, "the trials were found");
    let written = fs::read_to_string(root.join("docs/attacks.md")).unwrap();
    assert!(written == matrix.to_string(), "docs/attacks.md is out of date: run `just matrix`");
}
