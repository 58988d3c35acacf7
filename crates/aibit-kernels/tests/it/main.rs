//! Every kernel gives the same bits on every instruction set, thread count and batching, and equals
//! bitsandbytes where it claims to.

mod attention;
mod blocks;
mod golden;
mod outliers;
mod same_bits;
