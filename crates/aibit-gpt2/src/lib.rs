//! aibit-gpt2
