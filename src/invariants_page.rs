//! `docs/invariants.md` names tests, and each of them is there.

use std::path::Path;

#[test]
fn every_test_that_the_page_of_invariants_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/invariants.md")).unwrap();
    let mut tests = 0;
    let mut file = String::new();
    // Every second piece is between backticks.
    for quoted in page.split('`').skip(1).step_by(2) {
        if quoted.ends_with(".rs") {
            file = std::fs::read_to_string(root.join(quoted)).unwrap_or_else(|error| panic!("{quoted}: {error}"));
        } else if quoted.matches('_').count() > 3 {
            assert!(file.contains(&format!("fn {quoted}(")), "{quoted} is not where the page says");
            tests += 1;
        }
    }
    assert!(tests >= 20, "only {tests} tests were found on the page");
}
