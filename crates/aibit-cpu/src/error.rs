use aibit_format::FormatError;
use aibit_graph::GraphError;
use aibit_kernels::IsaError;

/// Why a package cannot be executed on this CPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The archive is broken.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The graph does not fit the weights, or this build.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The instruction set asked for is not there.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A stored tensor cannot be executed in its place in the graph.
    #[error("tensor `{name}` is stored as {scheme}, {problem}")]
    Scheme {
        /// Name of the tensor.
        name: String,
        /// Its scheme.
        scheme: aibit_format::Scheme,
        /// Why that does not fit.
        problem: &'static str,
    },
}
