/// Why values could not be quantized.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum QuantError {
    /// A weight is NaN or infinite; one such value would spoil its whole row.
    #[error(
        "row {row}, column {column} holds {value}: a weight must be finite to be quantized; \
         check the source checkpoint"
    )]
    NotFinite {
        /// Row (output feature) of the value.
        row: usize,
        /// Column (input feature) of the value.
        column: usize,
        /// The value itself.
        value: f32,
    },
    /// A weight is finite but beyond fp16, which the reference rounds through first.
    #[error(
        "row {row}, column {column} holds {value}, which rounds to infinity in fp16 (largest finite \
         value 65504), the precision that INT8 row-wise quantization starts from; keep this tensor in f32"
    )]
    BeyondF16 {
        /// Row (output feature) of the value.
        row: usize,
        /// Column (input feature) of the value.
        column: usize,
        /// The value before rounding.
        value: f32,
    },
}
