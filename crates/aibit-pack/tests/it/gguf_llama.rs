//! GGUF files of the Llama family whose metadata or tensors make no sense: each is refused by name.

use std::error::Error;
use std::fs;

use aibit_cpu::Model;
use aibit_format::Archive;
use aibit_gguf::{Array, GgmlType, GgufLayout, Metadata, SpecialIds, Value, tokenizer_metadata};
use aibit_pack::{ModelSource, PackOptions, pack};
use aibit_runtime::{PackageDefaults, Profile, Tokenizer};

use crate::support::{all_logits, fixture};

const VOCABULARY: usize = 512;
const WIDTH: usize = 8;
const INNER: usize = 12;

/// A file in parts: two query heads of four elements, one head of keys and values, one block.
struct Parts {
    metadata: Metadata,
    tensors: Vec<Tensor>,
}

struct Tensor {
    name: String,
    dtype: GgmlType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Parts {
    fn sound(architecture: &str) -> Self {
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", Value::String(architecture.into()));
        for (key, value) in [
            ("context_length", 32),
            ("embedding_length", WIDTH as u32),
            ("feed_forward_length", INNER as u32),
            ("block_count", 1),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            metadata.set(format!("{architecture}.{key}"), Value::U32(value));
        }
        metadata.set(format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
        metadata.set(format!("{architecture}.rope.freq_base"), Value::F32(10_000.0));
        let tokenizer = fs::read(fixture("golden/tiny-gpt2/tokenizer/tokenizer.json")).expect("a tokenizer");
        for (key, value) in
            tokenizer_metadata(&tokenizer, VOCABULARY, &SpecialIds::default()).expect("a tokenizer")
        {
            metadata.set(key, value);
        }
        let mut parts = Self { metadata, tensors: Vec::new() };
        let shapes: [(&str, &[usize]); 11] = [
            ("token_embd.weight", &[VOCABULARY, WIDTH]),
            ("output_norm.weight", &[WIDTH]),
            ("blk.0.attn_norm.weight", &[WIDTH]),
            ("blk.0.attn_q.weight", &[8, WIDTH]),
            ("blk.0.attn_k.weight", &[4, WIDTH]),
            ("blk.0.attn_v.weight", &[4, WIDTH]),
            ("blk.0.attn_output.weight", &[WIDTH, 8]),
            ("blk.0.ffn_norm.weight", &[WIDTH]),
            ("blk.0.ffn_gate.weight", &[INNER, WIDTH]),
            ("blk.0.ffn_up.weight", &[INNER, WIDTH]),
            ("blk.0.ffn_down.weight", &[WIDTH, INNER]),
        ];
        for (name, shape) in shapes {
            parts.add(name, shape);
        }
        let more: &[(&str, &[usize])] = match architecture {
            "qwen2" => {
                &[("blk.0.attn_q.bias", &[8]), ("blk.0.attn_k.bias", &[4]), ("blk.0.attn_v.bias", &[4])]
            }
            "qwen3" => &[("blk.0.attn_q_norm.weight", &[4]), ("blk.0.attn_k_norm.weight", &[4])],
            _ => &[],
        };
        for (name, shape) in more {
            parts.add(name, shape);
        }
        parts
    }

    /// Adds a tensor of F32 numbers, or replaces it.
    fn add(&mut self, name: &str, shape: &[usize]) {
        let elements = shape.iter().product();
        let values: Vec<f32> = (0..elements).map(|i| (i * 7 % 23) as f32 / 16.0 - 0.6).collect();
        self.set(name, GgmlType::F32, shape, bytes(&values));
    }

    fn set(&mut self, name: &str, dtype: GgmlType, shape: &[usize], data: Vec<u8>) {
        let tensor = Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data };
        match self.tensors.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = tensor,
            None => self.tensors.push(tensor),
        }
    }

    fn factors(&mut self, factors: &[f32]) {
        self.set("rope_freqs.weight", GgmlType::F32, &[factors.len()], bytes(factors));
    }

    /// Sets a key of the architecture `llama`.
    fn key(&mut self, key: &str, value: Value) {
        self.metadata.set(format!("llama.{key}"), value);
    }

