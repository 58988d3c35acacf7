//! aibit-graph
