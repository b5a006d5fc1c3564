//! (crate under construction)
fn main() {}
