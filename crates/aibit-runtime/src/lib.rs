//! aibit-runtime
