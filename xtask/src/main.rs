//! Set-up and test tasks.
fn main() {}
