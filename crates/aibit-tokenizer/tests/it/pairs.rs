//! The compiled tokenizer against the library that reads `tokenizer.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use aibit_format::{
    Archive, ArchiveWriter, Dtype, FORMAT_VERSION, Manifest, Provenance, Recipe, Scheme, Source,
    TensorRecord, WeightsLayout, entry_names,
};
use aibit_tokenizer::{Tokenizer, compile};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A `tokenizer.json`, opened both ways.
pub(crate) struct Pair {
    pub(crate) json: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) library: Tokenizer,
    pub(crate) compiled: Tokenizer,
}

pub(crate) static SMALL: LazyLock<Pair> = LazyLock::new(|| Pair::open("aibit-small-gpt2/tokenizer.json"));
pub(crate) static TINY: LazyLock<Pair> =
    LazyLock::new(|| Pair::open("golden/tiny-gpt2/tokenizer/tokenizer.json"));

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Pair {
    fn open(fixture: &str) -> Self {
        Self::new(fs::read(repository().join("fixtures").join(fixture)).expect("a fixture"))
    }

    /// The tiny tokenizer, changed.
    fn changed(change: impl FnOnce(&mut Value)) -> Self {
        Self::new(changed_json(change))
    }

    pub(crate) fn new(json: Vec<u8>) -> Self {
        let bytes = compile(&json).expect("a tokenizer").expect("expressible");
        let library = Tokenizer::from_json(&json).expect("a tokenizer");
        let compiled = Tokenizer::from_compiled(bytes.clone()).expect("what was compiled");
        Self { json, bytes, library, compiled }
    }

    #[track_caller]
    pub(crate) fn check(&self, text: &str) {
        let ids = self.compiled.encode(text).expect("ids");
        assert_eq!(ids, self.library.encode(text).expect("ids"), "{text:?}");
        assert_eq!(self.compiled.decode(&ids), self.library.decode(&ids), "{text:?}");
    }

    /// Everything about every id.
    #[track_caller]
    pub(crate) fn check_vocabulary(&self) {
        assert_eq!(self.compiled.id_limit(), self.library.id_limit());
        let library = tokenizers::Tokenizer::from_bytes(&self.json).expect("a tokenizer");
        for id in 0..self.library.id_limit() as u32 + 2 {
            assert_eq!(self.compiled.bytes(id), self.library.bytes(id), "id {id}");
            assert_eq!(self.compiled.is_special(id), self.library.is_special(id), "id {id}");
        }
        for (token, id) in library.get_vocab(true).into_iter().filter(|(_, id)| id % 16 == 0) {
            assert_eq!(self.compiled.token_id(&token), Some(id), "{token:?}");
        }
        for token in ["", "no such token", "\u{144}", " ", "Ġ", "<|endoftext|>"] {
            assert_eq!(self.compiled.token_id(token), self.library.token_id(token), "{token:?}");
        }
        let check = self.compiled.agrees_with_json(&self.json).expect("compared");
        assert!(check.ok, "{check:?}");
    }
}

pub(crate) fn changed_json(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut json = serde_json::from_slice(&TINY.json).expect("JSON");
    change(&mut json);
    serde_json::to_vec(&json).expect("JSON")
}

pub(crate) fn added(id: u32, content: &str, normalized: bool, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": normalized, "special": special})
}

#[test]
fn the_recorded_cases_have_the_recorded_ids() {
    let path = repository().join("fixtures/golden/tiny-gpt2/tokenizer/tokenizer_cases.json");
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(path).expect("a fixture")).expect("cases");
    for case in &cases {
        let text = case["text"].as_str().expect("a text");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(TINY.compiled.encode(text).expect("ids"), ids, "{text:?}");
        TINY.check(text);
        SMALL.check(text);
    }
    assert!(cases.len() > 20);
}

#[test]
fn every_token_is_the_same() {
    TINY.check_vocabulary();
    SMALL.check_vocabulary();
}

