//! Construction of a target's cases from valid files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use aibit_format::{Archive, ArchiveWriter, Manifest, entry_names};
use aibit_pack::{ModelSource, PackOptions, pack};
use anyhow::Context;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::json::{below, mutate_bytes, mutate_text, pick};
use super::target::Target;
use crate::root;

/// Name of the archive in a case's folder.
pub(super) const ARCHIVE: &str = "case.aibit";

/// Files by name: a source folder, the entries of an archive, or a single file.
type Files = BTreeMap<String, Vec<u8>>;

/// The valid files of one target.
pub(super) struct Bases {
    target: Target,
    bases: Vec<Files>,
    /// Values to insert anywhere in `tokenizer.json` and `config.json`.
    parts: [Vec<Value>; 2],
}

impl Bases {
    /// Reads `fixtures` and packs the required archives.
    pub(super) fn load(target: Target) -> anyhow::Result<Self> {
        let golden = |name: &str| format!("golden/{name}");
        let gpt2 = |weights: &str| [golden(&format!("tiny-gpt2/{weights}")), golden("tiny-gpt2/tokenizer")];
        let llama = |name: &str| [golden("tiny-llama/llama"), golden(&format!("tiny-llama/{name}"))];
        let bases = match target {
            Target::Archive => {
                let mut bases = Vec::new();
                for preset in ["int8", "nf4-dq", "int4-g32", "f16"] {
                    bases.push(packed(&folder(&gpt2("fp32"))?, preset)?);
                }
                bases.push(entries(&Archive::open(root().join("fixtures/golden/tiny-llama/qwen3.aibit"))?));
                bases
            }
            Target::Tokenizer => {
                let case = |name: &str| format!("cases/{name}");
                let mut sentencepiece = folder(&[case("base/llama"), case("p21-tokenizer-model")])?;
                sentencepiece.remove("tokenizer.json");
                let mut bases = Vec::new();
                for source in [folder(&gpt2("fp32"))?, folder(&[case("base/llama")])?, sentencepiece] {
                    let json = packed(&source, "f32")?.remove("tokenizer.json").context("a tokenizer")?;
                    bases.push(one("tokenizer.json", json));
                }
                bases
            }
            Target::Template => {
                let cases = fs::read(root().join("fixtures/golden/chat/cases.json"))?;
                let cases: Value = serde_json::from_slice(&cases)?;
                let templates = cases["templates"].as_object().context("templates")?;
                let sound = ["chatml", "headers", "inst", "tools", "values"];
                let templates = sound.iter().filter_map(|name| templates.get(*name)?.as_str());
                templates.map(|text| one("chat_template.jinja", text.as_bytes().to_vec())).collect()
            }
            Target::Gguf => ["cases/f05-scale-linear/model.gguf", "golden/gguf/kinds.gguf"]
                .into_iter()
                .map(|name| Ok(one("model.gguf", fs::read(root().join("fixtures").join(name))?)))
                .collect::<anyhow::Result<_>>()?,
            Target::Safetensors => {
                let mut whole = folder(&gpt2("fp32"))?;
                let mut indexed = whole.clone();
                let weights = indexed.remove("model.safetensors").context("weights")?;
                let (header, _) = header_of(&weights).context("a header")?;
                let names =
                    header.as_object().context("an object")?.keys().filter(|name| *name != "__metadata__");
                let map: BTreeMap<_, _> =
                    names.map(|name| (name.clone(), "model-00001-of-00001.safetensors")).collect();
                let index = json!({"metadata": {"total_size": weights.len()}, "weight_map": map});
                indexed.insert("model-00001-of-00001.safetensors".to_owned(), weights);
                indexed.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
                whole.retain(|name, _| !name.ends_with(".txt"));
                vec![whole, indexed]
            }
            Target::Pickle => ["int8_state_dict.pt", "int8_fp16_state_dict.pt"]
                .into_iter()
                .map(|name| {
                    let mut files = folder(&gpt2("int8"))?;
                    files.remove("model.safetensors");
                    let weights = fs::read(root().join("fixtures/golden/tiny-gpt2").join(name))?;
                    files.insert("pytorch_model.bin".to_owned(), weights);
                    Ok(files)
                })
                .collect::<anyhow::Result<_>>()?,
            Target::Config => vec![
                folder(&gpt2("fp32"))?,
                folder(&["cases/base/llama".to_owned()])?,
                folder(&["cases/base/qwen2".to_owned()])?,
                folder(&llama("llama-linear"))?,
            ],
            Target::Bnb => ["int8", "nf4", "nf4-dq"]
                .into_iter()
                .map(|name| folder(&gpt2(name)))
                .collect::<Result<_, _>>()?,
        };
        Ok(Self { target, bases, parts: [components(), configuration()] })
    }

