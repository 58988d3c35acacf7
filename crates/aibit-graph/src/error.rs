/// Why a graph cannot be executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The text is not a graph: bad JSON, an unknown op or attribute, a missing field.
    #[error("graph: {0}")]
    Parse(String),
    /// The text is longer than any real graph.
    #[error("graph: {bytes} bytes of JSON, allowed are {allowed}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        allowed: usize,
    },
    /// The graph was written for another op set.
    #[error(
        "graph version {found} is not one that this build executes (1 to {supported}); \
         update aibit or pack the model again"
    )]
    Version {
        /// Version in the file.
        found: u32,
        /// The newest, [`crate::Graph::NEWEST`].
        supported: u32,
    },
    /// A number lies outside its limits.
    #[error("graph: {what} is {found}, allowed is {allowed}")]
    OutOfRange {
        /// Which number.
        what: String,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },
    /// A node reads a value that no earlier node has written, or writes one twice.
    #[error("graph node {node} ({op}): value {value} {problem}")]
    Value {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// Index of the value.
        value: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A node names a tensor that the archive does not hold.
    #[error("graph node {node} ({op}): tensor `{tensor:.80}` is not in the archive")]
    MissingTensor {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
    },
    /// A node names a tensor that is nothing it can take in that place.
    #[error("graph node {node} ({op}): tensor `{tensor:.80}` {problem}")]
    TensorKind {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// What it is.
        problem: &'static str,
    },
    /// A tensor's shape does not fit the node that uses it.
    #[error(
        "graph node {node} ({op}): tensor `{tensor:.80}` has shape {found:?}, the node needs {expected:?}"
    )]
    TensorShape {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// Its shape in the archive.
        found: Vec<usize>,
        /// The shape that the node's values ask for.
        expected: Vec<usize>,
    },
    /// An attribute contradicts another, or a value's width.
    #[error("graph node {node} ({op}): {problem}")]
    Attribute {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// The contradiction, with the numbers.
        problem: String,
    },
    /// The buffer plan does not fit the values, or lets two live values overlap.
    #[error("graph buffer plan: {0}")]
    Plan(String),
}

impl From<serde_json::Error> for GraphError {
    fn from(error: serde_json::Error) -> Self {
        Self::Parse(beginning(&error))
    }
}

/// The beginning of a JSON error's text, which may repeat any amount of what was read, and where it is.
pub(crate) fn beginning(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(300) {
        None => text,
        Some((end, _)) => format!("{}... at line {} column {}", &text[..end], error.line(), error.column()),
    }
}