    fn remove(&mut self, key: &str) {
        let mut kept = Metadata::default();
        for (name, value) in self.metadata.iter().filter(|(name, _)| *name != key) {
            kept.set(name, value.clone());
        }
        assert_ne!(kept, self.metadata, "{key}");
        self.metadata = kept;
    }

    fn file(&self) -> Vec<u8> {
        let list: Vec<_> = self.tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
        let layout = GgufLayout::new(&self.metadata, &list).expect("a layout");
        let mut file = layout.header().to_vec();
        for (info, tensor) in layout.tensors().iter().zip(&self.tensors) {
            assert_eq!(info.range.len(), tensor.data.len(), "{}", tensor.name);
            file.resize(info.range.start, 0);
            file.extend(&tensor.data);
        }
        file.resize(layout.file_bytes(), 0);
        file
    }

    /// Packs the file; what came of it, or the error with its causes.
    fn packed(&self) -> Result<Model, String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (path, target) = (folder.path().join("model.gguf"), folder.path().join("model.aibit"));
        fs::write(&path, self.file()).expect("written");
        let packed =
            ModelSource::open(&path).and_then(|source| pack(&source, &target, &PackOptions::default(), &()));
        match packed {
            Ok(_) => Ok(Model::load(&Archive::open(&target).expect("opened")).expect("a model")),
            Err(error) => {
                assert!(!target.exists(), "a refused file leaves nothing");
                let (mut message, mut cause) = (error.to_string(), error.source());
                while let Some(error) = cause {
                    message = format!("{message}: {error}");
                    cause = error.source();
                }
                Err(message)
            }
        }
    }
}

/// Checks that the sound file, edited, is refused with a message that holds every fragment.
#[track_caller]
fn check_refused(edit: impl FnOnce(&mut Parts), fragments: &[&str]) {
    check_refused_of("llama", edit, fragments);
}

#[track_caller]
fn check_refused_of(architecture: &str, edit: impl FnOnce(&mut Parts), fragments: &[&str]) {
    let mut parts = Parts::sound(architecture);
    edit(&mut parts);
    let message = match parts.packed() {
        Ok(_) => panic!("packed, should be refused with {fragments:?}"),
        Err(message) => message,
    };
    assert!(message.len() < 2048, "a message of {} bytes: {message:.300}", message.len());
    for fragment in fragments {
        assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
    }
}

/// Checks that the sound file is refused with this value of a key of the architecture.
#[track_caller]
fn check_key(key: &str, value: Value, fragments: &[&str]) {
    check_refused(|parts| parts.key(key, value), fragments);
}

fn stop_ids(archive: &Archive) -> Vec<u32> {
    let tokenizer = Tokenizer::load(archive).expect("a tokenizer");
    PackageDefaults::load(archive, &tokenizer, VOCABULARY).expect("defaults").stop_ids
}

#[test]
fn an_answer_ends_where_a_text_or_a_turn_does() {
    let mut parts = Parts::sound("llama");
    parts.metadata.set("tokenizer.ggml.eos_token_id", Value::U32(5));
    parts.metadata.set("tokenizer.ggml.eot_token_id", Value::U32(7));
    let folder = tempfile::tempdir().expect("temporary folder");
    let (path, target) = (folder.path().join("model.gguf"), folder.path().join("model.aibit"));
    fs::write(&path, parts.file()).expect("written");
    let source = ModelSource::open(&path).expect("a model");
    pack(&source, &target, &PackOptions::default(), &()).expect("packed");
    let archive = Archive::open(&target).expect("opened");
    // Token 0 is `<|endoftext|>`, at which llama.cpp ends every text.
    assert_eq!(stop_ids(&archive), [5, 7, 0]);
}