    /// Writes an unmodified base.
    pub(super) fn write(&self, index: usize, folder: &Path) -> anyhow::Result<u64> {
        self.write_files(&self.bases[index], None, folder)
    }

    /// Writes case `index` of `seed` and returns its size.
    pub(super) fn write_case(&self, seed: u64, index: u64, folder: &Path) -> anyhow::Result<u64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        let mut files = pick(&mut rng, &self.bases).clone();
        let rng = &mut rng;
        let is_changed = |name: &str| match self.target {
            Target::Archive => name != entry_names::MANIFEST,
            Target::Tokenizer | Target::Template | Target::Gguf => true,
            Target::Safetensors => name.contains("safetensors"),
            Target::Pickle => name == "pytorch_model.bin",
            Target::Config => name.ends_with(".json") && name != "tokenizer.json",
            Target::Bnb => name == "config.json" || name == "model.safetensors",
        };
        let names: Vec<String> = files.keys().filter(|name| is_changed(name)).cloned().collect();
        for _ in 0..=below(rng, 2) {
            let name = pick(rng, &names);
            let bytes = files.get_mut(name).context("a file of the base")?;
            *bytes = self.mutate(rng, name, bytes);
        }
        self.write_files(&files, Some(rng), folder)
    }

    fn mutate(&self, rng: &mut ChaCha8Rng, name: &str, bytes: &[u8]) -> Vec<u8> {
        match name {
            "tokenizer.json" => mutate_text(rng, bytes, &self.parts[0]),
            "config.json" => mutate_text(rng, bytes, &self.parts[1]),
            "chat_template.jinja" => template(rng, bytes),
            _ if name.ends_with(".json") => mutate_text(rng, bytes, &[]),
            _ if name.ends_with(".safetensors") => safetensors(rng, bytes),
            "pytorch_model.bin" => torch(rng, bytes).unwrap_or_else(|| mutate_bytes(rng, bytes)),
            _ => mutate_bytes(rng, bytes),
        }
    }

    fn write_files(&self, files: &Files, rng: Option<&mut ChaCha8Rng>, folder: &Path) -> anyhow::Result<u64> {
        if let Target::Archive = self.target {
            let path = folder.join(ARCHIVE);
            // The writer computes digests and writes only valid manifests, so the manifest is modified afterwards.
            let mut writer = ArchiveWriter::create(&path)?;
            for (name, data) in files.iter().filter(|(name, _)| *name != entry_names::MANIFEST) {
                writer.add(name, "application/octet-stream", data)?;
            }
            writer.finish(Manifest::from_json(&files[entry_names::MANIFEST])?)?;
            if let Some(rng) = rng
                && below(rng, 4) == 0
            {
                with_other_manifest(rng, &path)?;
            }
            return Ok(fs::metadata(&path)?.len());
        }
        for (name, data) in files {
            fs::write(folder.join(name), data)?;
        }
        Ok(files.values().map(|data| data.len() as u64).sum())
    }
}

fn one(name: &str, bytes: Vec<u8>) -> Files {
    Files::from([(name.to_owned(), bytes)])
}

