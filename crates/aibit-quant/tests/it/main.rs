//! The quantizers against bitsandbytes' own results.

mod four_bit_golden;
mod groups;
mod int8_golden;
mod int8_properties;