#[test]
fn the_texts_of_the_repository_have_the_same_ids() {
    fn collect(folder: &Path, texts: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                collect(&path, texts);
            } else if name.ends_with(".md") || name.ends_with(".rs") {
                texts.extend(fs::read_to_string(path));
            }
        }
    }
    let mut texts = Vec::new();
    collect(&repository(), &mut texts);
    for text in &texts {
        SMALL.check(text);
        TINY.check(text);
    }
    assert!(texts.len() > 5);
}

#[test]
fn long_words_have_the_same_ids() {
    let mut state = 1_u32;
    let mut letter = |letters: &[char]| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        letters[(state >> 16) as usize % letters.len()]
    };
    let english: Vec<char> = "etaoinshrdlu".chars().collect();
    let mixed: Vec<char> = "éßжя漢字あ".chars().collect();
    for length in [60, 63, 64, 65, 66, 100, 1000, 100_000] {
        SMALL.check(&"a".repeat(length));
        SMALL.check(&" ".repeat(length));
        SMALL.check(&"=".repeat(length));
        SMALL.check(&(0..length).map(|_| letter(&english)).collect::<String>());
        SMALL.check(&(0..length / 2).map(|_| letter(&mixed)).collect::<String>());
    }
}

/// Texts of every kind that a tokenizer meets, and of those that it should not.
pub(crate) fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => "[ ]?[a-zA-Z]{1,12}",
        3 => "( ?(the|and|of|tion|ing|'s|'t|'re|'ve|'m|'ll|'d|'S|')){1,6}",
        2 => "[ \t\r\n\u{b}\u{85}\u{a0}\u{2003}\u{2028}\u{3000}]{1,8}",
        2 => "[ ]?[0-9²½Ⅷ٣०]{1,8}",
        2 => "[ ]?[!-/:-@\\[-`{-~]{1,8}",
        2 => "[a-z]?[\u{300}-\u{36f}]{1,4}",
        2 => "[ ]?(👩\u{200d}🚀|🏳\u{fe0f}\u{200d}🌈|😀|🇵🇱){1,4}",
        2 => "[ ]?[漢字かなжяאבعر]{1,12}",
        2 => "[\0-\u{1f}\u{7f}-\u{9f}\u{ad}\u{200b}\u{feff}]{1,4}",
        2 => "<?\\|?(endoftext|<\\|endoftext\\|>|<\\|endoftext|endoftext\\|>)\\|?>?",
        1 => prop::collection::vec(any::<char>(), 1..12).prop_map(String::from_iter),
        1 => prop::collection::vec(any::<u8>(), 1..24).prop_map(|b| String::from_utf8_lossy(&b).into_owned()),
        1 => ("[ a=\n\u{e9}漢👩'0]", 1..200_usize).prop_map(|(text, times)| text.repeat(times)),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// Tokens that begin with, end with and contain each other, and are searched for in one pass or the other.