/// The files of folders in `fixtures`; the last of equal names wins.
fn folder(names: &[String]) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for name in names {
        let folder = root().join("fixtures").join(name);
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name().and_then(|name| name.to_str())) {
                files.insert(name.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// The entries of the archive packed from a source folder.
fn packed(source: &Files, preset: &str) -> anyhow::Result<Files> {
    let folder = tempfile::tempdir()?;
    for (name, data) in source {
        fs::write(folder.path().join(name), data)?;
    }
    let preset = Some(preset.parse().map_err(anyhow::Error::msg)?);
    let target = folder.path().join(ARCHIVE);
    pack(
        &ModelSource::open(folder.path())?,
        &target,
        &PackOptions { preset, ..PackOptions::default() },
        &(),
    )?;
    Ok(entries(&Archive::open(target)?))
}

fn entries(archive: &Archive) -> Files {
    archive.entries().map(|entry| (entry.name.to_owned(), entry.data.to_vec())).collect()
}

/// Replaces the manifest in an archive, with a correct checksum.
fn with_other_manifest(rng: &mut ChaCha8Rng, path: &Path) -> anyhow::Result<()> {
    let mut file = fs::read(path)?;
    // The last entry; the directory after it gives its offset.
    let find = |signature: &[u8], part: &[u8]| part.windows(4).rposition(|bytes| bytes == signature);
    let central = find(b"PK\x01\x02", &file).context("a central header")?;
    let field =
        |at: usize| u32::from_le_bytes(file[central + at..][..4].try_into().expect("4 bytes")) as usize;
    let (bytes, local) = (field(20), field(42));
    let extra = local + 30 + entry_names::MANIFEST.len();
    let start = extra + usize::from(u16::from_le_bytes([file[local + 28], file[local + 29]]));
    let entry = start..start + bytes;
    let mut manifest = mutate_text(rng, &file[entry.clone()], &[]);
    // It is written with and without line breaks, so there is room for additions.
    manifest.truncate(entry.len());
    manifest.resize(entry.len(), b' ');
    file[entry.clone()].copy_from_slice(&manifest);
    let checksum = crc32fast::hash(&manifest).to_le_bytes();
    file[local + 14..][..4].copy_from_slice(&checksum);
    file[central + 16..][..4].copy_from_slice(&checksum);
    Ok(fs::write(path, file)?)
}

/// The header of a safetensors file, and the offset of its data.
fn header_of(file: &[u8]) -> Option<(Value, usize)> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    Some((serde_json::from_slice(rest.get(..length)?).ok()?, 8 + length))
}

/// Changes the header, with a correct length field, or arbitrary bytes.
fn safetensors(rng: &mut ChaCha8Rng, file: &[u8]) -> Vec<u8> {
    match header_of(file) {
        Some((_, start)) if below(rng, 4) > 0 => {
            let header = mutate_text(rng, &file[8..start], &[]);
            [&(header.len() as u64).to_le_bytes(), &header[..], &file[start..]].concat()
        }
        _ => mutate_bytes(rng, file),
    }
}

/// Changes the pickle or another entry of a torch checkpoint, with a correct checksum.
fn torch(rng: &mut ChaCha8Rng, file: &[u8]) -> Option<Vec<u8>> {
    if below(rng, 6) == 0 {
        return None;
    }
    let mut archive = ZipArchive::new(Cursor::new(file)).ok()?;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let changed = if below(rng, 3) == 0 { below(rng, archive.len()) } else { 0 };
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).ok()?;
        let (name, mut data) = (entry.name().ok()?.into_owned(), Vec::new());
        entry.read_to_end(&mut data).ok()?;
        if index == changed || changed == 0 && name.ends_with("data.pkl") {
            data = mutate_bytes(rng, &data);
        }
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        writer.start_file(name, options).ok()?;
        writer.write_all(&data).ok()?;
    }
    Some(writer.finish().ok()?.into_inner())
}

