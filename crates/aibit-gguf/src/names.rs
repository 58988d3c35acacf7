//! Names of a family's tensors, in its checkpoints and in GGUF files.

/// How a family's canonical tensor names and those of GGUF files correspond.
#[derive(Debug)]
pub struct TensorNames {
    /// Whole names outside of blocks: canonical, GGUF.
    pub top: &'static [(&'static str, &'static str)],
    /// What stands before a block's number in canonical names; GGUF has `blk.` there.
    pub block_prefix: &'static str,
    /// Modules in a block, without what follows the last dot: canonical, GGUF.
    pub block: &'static [(&'static str, &'static str)],
}

impl TensorNames {
    /// The name in GGUF files of a tensor with a canonical name.
    pub fn to_gguf(&self, canonical: &str) -> Option<String> {
        if let Some((_, name)) = self.top.iter().find(|(known, _)| *known == canonical) {
            return Some((*name).to_owned());
        }
        let (block, rest) = canonical.strip_prefix(self.block_prefix)?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        let (_, name) = self.block.iter().find(|(known, _)| *known == module)?;
        Some(format!("blk.{block}.{name}.{kind}"))
    }

    /// The canonical name of a tensor of a GGUF file.
    pub fn to_canonical(&self, gguf: &str) -> Option<String> {
        if let Some((name, _)) = self.top.iter().find(|(_, known)| *known == gguf) {
            return Some((*name).to_owned());
        }
        let (block, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        let (name, _) = self.block.iter().find(|(_, known)| *known == module)?;
        Some(format!("{}{block}.{name}.{kind}", self.block_prefix))
    }
}