#[test]
fn recommended_sampling_is_carried_along() {
    let mut parts = Parts::sound("llama");
    for (key, value) in [
        ("temp", Value::F32(0.5)),
        ("top_k", Value::I32(20)),
        ("penalty_repeat", Value::F32(1.25)),
        ("mirostat", Value::I32(2)),
    ] {
        parts.metadata.set(format!("general.sampling.{key}"), value);
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (path, target) = (folder.path().join("model.gguf"), folder.path().join("model.aibit"));
    fs::write(&path, parts.file()).expect("written");
    let source = ModelSource::open(&path).expect("a model");
    let report = pack(&source, &target, &PackOptions::default(), &()).expect("packed");
    let [note] = report.notes.as_slice() else { panic!("{:?}", report.notes) };
    assert!(note.contains("`general.sampling.mirostat` is not known and has no effect"), "{note}");
    let archive = Archive::open(&target).expect("opened");
    let tokenizer = Tokenizer::load(&archive).expect("a tokenizer");
    let defaults = PackageDefaults::load(&archive, &tokenizer, VOCABULARY).expect("defaults");
    assert_eq!((defaults.temperature, defaults.top_k), (Some(0.5), Some(20)));
    assert_eq!((defaults.top_p, defaults.min_p), (Some(0.95), Some(0.05)));
    assert_eq!((defaults.repeat_penalty, defaults.repeat_last_n), (Some(1.25), Some(64)));
}

/// The vocabulary of `golden/gguf-tokenizer/sentencepiece.json`, cut to this model's.
#[test]
fn a_tokenizer_of_sentencepiece_is_packed() {
    let golden = fs::read(fixture("golden/gguf-tokenizer/sentencepiece.json")).expect("a fixture");
    let golden: serde_json::Value = serde_json::from_slice(&golden).expect("JSON");
    let first = |key: &str| golden[key].as_array().expect("an array")[..VOCABULARY].to_vec();
    let mut parts = Parts::sound("llama");
    for key in ["merges", "pre", "add_bos_token"] {
        parts.remove(&format!("tokenizer.ggml.{key}"));
    }
    parts.metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
    let tokens = first("tokens").iter().map(|token| token.as_str().expect("a token").to_owned()).collect();
    parts.metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
    let scores = first("scores").iter().map(|score| score.as_f64().expect("a score") as f32).collect();
    parts.metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    let types = first("types").iter().map(|kind| kind.as_i64().expect("a type") as i32).collect();
    parts.metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    let folder = tempfile::tempdir().expect("temporary folder");
    let (path, target) = (folder.path().join("model.gguf"), folder.path().join("model.aibit"));
    fs::write(&path, parts.file()).expect("written");
    let source = ModelSource::open(&path).expect("a model");
    pack(&source, &target, &PackOptions::default(), &()).expect("packed");
    let tokenizer = Tokenizer::load(&Archive::open(&target).expect("opened")).expect("a tokenizer");
    // `\u{c}` is no token here: its byte is. A prompt begins with `<s>`.
    let text = " a  long\u{c}end\n";
    let ids = tokenizer.encode(text).expect("encoded");
    assert!(ids.contains(&15), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids), text);
    assert_eq!(tokenizer.encode_prompt(text).expect("encoded"), [&[1], &ids[..]].concat());
    assert_eq!(stop_ids(&Archive::open(&target).expect("opened")), [2]);
}