/// A template made of snippets, or an existing one with snippets inserted.
fn template(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Vec<u8> {
    const PIECES: [&str; 58] = [
        "{% for m in messages %}",
        "{% endfor %}",
        "{% if x is defined %}",
        "{% else %}",
        "{% endif %}",
        "{{ m }}",
        "{{ messages }}",
        "{% set x = 'a' * 1000 %}",
        "{% set x = x ~ x %}",
        "{% set x = x + x %}",
        "{{ x }}",
        "{% set ns = namespace(a=0) %}",
        "{% set ns.a = ns.a + 1 %}",
        "{{ range(10000000) }}",
        "{% for i in range(100000) %}",
        "{{ x | tojson }}",
        "{{ x | replace('a', 'aaaaaaaaaa') }}",
        "{{ x | join(x) }}",
        "{{ x | indent(1000) }}",
        "{{ x | batch(2) }}",
        "{{ messages | groupby('role') }}",
        "{{ x.split('') }}",
        "{{ x[::-1] }}",
        "{{ x[1:2:0] }}",
        "{{ 1 // 0 }}",
        "{{ 2 ** 10000 }}",
        "{{ 1 % 0 }}",
        "{{ -9223372036854775808 // -1 }}",
        "{{ '%s' % x }}",
        "{{ x.format(x) }}",
        "{% macro f(a) %}",
        "{% endmacro %}",
        "{{ f(f) }}",
        "{% call f(1) %}",
        "{% endcall %}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ raise_exception(x) }}",
        "{{ strftime_now('%Y') }}",
        "{{ loop.cycle(1, 2) }}",
        "{{ loop(messages) }}",
        "{% for k, v in dict(a=1).items() %}",
        "{% break %}",
        "{{ messages | selectattr('role', 'equalto', 'user') | list }}",
        "{{ messages | map(attribute='content') | list }}",
        "{{ x | center(100000000) }}",
        "{{ 'a'.ljust(99999999) }}",
        "{{ x | truncate(1) }}",
        "{{ x | wordwrap(1) }}",
        "{%- set x = [messages] -%}",
        "{% set x = [x, x] %}",
        "{{ x | string }}",
        "{{ x | length }}",
        "{# #}",
        "\r\n",
        "{{",
        "{{ x | int(base=99) }}",
        "{{ 'ß'.upper()[99999999999999999999] }}",
    ];
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut text = if below(rng, 2) == 0 { String::new() } else { text };
    for _ in 0..=below(rng, 12) {
        let mut at = below(rng, text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let piece: &&str = pick(rng, &PIECES);
        text.insert_str(at, piece);
    }
    text.into_bytes()
}

/// Tokenizer components: valid, invalid and excessive.
fn components() -> Vec<Value> {
    let deep =
        |part: Value, key: &str| (0..50).fold(part, |inner, _| json!({"type": "Sequence", key: [inner]}));
    vec![
        json!({"type": "Replace", "pattern": {"String": ""}, "content": "a"}),
        json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}),
        json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "b"}),
        json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1000)}),
        json!({"type": "Sequence", "normalizers": vec![json!({"type": "Replace", "pattern": {"String": "e"}, "content": "eeeeeeeeee"}); 9]}),
        json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 20000]}),
        json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        json!({"type": "Precompiled", "precompiled_charsmap": "////fwAAAAA="}),
        json!({"type": "Prepend", "prepend": "x".repeat(10000)}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
        json!({"type": "FixedLength", "length": 0}),
        json!({"type": "Split", "pattern": {"Regex": "(?<=a)(?=b)|(.*?,){20}x"}, "behavior": "Isolated", "invert": false}),
        json!({"type": "Split", "pattern": {"String": ""}, "behavior": "MergedWithNext", "invert": true}),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
        json!({"type": "UnicodeScripts"}),
        json!({"type": "Digits", "individual_digits": true}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}),
        json!({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        json!({"type": "TemplateProcessing", "single": vec![json!({"SpecialToken": {"id": "x", "type_id": 0}}); 2000], "pair": [],
            "special_tokens": {"x": {"id": "x", "ids": vec![1; 1000], "tokens": vec!["x"; 1000]}}}),
        json!({"type": "BPE", "vocab": {"a": 4294967295_u32}, "merges": [], "continuing_subword_prefix": "aaaa"}),
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 0}, "merges": ["a b"], "dropout": 0.5}),
        json!({"type": "Unigram", "vocab": [["a", -1.0], ["", 1e308]], "unk_id": 99}),
        json!({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "b", "continuing_subword_prefix": "", "max_input_chars_per_word": 0}),
        json!({"type": "WordLevel", "vocab": {}, "unk_token": ""}),
        json!({"Fixed": 1_000_000_000_000_u64}),
        json!({"id": 4294967295_u32, "content": "", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": true}),
        json!({"type": "Strip", "content": "a", "start": u64::MAX, "stop": u64::MAX}),
        json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        deep(json!({"type": "NFC"}), "normalizers"),
        deep(json!({"type": "Digits", "individual_digits": true}), "pretokenizers"),
        deep(json!({"type": "Fuse"}), "decoders"),
    ]
}

/// Values of a configuration that change the computation.
fn configuration() -> Vec<Value> {
    vec![
        json!({"rope_type": "yarn", "factor": 1e30, "original_max_position_embeddings": 0}),
        json!({"type": "linear", "factor": 0.0}),
        json!({"rope_type": "llama3", "factor": -1.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1}),
        json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": []}),
        json!({"rope_type": "dynamic", "factor": 1e308}),
        json!({"quant_method": "gptq", "bits": 4}),
        json!({"quant_method": "bitsandbytes", "load_in_8bit": true, "llm_int8_threshold": -1.0}),
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf5"}),
        json!("llama"),
        json!("gpt2"),
        json!("qwen3"),
        json!(["GPT2LMHeadModel"]),
        json!("float8_e4m3fn"),
    ]
}
