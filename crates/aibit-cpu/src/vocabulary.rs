//! The graph's enums as the kernels have them: neither crate depends on the other, and this is the one place that
//! converts.

use aibit_graph::{ActivationFunction, ActivationPrecision, RopeStyle};

pub(crate) fn precision(precision: ActivationPrecision) -> aibit_kernels::ActivationPrecision {
    match precision {
        ActivationPrecision::Int8 => aibit_kernels::ActivationPrecision::Int8,
        ActivationPrecision::Int8Asym => aibit_kernels::ActivationPrecision::Int8Asym,
        ActivationPrecision::Int8x2 => aibit_kernels::ActivationPrecision::Int8x2,
    }
}

pub(crate) fn function(function: ActivationFunction) -> aibit_kernels::Activation {
    match function {
        ActivationFunction::GeluTanh => aibit_kernels::Activation::GeluTanh,
        ActivationFunction::GeluErf => aibit_kernels::Activation::GeluErf,
        ActivationFunction::Relu => aibit_kernels::Activation::Relu,
        ActivationFunction::Silu => aibit_kernels::Activation::Silu,
        ActivationFunction::Tanh => aibit_kernels::Activation::Tanh,
        ActivationFunction::QuickGelu => aibit_kernels::Activation::QuickGelu,
        ActivationFunction::Sigmoid => aibit_kernels::Activation::Sigmoid,
    }
}

/// Whether the elements of a pair are neighbours.
pub(crate) fn is_adjacent(style: RopeStyle) -> bool {
    match style {
        RopeStyle::NeoX => false,
        RopeStyle::GptJ => true,
    }
}