static ADDED: LazyLock<Pair> = LazyLock::new(|| {
    Pair::changed(|json| {
        let tokens = [
            ("<", false),
            ("<a", true),
            ("<ab>", false),
            ("<abc>", true),
            ("a", true),
            ("ab", false),
            ("abc>", true),
            ("b", true),
            ("bc", false),
            ("c> ", false),
            (" ", true),
            ("  ", false),
            ("é", true),
            ("\u{301}", false),
            ("<|endoftext|> ", true),
        ];
        let mut next = 512;
        for (index, (content, normalized)) in tokens.into_iter().enumerate() {
            let id = json["model"]["vocab"][content].as_u64().unwrap_or(next);
            next += u64::from(id == next);
            let token = added(id as u32, content, normalized, index % 3 == 0);
            json["added_tokens"].as_array_mut().expect("a list").push(token);
        }
    })
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn any_text_has_the_same_ids(text in any_text()) {
        SMALL.check(&text);
        TINY.check(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn added_tokens_are_found_in_the_same_places(
        text in prop_oneof!["[<abc> é\u{301}x']{0,24}", "(<|ab|abc|c> |<abc>| |<\\|endoftext\\|>|é){0,16}"]
    ) {
        ADDED.check(&text);
    }
}

#[test]
fn added_tokens_are_the_same() {
    ADDED.check_vocabulary();
}

#[test]
fn other_ways_to_write_a_tokenizer_are_the_same() {
    let texts = ["", "The reader reads the header", "it's  éa\n\n 12x", "<|endoftext|> a<|endoftext|>"];
    let check = |name: &str, change: &mut dyn FnMut(&mut Value)| {
        let pair = Pair::changed(change);
        pair.check_vocabulary();
        texts.iter().for_each(|text| pair.check(text));
        assert_ne!(pair.json, TINY.json, "{name}");
        pair.bytes
    };
    let mut as_lines = |json: &mut Value| {
        for merge in json["model"]["merges"].as_array_mut().expect("merges") {
            *merge =
                format!("{} {}", merge[0].as_str().expect("left"), merge[1].as_str().expect("right")).into();
        }
        json["model"]["merges"].as_array_mut().expect("merges").insert(0, "#version: 0.2".into());
    };
    assert_eq!(check("merges as lines", &mut as_lines), TINY.bytes);
    check("empty affixes, an unknown token that nothing becomes", &mut |json| {
        json["model"]["continuing_subword_prefix"] = "".into();
        json["model"]["end_of_word_suffix"] = "".into();
        json["model"]["dropout"] = 0.0.into();
        json["model"]["unk_token"] = "<|endoftext|>".into();
        json["model"]["byte_fallback"] = true.into();
        json["post_processor"] = Value::Null;
        json["padding"] = json!({"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": null,
                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
        json["truncation"] =
            json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    });
    check("bytes without a token", &mut |json| {
        let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
        for token in ["Ĥ", "Ã", "x", "!"] {
            vocabulary.remove(token).expect("a token");
        }
        let gone = |text: &Value| text.as_str().is_some_and(|t| t.contains(['Ĥ', 'Ã', 'x', '!']));
        let merges = json["model"]["merges"].as_array_mut().expect("merges");
        merges.retain(|merge| !gone(&merge[0]) && !gone(&merge[1]));
    });
    check("ids with gaps, a merge twice", &mut |json| {
        let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
        for id in vocabulary.values_mut() {
            *id = (3 * id.as_u64().expect("an id") + 5).into();
        }
        json["added_tokens"][0]["id"] = json["model"]["vocab"]["<|endoftext|>"].clone();
        let merges = json["model"]["merges"].as_array_mut().expect("merges");
        merges.push(merges[7].clone());
    });
    check("no merges, no added tokens", &mut |json| {
        json["model"]["merges"] = json!([]);
        json["added_tokens"] = json!([]);
    });
    check("nothing", &mut |json| {
        json["model"]["merges"] = json!([]);
        json["model"]["vocab"] = json!({});
        json["added_tokens"] = json!([]);
    });
}

#[test]
fn what_cannot_be_expressed_is_left_to_the_library() {
    let check = |name: &str, change: &dyn Fn(&mut Value)| {
        let json = changed_json(change);
        assert!(compile(&json).expect("a tokenizer").is_none(), "{name}");
    };
    let byte_level = |add_prefix_space: bool, use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex});
    check("normalizer", &|json| json["normalizer"] = json!({"type": "NFD"}));
    check("no pre-tokenizer", &|json| json["pre_tokenizer"] = Value::Null);
    check("space in front", &|json| json["pre_tokenizer"] = byte_level(true, true));
    check("no pieces", &|json| json["pre_tokenizer"] = byte_level(false, false));
    check("decoder", &|json| json["decoder"] = Value::Null);
    check("unknown token", &|json| {
        json["model"]["unk_token"] = "<|endoftext|>".into();
        json["model"]["merges"] = json!([]);
        json["model"]["vocab"].as_object_mut().expect("a vocabulary").remove("x");
    });
    for flag in ["single_word", "lstrip", "rstrip"] {
        check(flag, &|json| json["added_tokens"][0][flag] = true.into());
    }
    check("a token that is not in the byte alphabet", &|json| json["model"]["vocab"]["漢"] = 600.into());
    compile(b"{}").expect_err("not a tokenizer");
    compile(&changed_json(|json| json["model"]["merges"] = json!([["x", "nothing"]])))
        .expect_err("a merge of no tokens");
}

#[test]
fn the_same_tokenizer_gives_the_same_bytes() {
    for pair in [&*SMALL, &*TINY, &*ADDED] {
        assert_eq!(compile(&pair.json).expect("a tokenizer").as_ref(), Some(&pair.bytes));
        assert!(pair.compiled.is_compiled() && !pair.library.is_compiled());
    }
}

#[test]
fn a_difference_is_found() {
    let check = SMALL.compiled.agrees_with_json(&TINY.json).expect("compared");
    assert!(!check.ok && check.detail.contains("does not compile"), "{check:?}");
    let backwards = changed_json(|json| json["model"]["merges"].as_array_mut().expect("merges").reverse());
    assert!(!TINY.compiled.agrees_with_json(&backwards).expect("compared").ok);
    let special = changed_json(|json| json["added_tokens"][0]["special"] = false.into());
    assert!(!TINY.compiled.agrees_with_json(&special).expect("compared").ok);
    // Bytes that no token needs: alike, but not what is compiled.
    let mut bytes = TINY.bytes.clone();
    bytes[24] += 1; // one more slot to look at
    let check =
        Tokenizer::from_compiled(bytes).expect("sound").agrees_with_json(&TINY.json).expect("compared");
    assert!(!check.ok && check.detail.contains("does not compile"), "{check:?}");
}

#[test]
fn the_header_says_what_is_wrong() {
    let check = |message: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = TINY.bytes.clone();
        change(&mut bytes);
        let error = Tokenizer::from_compiled(bytes).expect_err(message).to_string();
        assert!(error.starts_with("tokenizer.bin: ") && error.contains(message), "{error}");
    };
    check("0 bytes, the header alone has 152", &|bytes| bytes.clear());
    check("does not begin with `aibitBPE`", &|bytes| bytes[0] = b'A');
    check("version 3, this build reads 2", &|bytes| bytes[8] = 3);
    check("it splits by rule 4", &|bytes| bytes[16] = 4);
    check("its options are 0x5", &|bytes| bytes[20] = 5);
    check("its sections end at", &|bytes| bytes.extend([0; 8]));
    check("section 6", &|bytes| bytes.truncate(bytes.len() - 8));
    check("section 1", &|bytes| bytes[40 + 16] ^= 8);
    check("contradict", &|bytes| bytes[12] ^= 1);
    check("contradict", &|bytes| bytes[12..16].fill(0xff));
    check("a byte has id", &|bytes| bytes[152 + 3] = 0x7f);
    check("added token 0", &|bytes| bytes[152 + 1024 + 2] = 0x7f);
    let special = TINY.bytes.windows(13).position(|bytes| bytes == b"<|endoftext|>").expect("a token");
    check("added token 0", &|bytes| bytes[special] = 0xa9); // would be found inside of characters
}

/// Writes a package with nothing to run but its tokenizer.
fn archive(path: &Path, compiled: Option<&[u8]>) -> Archive {
    let layout = WeightsLayout::new(&[("w".to_owned(), Dtype::F32, vec![1])]).expect("a layout");
    let tensor = TensorRecord {
        scheme: Scheme::F32,
        source_dtype: "F32".to_owned(),
        transposed: false,
        joined: Vec::new(),
    };
    let manifest = Manifest {
        format: "aibit".to_owned(),
        version: FORMAT_VERSION,
        required_features: Vec::new(),
        architecture: "none".to_owned(),
        entries: Vec::new(),
        tensors: [("w".to_owned(), tensor)].into(),
        tied: [].into(),
        recipe: Recipe { preset: "none".to_owned(), ..Recipe::default() },
        provenance: Provenance {
            tool: "test".to_owned(),
            source: Source { repository: None, revision: None, files: Vec::new() },
        },
    };
    let mut writer = ArchiveWriter::create(path).expect("created");
    let weights = [layout.header(), &[0; 4]].concat();
    writer.add(entry_names::WEIGHTS, "application/octet-stream", &weights).expect("added");
    writer.add(entry_names::TOKENIZER, "application/json", &TINY.json).expect("added");
    if let Some(bytes) = compiled {
        writer.add(entry_names::TOKENIZER_COMPILED, "application/octet-stream", bytes).expect("added");
    }
    writer.finish(manifest).expect("finished");
    Archive::open(path).expect("sound")
}

#[test]
fn an_archive_gives_its_compiled_tokenizer_where_it_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.aibit");
    let load = |compiled: Option<&[u8]>| Tokenizer::load(&archive(&path, compiled)); // outlives the archive
    let tokenizer = load(Some(&TINY.bytes)).expect("loaded");
    assert!(tokenizer.is_compiled());
    let text = "The reader reads the header";
    assert_eq!(tokenizer.encode(text).expect("ids"), TINY.library.encode(text).expect("ids"));
    assert!(!load(None).expect("loaded").is_compiled());
    for other_version in [1, 3] {
        let mut bytes = TINY.bytes.clone();
        bytes[8] = other_version;
        assert!(!load(Some(&bytes)).expect("loaded").is_compiled());
    }
    load(Some(&TINY.bytes[..1000])).expect_err("broken");
}

/// Uses all of a tokenizer that may be broken.
pub(crate) fn use_all(bytes: Vec<u8>) -> bool {
    let Ok(tokenizer) = Tokenizer::from_compiled(bytes) else { return false };
    let text = "The reader's  <|endoftext|><ab>abc> é\u{301}漢字 ";
    let ids = tokenizer.encode(&format!("{text}{}\n\n{}", "reader".repeat(20), "=".repeat(70))).expect("ids");
    tokenizer.decode(&ids);
    for id in (0..tokenizer.id_limit() as u32 + 2).step_by(7).chain([u32::MAX, u32::MAX - 1]) {
        tokenizer.bytes(id);
        tokenizer.is_special(id);
    }
    tokenizer.token_id("Ġthe");
    tokenizer.token_id("<ab>");
    true
}

#[test]
fn merges_into_unknown_ids_are_ignored() {
    let mut bytes = TINY.bytes.clone();
    let table = u64::from_le_bytes(bytes[40 + 5 * 16..][..8].try_into().expect("8 bytes")) as usize;
    for slot in
        bytes[table..].as_chunks_mut::<16>().0.iter_mut().take(512).filter(|slot| **slot != [0xff; 16])
    {
        slot[13] = 2; // ids end at 512
    }
    let tokenizer = Tokenizer::from_compiled(bytes).expect("sound");
    let ids = tokenizer.encode("The readerreader").expect("ids");
    assert_eq!(ids.len(), 1 + " readerreader".len(), "{ids:?}"); // `The` is in the table of pieces
}

#[test]
fn no_number_of_the_header_makes_it_panic() {
    for pair in [&*TINY, &*ADDED] {
        assert!(use_all(pair.bytes.clone()));
        for at in (0..152).step_by(4) {
            let found = u32::from_le_bytes(pair.bytes[at..at + 4].try_into().expect("4 bytes"));
            let near =
                [found.wrapping_sub(8), found.wrapping_sub(1), found.wrapping_add(1), found.wrapping_add(8)];
            for number in
                [0, 1, 2, 7, 127, 128, 129, 1 << 16, 1 << 24, 1 << 31, u32::MAX].into_iter().chain(near)
            {
                let mut bytes = pair.bytes.clone();
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
                use_all(bytes);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn broken_bytes_never_panic(
        which in any::<bool>(),
        in_small_sections in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 0..3_u32), 1..40),
        cut in prop::option::weighted(0.05, any::<prop::sample::Index>()),
    ) {
        let pair = if which { &*TINY } else { &*ADDED };
        let mut bytes = pair.bytes.clone();
        let number = |at: usize| u64::from_le_bytes(pair.bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
        let (small, large) = (152..number(40 + 3 * 16), number(40 + 4 * 16)..bytes.len());
        // Not in the header, which has its own test, nor in the offsets, where next to no change is let through.
        let range = if in_small_sections { small } else { large };
        for (place, random, kind) in changes {
            let at = range.start + place.index(range.len() / 4) * 4;
            let value = match kind {
                0 => random,
                1 => random % 520,
                _ => u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) ^ 1 << (random % 32),
            };
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        use_all(bytes);
    }
}
