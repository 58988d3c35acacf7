//! Models of a real shape with seeded weights, for measurements that need no download.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::root;

/// GPT-2 124M: the shape that every engine's figures are known for.
pub(crate) const N_LAYER: usize = 12;
const N_HEAD: usize = 12;
pub(crate) const N_EMBD: usize = 768;
const N_CTX: usize = 1024;
pub(crate) const VOCABULARY: usize = 50257;

/// Makes a model folder of GPT-2's 124M shape under `target/bench`, once, and returns it.
///
/// Weights are normal with GPT-2's initial spread, each row widened by a factor of its own (log-normal, σ 0.25), as
/// training does. With `outlier_channels` that many elements of every layer norm's gain are 25 times the others', so
/// that the linear layers behind see persistent outlier columns.
pub(crate) fn gpt2(outlier_channels: usize) -> anyhow::Result<PathBuf> {
    let folder = root().join("target/bench").join(format!("gpt2-shape-{outlier_channels}"));
    if folder.join("model.safetensors").is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    let config = json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": VOCABULARY, "n_positions": N_CTX,
        "n_embd": N_EMBD, "n_layer": N_LAYER, "n_head": N_HEAD, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "bos_token_id": 50256, "eos_token_id": 50256, "tie_word_embeddings": true,
    });
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    fs::write(folder.join("tokenizer.json"), tokenizer()?)?;
    weights(&folder, outlier_channels)?;
    Ok(folder)
}

/// The small model's tokenizer, grown to GPT-2's size: its merges, then seeded merges of its longer pieces.
fn tokenizer() -> anyhow::Result<Vec<u8>> {
    let json = fs::read(root().join("fixtures/aibit-small-gpt2/tokenizer.json"))?;
    let mut tokenizer: Value = serde_json::from_slice(&json)?;
    let end_of_text = VOCABULARY - 1;
    let model = tokenizer["model"].as_object_mut().context("model")?;
    let vocab = model.get_mut("vocab").and_then(Value::as_object_mut).context("vocab")?;
    vocab.remove("<|endoftext|>");
    let mut pieces: Vec<String> = vocab.keys().cloned().collect();
    pieces.sort_unstable();
    let letters = |piece: &String| {
        piece.len() > 1 && piece.trim_start_matches('Ġ').bytes().all(|b| b.is_ascii_lowercase())
    };
    let heads: Vec<_> = pieces.iter().filter(|piece| letters(piece)).cloned().collect();
    let tails: Vec<_> = heads.iter().filter(|piece| !piece.starts_with('Ġ')).cloned().collect();
    let mut known: HashSet<String> = pieces.into_iter().collect();
    let mut merges = Vec::new();
    let mut random = Random(7);
    let mut id = vocab.len();
    while id < end_of_text {
        let (head, tail) = (random.choose(&heads), random.choose(&tails));
        let merged = format!("{head}{tail}");
        if known.insert(merged.clone()) {
            vocab.insert(merged, id.into());
            merges.push(json!([head, tail]));
            id += 1;
        }
    }
    vocab.insert("<|endoftext|>".into(), end_of_text.into());
    model.get_mut("merges").and_then(Value::as_array_mut).context("merges")?.extend(merges);
    for token in tokenizer["added_tokens"].as_array_mut().context("added_tokens")? {
        token["id"] = end_of_text.into();
    }
    Ok(serde_json::to_vec(&tokenizer)?)
}

/// `model.safetensors` in F16, written tensor by tensor.
fn weights(folder: &Path, outlier_channels: usize) -> anyhow::Result<()> {
    // (name, shape, what it holds)
    let mut tensors: Vec<(String, Vec<usize>, Kind)> = vec![
        ("transformer.wte.weight".into(), vec![VOCABULARY, N_EMBD], Kind::Normal(0.02)),
        ("transformer.wpe.weight".into(), vec![N_CTX, N_EMBD], Kind::Normal(0.01)),
    ];
    let residual = 0.02 / (2.0 * N_LAYER as f32).sqrt();
    for layer in 0..N_LAYER {
        for (name, inputs, outputs, spread) in [
            ("attn.c_attn", N_EMBD, 3 * N_EMBD, 0.02),
            ("attn.c_proj", N_EMBD, N_EMBD, residual),
            ("mlp.c_fc", N_EMBD, 4 * N_EMBD, 0.02),
            ("mlp.c_proj", 4 * N_EMBD, N_EMBD, residual),
        ] {
            let name = format!("transformer.h.{layer}.{name}");
            tensors.push((format!("{name}.weight"), vec![inputs, outputs], Kind::Normal(spread)));
            tensors.push((format!("{name}.bias"), vec![outputs], Kind::Normal(0.01)));
        }
        for norm in ["ln_1", "ln_2"] {
            let name = format!("transformer.h.{layer}.{norm}");
            tensors.push((format!("{name}.weight"), vec![N_EMBD], Kind::Gain));
            tensors.push((format!("{name}.bias"), vec![N_EMBD], Kind::Normal(0.01)));
        }
    }
    tensors.push(("transformer.ln_f.weight".into(), vec![N_EMBD], Kind::Gain));
    tensors.push(("transformer.ln_f.bias".into(), vec![N_EMBD], Kind::Normal(0.01)));

    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for (name, shape, _) in &tensors {
        let end = offset + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let partial = folder.join("model.safetensors.partial");
    let mut file = BufWriter::new(File::create(&partial)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut random = Random(1337);
    for (_, shape, kind) in &tensors {
        let columns = *shape.last().context("a shape")?;
        let widths: Vec<f32> = (0..columns).map(|_| (0.25 * random.normal()).exp()).collect();
        for index in 0..shape.iter().product::<usize>() {
            let value = match kind {
                Kind::Normal(spread) if shape.len() == 2 => {
                    spread * random.normal() * widths[index % columns]
                }
                Kind::Normal(spread) => spread * random.normal(),
                Kind::Gain => {
                    let is_outlier = index % (N_EMBD / outlier_channels.max(1)) == 17 && outlier_channels > 0;
                    if is_outlier { 25.0 } else { 1.0 }
                }
            };
            file.write_all(&half::f16::from_f32(value).to_le_bytes())?;
        }
    }
    file.flush()?;
    fs::rename(partial, folder.join("model.safetensors"))?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    /// Normal with this standard deviation.
    Normal(f32),
    /// The gain of a layer norm.
    Gain,
}

/// SplitMix64 (Steele et al. 2014): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn choose<'a>(&mut self, from: &'a [String]) -> &'a str {
        &from[(self.next() % from.len() as u64) as usize]
    }

    /// Standard normal, by the sum of twelve uniforms: its tails end at six deviations.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..6)
            .map(|_| {
                let bits = self.next();
                ((bits >> 40) as f32 + ((bits >> 8) & 0xff_ffff) as f32) / (1 << 24) as f32
            })
            .sum();
        sum - 6.0
    }
}
