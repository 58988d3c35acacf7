//! Tensor names of a family, in its checkpoints and in GGUF files.

/// The mapping between a family's canonical tensor names and those in GGUF files.
#[derive(Debug)]
pub struct TensorNames {
    /// Names outside blocks: canonical, GGUF.
    pub top: &'static [(&'static str, &'static str)],
    /// The prefix of a block's number in canonical names, which is `blk.` in GGUF.
    pub block_prefix: &'static str,
    /// Modules in a block, without the part after the last dot: canonical, GGUF.
    pub block: &'static [(&'static str, &'static str)],
}

impl TensorNames {
    /// The GGUF name of a tensor with a canonical name.
    pub fn to_gguf(&self, canonical: &str) -> Option<String> {
        if let Some((_, name)) = self.top.iter().find(|(known, _)| *known == canonical) {
            return Some((*name).to_owned());
        }
        let (block, rest) = canonical.strip_prefix(self.block_prefix)?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        let (_, name) = self.block.iter().find(|(known, _)| *known == module)?;
        Some(format!("blk.{block}.{name}.{kind}"))
    }

    /// The canonical name of a tensor in a GGUF file.
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