/// The embedding says how many ids the model knows; two tokens more are kept with a note.
#[test]
fn tokens_beyond_the_embedding_are_packed_with_a_note() {
    let mut parts = Parts::sound("llama");
    let tokenizer = fs::read(fixture("golden/tiny-gpt2/tokenizer/tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&tokenizer).expect("JSON");
    for (id, content) in [(512, "<pad>"), (513, "<mask>")] {
        let token = serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true});
        tokenizer["added_tokens"].as_array_mut().expect("tokens").push(token);
    }
    let tokenizer = serde_json::to_vec(&tokenizer).expect("JSON");
    for (key, value) in
        tokenizer_metadata(&tokenizer, VOCABULARY + 2, &SpecialIds::default()).expect("a tokenizer")
    {
        parts.metadata.set(key, value);
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (path, target) = (folder.path().join("model.gguf"), folder.path().join("model.aibit"));
    fs::write(&path, parts.file()).expect("written");
    let source = ModelSource::open(&path).expect("a model");
    let report = pack(&source, &target, &PackOptions::default(), &()).expect("packed");
    let note = report.notes.iter().find(|note| note.contains("512 rows")).expect("a note");
    assert!(note.contains("\"<pad>\" (512)") && note.contains("\"<mask>\" (513)"), "{note}");
    let tokenizer = Tokenizer::load(&Archive::open(&target).expect("opened")).expect("a tokenizer");
    let ids = tokenizer.encode("the<mask>").expect("encoded");
    assert_eq!(ids.last(), Some(&513));
    let error = tokenizer.check_ids(&ids, VOCABULARY).expect_err("beyond").to_string();
    assert!(error.contains("<mask>") && error.contains("513") && error.contains("512"), "{error}");
    tokenizer.check_ids(&ids[..ids.len() - 1], VOCABULARY).expect("rows for all of them");
}

#[test]
fn the_sound_files_are_packed() {
    for architecture in ["llama", "qwen2", "qwen3"] {
        let model = Parts::sound(architecture).packed().expect("packed");
        assert_eq!((model.graph().context, model.graph().vocabulary), (32, VOCABULARY), "{architecture}");
        assert_eq!((model.graph().kv_slots[0].n_kv_head, model.graph().kv_slots[0].head_dim), (1, 4));
    }
    // Integers of any width, and what follows from the rest left out.
    let mut parts = Parts::sound("llama");
    parts.key("context_length", Value::I64(32));
    parts.key("attention.key_length", Value::U8(4));
    parts.key("expert_count", Value::U32(0));
    parts.key("rope.scaling.type", Value::String("none".into()));
    parts.remove("llama.rope.freq_base");
    parts.packed().expect("packed");
}

#[test]
fn heads_that_make_no_sense_are_refused() {
    check_key("attention.head_count", Value::U32(0), &["llama.attention.head_count", "heads of 0 elements"]);
    check_refused(
        |parts| {
            parts.key("attention.head_count", Value::U32(0));
            parts.key("attention.key_length", Value::U32(4));
        },
        &["num_attention_heads is 0, allowed is 1 to 65536"],
    );
    check_key(
        "attention.head_count",
        Value::U64(u64::MAX),
        &["llama.attention.head_count", "heads of 0 elements"],
    );
    check_key("attention.head_count", Value::U32(8), &["heads of 1 elements, which must be pairs"]);
    check_key(
        "attention.head_count",
        Value::U32(3),
        &["q_proj.weight", "has shape [8, 8], config.json requires [6, 8]"],
    );
    for length in [1, 3, 5] {
        check_key(
            "attention.key_length",
            Value::U32(length),
            &["llama.attention.", &format!("heads of {length} elements, which must be pairs")],
        );
    }
    // Possible, but not those of the tensors.
    check_key("attention.key_length", Value::U32(6), &["attn_q.weight", "not whole heads of 6 rows"]);
    check_key("attention.key_length", Value::U32(0), &["heads of 0 elements"]);
    for length in [1_u64 << 20, 1 << 62, u64::MAX - 1] {
        check_key("attention.key_length", Value::U64(length), &[&format!("head_dim is {length}")]);
        // Where no tensor's rows are in another order.
        check_refused_of(
            "qwen3",
            |parts| parts.metadata.set("qwen3.attention.key_length", Value::U64(length)),
            &[&format!("head_dim is {length}")],
        );
    }
    check_key(
        "attention.value_length",
        Value::U32(8),
        &["llama.attention.value_length", "is 8", "heads have 4"],
    );
    check_key("rope.dimension_count", Value::U32(2), &["llama.rope.dimension_count", "is 2", "heads have 4"]);
    for (heads, problem) in [
        (0, "num_key_value_heads is 0, allowed is 1 to 65536"),
        (3, "num_key_value_heads is 3, allowed is a divisor of num_attention_heads = 2"),
        (4, "num_key_value_heads is 4, allowed is a divisor of num_attention_heads = 2"),
        (u64::MAX, "num_key_value_heads is 18446744073709551615, allowed is 1 to 65536"),
    ] {
        check_key("attention.head_count_kv", Value::U64(heads), &[problem]);
    }
    // A divisor, but not that of the tensors.
    check_key("attention.head_count_kv", Value::U32(2), &["has shape [4, 8], config.json requires [8, 8]"]);
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    for (key, field, limit) in [
        ("context_length", "max_position_embeddings", "16777216"),
        ("feed_forward_length", "intermediate_size", "65535"),
        ("block_count", "num_hidden_layers", "4096"),
    ] {
        for found in [0, 1_u64 << 32, u64::MAX] {
            check_key(key, Value::U64(found), &[&format!("{field} is {found}, allowed is 1 to {limit}")]);
        }
    }
    // Some files have a length for each block.
    let lengths = Value::Array(Array::I32(vec![12]));
    check_key(
        "feed_forward_length",
        lengths,
        &["llama.feed_forward_length", "must be a non-negative integer"],
    );
    let heads = Value::Array(Array::U32(vec![1]));
    check_key(
        "attention.head_count_kv",
        heads,
        &["llama.attention.head_count_kv", "must be a non-negative integer"],
    );
    for value in [Value::I32(-1), Value::F32(12.0), Value::String("12".into()), Value::Bool(true)] {
        check_key(
            "feed_forward_length",
            value,
            &["llama.feed_forward_length", "must be a non-negative integer"],
        );
    }
    // Sizes that are possible, but not those of the tensors.
    check_key("feed_forward_length", Value::U32(13), &["has shape [12, 8], config.json requires [13, 8]"]);
    check_key("block_count", Value::U32(2), &["model.layers.1."]);
    check_key("embedding_length", Value::U32(16), &["attn_k.weight", "not whole heads of 8 rows"]);
    check_key("embedding_length", Value::U64(1 << 40), &["1099511627776"]);
    for key in
        ["context_length", "embedding_length", "feed_forward_length", "block_count", "attention.head_count"]
    {
        let key = format!("llama.{key}");
        check_refused(|parts| parts.remove(&key), &[&key, "is missing"]);
    }
}

#[test]
fn numbers_of_the_arithmetic_that_make_no_sense_are_refused() {
    for (theta, shown) in [
        (0.0, "0"),
        (-10_000.0, "-10000"),
        (1.0, "1"),
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        check_key("rope.freq_base", Value::F32(theta), &[shown, "rope"]);
        check_key("rope.freq_base", Value::F64(theta.into()), &[shown, "rope"]);
    }
    // Beyond F32, which the key has in every file.
    check_key("rope.freq_base", Value::F64(1e300), &["rope"]);
    check_key(
        "rope.freq_base",
        Value::U32(10_000),
        &["llama.rope.freq_base", "must be a floating-point number"],
    );
    for epsilon in [0.0, -1e-5, f32::NAN, f32::INFINITY] {
        check_key("attention.layer_norm_rms_epsilon", Value::F32(epsilon), &["rms"]);
    }
    check_refused(
        |parts| parts.remove("llama.attention.layer_norm_rms_epsilon"),
        &["llama.attention.layer_norm_rms_epsilon", "is missing"],
    );
    for factor in [-2.0, f32::NAN, f32::INFINITY] {
        for key in ["rope.scaling.factor", "rope.scale_linear"] {
            check_key(key, Value::F32(factor), &[&format!("llama.{key}")]);
        }
    }
    for kind in ["su", "ntk", "LINEAR", ""] {
        check_key(
            "rope.scaling.type",
            Value::String(kind.into()),
            &[
                "llama.rope.scaling.type",
                &format!("is `{kind}`"),
                "supported are none, linear, yarn and longrope",
            ],
        );
    }
    check_key("rope.scaling.type", Value::U32(1), &["llama.rope.scaling.type", "must be a string"]);
    check_key("rope.scaling.attn_factor", Value::F32(f32::NAN), &["llama.rope.scaling.attn_factor"]);
    check_refused(
        |parts| {
            parts.key("rope.scaling.type", Value::String("yarn".into()));
            parts.key("rope.scaling.factor", Value::F32(4.0));
            parts.key("rope.scaling.yarn_beta_fast", Value::F32(16.0));
        },
        &["llama.rope.scaling.yarn_beta_fast", "is 16", "32"],
    );
    check_refused(
        |parts| {
            parts.key("rope.scaling.type", Value::String("yarn".into()));
            parts.key("rope.scaling.original_context_length", Value::U32(0));
        },
        &["llama.rope.scaling.original_context_length", "is 0"],
    );
}

#[test]
fn settings_of_other_architectures_are_refused() {
    for (key, value) in [
        ("attn_logit_softcapping", Value::F32(50.0)),
        ("final_logit_softcapping", Value::F32(30.0)),
        ("attention.scale", Value::F32(0.25)),
        ("logit_scale", Value::F32(0.5)),
        ("residual_scale", Value::F32(0.5)),
        ("attention.causal", Value::Bool(false)),
        ("use_parallel_residual", Value::Bool(true)),
    ] {
        check_key(key, value, &[&format!("llama.{key}"), "which is not supported"]);
    }
    let mut parts = Parts::sound("llama");
    parts.key("attention.causal", Value::Bool(true));
    parts.key("residual_scale", Value::F32(1.0));
    parts.key("attention.scale", Value::F32(0.0));
    parts.packed().expect("what changes nothing");
}

#[test]
fn mixtures_of_experts_are_refused() {
    check_key("expert_count", Value::U32(8), &["llama.expert_count", "asks for a mixture of experts"]);
    check_key("expert_count", Value::I32(-8), &["llama.expert_count", "must be a non-negative integer"]);
    // As such files have their tensors, whatever the key says.
    check_refused(
        |parts| parts.add("blk.0.ffn_gate_inp.weight", &[8, WIDTH]),
        &["blk.0.ffn_gate_inp.weight", "config.json describes no such tensor"],
    );
}

#[test]
fn rotary_factors_are_positive_and_fit_the_heads() {
    for factors in [
        &[f32::NAN, f32::NAN][..],
        &[1.0, f32::NAN],
        &[f32::NAN, 1.0],
        &[1.0, f32::INFINITY],
        &[f32::INFINITY, f32::INFINITY],
        &[0.0, 0.0],
        &[-1.0, -1.0],
        &[1.0, 1e-40],
    ] {
        check_refused(|parts| parts.factors(factors), &["rope_freqs.weight", "factors are positive"]);
    }
    // One factor for each pair of a head, of which there are two: factors of other heads may be in order by themselves.
    for factors in [&[1.0][..], &[1.0; 3], &[1.0; 4], &[1.0; 64]] {
        let expected = format!("has {} factors, heads have 2 pairs", factors.len());
        check_refused(|parts| parts.factors(factors), &["rope_freqs.weight", &expected]);
    }
    check_refused(
        |parts| parts.set("rope_freqs.weight", GgmlType::F16, &[2], vec![0, 0x3c, 0, 0x3c]),
        &["rope_freqs.weight", "must be F32"],
    );
    let mut parts = Parts::sound("llama");
    parts.factors(&[1.0, 1.0]);
    parts.packed().expect("factors that change nothing");
}

#[test]
fn tensors_that_are_no_whole_heads_are_refused() {
    let not_whole = |shape: &str| format!("has shape {shape}, which is not whole heads of 4 rows");
    for (name, shape) in [
        ("blk.0.attn_q.weight", &[7, WIDTH][..]),
        ("blk.0.attn_q.weight", &[6, WIDTH]),
        ("blk.0.attn_k.weight", &[2, WIDTH]),
        ("blk.0.attn_k.weight", &[1, 4 * WIDTH]),
        ("blk.0.attn_q.bias", &[3]),
    ] {
        check_refused(|parts| parts.add(name, shape), &[name, &not_whole(&format!("{shape:?}"))]);
    }
    // Whole heads, but too many, too few, in one row, or in three dimensions.
    for shape in [&[12, WIDTH][..], &[4, WIDTH], &[64], &[8, WIDTH, 1], &[8, 2, 4]] {
        check_refused(
            |parts| parts.add("blk.0.attn_q.weight", shape),
            &["q_proj.weight", &format!("has shape {shape:?}"), "requires [8, 8]"],
        );
    }
    // Blocks of 32 do not fit rows of 8.
    check_refused(
        |parts| parts.set("blk.0.attn_q.weight", GgmlType::Q8_0, &[2, 32], vec![0; 68]),
        &["attn_q.weight", "not whole heads of 4 rows"],
    );
}

#[test]
fn tensors_that_are_missing_or_of_another_model_are_refused() {
    for name in ["token_embd.weight", "output_norm.weight", "blk.0.attn_v.weight", "blk.0.ffn_down.weight"] {
        check_refused(|parts| parts.tensors.retain(|tensor| tensor.name != name), &["1 ", "model."]);
    }
    check_refused_of(
        "qwen2",
        |parts| parts.tensors.retain(|tensor| tensor.name != "blk.0.attn_k.bias"),
        &["model.layers.0.self_attn.k_proj.bias"],
    );
    check_refused_of(
        "qwen3",
        |parts| parts.add("blk.0.attn_q_norm.weight", &[8]),
        &["q_norm.weight", "has shape [8], config.json requires [4]"],
    );
    // Biases that this member has nowhere.
    check_refused_of(
        "qwen2",
        |parts| parts.add("blk.0.attn_output.bias", &[WIDTH]),
        &["o_proj.bias", "config.json describes no such tensor"],
    );
    check_refused_of(
        "qwen3",
        |parts| parts.add("blk.0.ffn_down.bias", &[WIDTH]),
        &["down_proj.bias", "config.json describes no such tensor"],
    );
    // One that may be there, with the shape of another layer.
    check_refused(|parts| parts.add("blk.0.attn_v.bias", &[8]), &["v_proj.bias", "has shape [8]"]);
    check_refused(
        |parts| parts.add("blk.1.attn_v.weight", &[4, WIDTH]),
        &["config.json describes no such tensor"],
    );
    check_refused(|parts| parts.add("blk.00.attn_v.weight", &[4, WIDTH]), &["layers.00.self_attn.v_proj"]);
    check_refused(|parts| parts.add("output.weight", &[VOCABULARY - 1, WIDTH]), &["[511, 8]", "[512, 8]"]);
    check_refused(
        |parts| parts.add("token_embd.weight", &[VOCABULARY + 1, WIDTH]),
        &["[513, 8]", "[512, 8]"],
    );
}

/// Of the biases that a layer may have a file has any: what it lacks is zero, as llama.cpp takes it.
#[test]
fn biases_that_are_absent_are_zeros() {
    let shapes: [(&str, &[usize]); 7] = [
        ("attn_q", &[8]),
        ("attn_k", &[4]),
        ("attn_v", &[4]),
        ("attn_output", &[WIDTH]),
        ("ffn_gate", &[INNER]),
        ("ffn_up", &[INNER]),
        ("ffn_down", &[WIDTH]),
    ];
    let logits = |parts: &Parts| -> Vec<u32> {
        let model = parts.packed().expect("packed");
        all_logits(&model, Profile::Fast, &[3, 141, 59, 26, 5, 3]).into_iter().map(f32::to_bits).collect()
    };
    let two_blocks = |architecture: &str| {
        let mut parts = Parts::sound(architecture);
        parts.metadata.set(format!("{architecture}.block_count"), Value::U32(2));
        let second: Vec<_> = parts.tensors.iter().filter(|t| t.name.starts_with("blk.0.")).collect();
        let second: Vec<_> =
            second.iter().map(|t| (t.name.replacen("blk.0.", "blk.1.", 1), t.shape.clone())).collect();
        second.iter().for_each(|(name, shape)| parts.add(name, shape));
        parts
    };
    for (architecture, biases) in [("llama", &shapes[..]), ("qwen3", &shapes[..3])] {
        let mut seen = Vec::new();
        for kept in [0b1, 0b10, 0b100, 0b111, 0b1000, 0b1_0000, 0b110_0000, 0b101_0101_u32] {
            for blocks in [&[0][..], &[1], &[0, 1]] {
                let (mut some, mut all) = (two_blocks(architecture), two_blocks(architecture));
                let mut count = 0;
                for (bit, (module, shape)) in biases.iter().enumerate() {
                    for block in [0, 1] {
                        let name = format!("blk.{block}.{module}.bias");
                        if kept >> bit & 1 == 1 && blocks.contains(&block) {
                            some.add(&name, shape);
                            all.add(&name, shape);
                            count += 1;
                        } else if architecture == "llama" {
                            all.set(&name, GgmlType::F32, shape, bytes(&vec![0.0; shape[0]]));
                        }
                    }
                }
                if count == 0 {
                    continue;
                }
                let found = logits(&some);
                assert_eq!(found, logits(&all), "{architecture}, {kept:b} in {blocks:?}");
                seen.push(found);
            }
        }
        let different = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), different, "each bias counts");
    }
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    check_refused(|parts| parts.remove("tokenizer.ggml.tokens"), &["tokenizer.ggml.tokens", "is missing"]);
    check_refused(
        |parts| parts.metadata.set("tokenizer.ggml.model", Value::String("llama".into())),
        &["tokenizer.ggml.scores", "is missing"],
    );
    check_refused(
        |parts| parts.metadata.set("general.architecture", Value::U32(1)),
        &["general.architecture", "must be a string"],
    );
    check_refused(
        |parts| parts.metadata.set("general.architecture", Value::String("llama4".into())),
        &["\"llama4\""],
    );
}
