//! Programs that must not exist: what the types forbid, so that no review has to.

#[test]
fn programs_that_must_not_exist_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/unwritable/*.rs");
}
