/// Why a graph cannot be executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Not a valid graph: bad JSON, an unknown op or attribute, a missing field.
    #[error("graph: {0}")]
    Parse(String),
    /// The JSON exceeds its limit.
    #[error("graph: {bytes} bytes of JSON, allowed are {allowed}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        allowed: usize,
    },
    /// An unsupported version of the op set.
    #[error(
        "graph version {found} is not supported by this build (1 to {supported}); \
         update aibit or pack the model again"
    )]
    Version {
        /// Version in the file.
        found: u32,
        /// The newest supported version, [`crate::Graph::NEWEST`].
        supported: u32,
    },
    /// A number out of range.
    #[error("graph: {what} is {found}, allowed is {allowed}")]
    OutOfRange {
        /// Description of the number.
        what: String,
        /// Its value.
        found: String,
        /// The allowed range.
        allowed: String,
    },
    /// A node reads a value that no earlier node has written, or writes one that has been written.
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
    /// A node names a tensor that the archive does not contain.
    #[error("graph node {node} ({op}): tensor `{tensor:.80}` is not in the archive")]
    MissingTensor {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
    },
    /// A node names a tensor that cannot be used in that role.
    #[error("graph node {node} ({op}): tensor `{tensor:.80}` {problem}")]
    TensorKind {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// Why not.
        problem: &'static str,
    },
    /// A tensor's shape does not match the node.
    #[error(
        "graph node {node} ({op}): tensor `{tensor:.80}` has shape {found:?}, the node requires {expected:?}"
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
        /// The shape that the node requires.
        expected: Vec<usize>,
    },
    /// An attribute contradicts another one or a value's width.
    #[error("graph node {node} ({op}): {problem}")]
    Attribute {
        /// Index of the node.
        node: usize,
        /// Its op.
        op: &'static str,
        /// The contradiction, with the numbers.
        problem: String,
    },
    /// The buffer plan does not match the values, or two live values overlap.
    #[error("graph buffer plan: {0}")]
    Plan(String),
}

impl From<serde_json::Error> for GraphError {
    fn from(error: serde_json::Error) -> Self {
        Self::Parse(beginning(&error))
    }
}

/// The beginning and position of a JSON error, since `serde_json` may quote any amount of the text.
pub(crate) fn beginning(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(300) {
        None => text,
        Some((end, _)) => format!("{}... at line {} column {}", &text[..end], error.line(), error.column()),
    }
}
