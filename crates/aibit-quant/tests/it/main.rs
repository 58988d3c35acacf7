//! The quantizers against bitsandbytes' own results.

mod int8_golden;
mod int8_properties;
