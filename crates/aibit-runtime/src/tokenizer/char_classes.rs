use super::pretokenize::Class::{self, Other as O};
pub(super) static RUNS: [(u32, Class); 1] = [(0x0, O)];
