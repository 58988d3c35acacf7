//! aibit-kernels
