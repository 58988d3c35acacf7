//! aibit-format
