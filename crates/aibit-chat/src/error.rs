/// Why a conversation cannot be written as text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file about conversations cannot be used.
    #[error("{file}: {problem:.1000}")]
    Settings {
        /// Name of the file.
        file: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A chat template cannot be used, or refuses the conversation.
    #[error("{file}, chat template: {problem:.1000}")]
    Template {
        /// Name of the file that it comes from.
        file: &'static str,
        /// What is wrong, with the line of the template where that is known.
        problem: String,
    },
}
