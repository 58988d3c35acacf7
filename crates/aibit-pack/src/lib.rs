//! aibit-pack
