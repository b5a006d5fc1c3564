//! What the tests of this crate share.

use std::io::Write;

/// Says that a test could not run here, and why: to the file named by `STRATA_TEST_SKIPS`, and on the terminal.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    if let Some(file) = std::env::var_os("STRATA_TEST_SKIPS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}
