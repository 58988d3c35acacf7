//! aibit
fn main() {}
