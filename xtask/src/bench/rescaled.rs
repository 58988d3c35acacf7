//! SmolLM2 with scaled norms: the same function with activations of another magnitude.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use super::shape::{path, run};
use crate::{fixtures, root};

/// The int8 package of SmolLM2 with norms multiplied by `scale`, a power of two, and the following layers divided by
/// it. Its head is untied, since the embedding is unchanged.
pub(super) fn smollm2(aibit: &Path, scale: f32) -> anyhow::Result<PathBuf> {
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let package = folder.join(format!("smollm2-norms{scale}-int8.aibit"));
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    if modified(&package).is_ok_and(|packed| modified(aibit).is_ok_and(|built| built <= packed)) {
        return Ok(package);
    }
    let floats = folder.join("smollm2-hf");
    if !floats.join("model.safetensors").is_file() {
        let unpacked = folder.join("smollm2-f32.aibit");
        let source = fixtures::smollm2()?;
        run(
            aibit,
            &["pack", path(&source)?, "-o", path(&unpacked)?, "-q", "f32", "--requantize", "--force"],
        )?;
        let to = ["--to", "hf", "--dtype", "f32", "--force", "-o", path(&floats)?];
        run(aibit, &[&["export", path(&unpacked)?], &to[..]].concat())?;
        fs::remove_file(unpacked)?;
    }
    let rescaled = folder.join(format!("smollm2-norms{scale}"));
    rescale(&floats, &rescaled, scale)?;
    run(aibit, &["pack", path(&rescaled)?, "-o", path(&package)?, "-q", "int8", "--force"])?;
    fs::remove_dir_all(rescaled)?;
    Ok(package)
}

/// Writes the model in `from`, of the Llama family in f32, to `to`, rescaled.
fn rescale(from: &Path, to: &Path, scale: f32) -> anyhow::Result<()> {
    const HEAD: &str = "lm_head.weight";
    const EMBEDDING: &str = "model.embed_tokens.weight";
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() != "model.safetensors" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let config_path = to.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&config_path)?)?;
    config["tie_word_embeddings"] = false.into();
    fs::write(&config_path, serde_json::to_vec_pretty(&config)?)?;

    let mut file = BufReader::new(File::open(from.join("model.safetensors"))?);
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = vec![0; usize::try_from(u64::from_le_bytes(length))?];
    file.read_exact(&mut header)?;
    let mut header: Map<String, Value> = serde_json::from_slice(&header)?;
    header.remove("__metadata__");
    let offsets = |entry: &Value| -> anyhow::Result<(u64, u64)> {
        let of = |index: usize| entry["data_offsets"][index].as_u64().context("data_offsets");
        ensure!(entry["dtype"] == "F32", "{}: a tensor that is not in F32", from.display());
        Ok((of(0)?, of(1)?))
    };
    let mut tensors = Vec::new();
    for (name, entry) in &header {
        tensors.push((offsets(entry)?, name.clone()));
    }
    tensors.sort_unstable();
    let end = tensors.last().context("tensors")?.0.1;
    ensure!(!header.contains_key(HEAD), "{}: the head is not the embedding", from.display());
    let embedding = header.get(EMBEDDING).context("the embedding")?.clone();
    let (first, last) = offsets(&embedding)?;
    header.insert(
        HEAD.to_owned(),
        json!({ "dtype": "F32", "shape": embedding["shape"], "data_offsets": [end, end + last - first] }),
    );
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::new(File::create(to.join("model.safetensors"))?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut head = Vec::new();
    for ((start, end), name) in tensors {
        let mut bytes = vec![0; usize::try_from(end - start)?];
        file.read_exact(&mut bytes)?;
        if name == EMBEDDING {
            head = times(&bytes, 1.0 / scale);
        }
        out.write_all(&times(&bytes, factor(&name, scale)))?;
    }
    out.write_all(&head)?;
    out.flush()?;
    Ok(())
}

/// The factor of a tensor.
fn factor(name: &str, scale: f32) -> f32 {
    let behind_a_norm = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"];
    if name.ends_with("norm.weight") {
        scale
    } else if behind_a_norm.iter().any(|layer| name.ends_with(&format!(".{layer}.weight"))) {
        1.0 / scale
    } else {
        1.0
    }
}

fn times(bytes: &[u8], factor: f32) -> Vec<u8> {
    let values = bytes.as_chunks().0.iter();
    values.flat_map(|bytes| (f32::from_le_bytes(*bytes) * factor).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_the_layers_behind_them_are_scaled() {
        for (name, expected) in [
            ("model.layers.3.input_layernorm.weight", 16.0),
            ("model.layers.3.post_attention_layernorm.weight", 16.0),
            ("model.norm.weight", 16.0),
            ("model.layers.3.self_attn.v_proj.weight", 0.0625),
            ("model.layers.3.mlp.up_proj.weight", 0.0625),
            ("model.layers.3.mlp.down_proj.weight", 1.0),
            ("model.layers.3.self_attn.o_proj.weight", 1.0),
            ("model.embed_tokens.weight", 1.0),
        ] {
            assert_eq!(factor(name, 16.0), expected, "{name}");
        }
    }
}
