//! Prints the report of this host: `cargo run -p strata-host --example doctor [-- --json]`.
#![allow(clippy::print_stdout)]

fn main() -> Result<(), serde_json::Error> {
    let report = strata_host::examine(std::path::Path::new("/var/lib/strata"));
    if std::env::args().any(|a| a == "--json") {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", strata_host::render(&report, 110, false));
    }
    Ok(())
}
