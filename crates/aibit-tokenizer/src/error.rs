use aibit_format::FormatError;

/// Why a tokenizer cannot be used, or a text not be encoded for a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The archive is broken.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// `tokenizer.json` cannot be used.
    #[error("tokenizer.json: {0:.1000}")]
    Json(String),
    /// The compiled tokenizer cannot be used.
    #[error("tokenizer.bin: {0:.1000}")]
    Compiled(String),
    /// A token of the tokenizer that the model has no row for.
    #[error(
        "the text holds the token {token:?} with id {id}, which is not in the model's vocabulary of {vocabulary} ids; \
         leave it out"
    )]
    TokenBeyond {
        /// The token, written out.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        vocabulary: usize,
    },
}
