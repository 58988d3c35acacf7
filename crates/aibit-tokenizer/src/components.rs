//! The closed list of what a tokenizer may be made of.
//!
//! The library executes any `tokenizer.json`, and some make it panic, run for minutes or fill the memory. So a file is
//! checked here first: every component is in the list, its parameters are within bounds, tokens and ids are consistent.
//! What passes has a single interpretation, and normalization cannot make a text longer than by a fixed factor.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::charsmap;
use super::expression;
use super::json::{AddedToken, File, Merges, Model, Vocabulary};
use crate::TokenizerError;

/// Bytes of a file; the largest tokenizers of today have a fifth of it.
const MAX_BYTES: usize = 256 << 20;
/// Tokens of a model; the largest of today have an eighth.
const MAX_TOKENS: usize = 1 << 21;
/// Tokens that are searched for in texts.
const MAX_ADDED: usize = 1 << 17;
/// Bytes of all of those together.
const MAX_ADDED_BYTES: usize = 1 << 24;
/// Merges of a model.
const MAX_MERGES: usize = 1 << 22;
/// Ids end below this.
const MAX_ID: u32 = 1 << 24;
/// Ids that may be unused, beside three for each token.
const MAX_GAP: usize = 1 << 16;
/// Bytes of a piece of a unigram model, each beginning of which may be looked at.
const MAX_PIECE: usize = 256;
/// Bytes of a text among the parameters of a component.
const MAX_TEXT: usize = 256;
/// Steps of one kind, those inside of sequences counted.
const MAX_STEPS: usize = 32;
/// How deep sequences lie in each other.
const MAX_DEPTH: usize = 8;
/// How much longer normalization and splitting may make a text.
const MAX_GROWTH: usize = 256;
/// Normal forms of Unicode in a row.
const MAX_FORMS: usize = 2;
/// Pieces, tokens and ids of tokens of a template.
const MAX_TEMPLATE: usize = 64;

/// A file that has passed.
pub(super) struct Checked<'a> {
    json: &'a [u8],
    /// The merges, in their order; none for a model without them.
    pub(super) merges: Merges<'a>,
}

impl<'a> Checked<'a> {
    /// # Errors
    /// [`TokenizerError::Json`] that names the component and what is wrong with it.
    pub(super) fn new(json: &'a [u8]) -> Result<Self, TokenizerError> {
        let merges = check(json).map_err(TokenizerError::Json)?;
        Ok(Self { json, merges })
    }

    /// The library's tokenizer for it, which takes texts as they are: neither padded nor cut.
    ///
    /// # Errors
    /// [`TokenizerError::Json`] for what the library does not accept.
    pub(super) fn library(&self) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let bad = |e: tokenizers::Error| TokenizerError::Json(e.to_string());
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(self.json).map_err(bad)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(bad)?;
        Ok(tokenizer)
    }
}

/// Checks the size of a `tokenizer.json` and its components, all but its tokens and what is about them: what other files
/// add to it may put those in order.
///
/// # Errors
/// [`TokenizerError::Json`] that names the component and what is wrong with it.
pub fn check_components(json: &[u8]) -> Result<(), TokenizerError> {
    read(json).map(drop).map_err(TokenizerError::Json)
}

/// A file whose components are in the list.
fn read(json: &[u8]) -> Result<File<'_>, String> {
    at_most("bytes", json.len(), MAX_BYTES)?;
    let file: File<'_> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let mut growth = Growth::default();
    if let Some(steps) = &file.normalizer {
        walk("normalizer", steps, "normalizers", &mut |step| self::normalizer(step, &mut growth))?;
    }
    if let Some(steps) = &file.pre_tokenizer {
        walk("pre_tokenizer", steps, "pretokenizers", &mut |step| self::pre_tokenizer(step, &mut growth))?;
    }
    if let Some(steps) = &file.decoder {
        walk("decoder", steps, "decoders", &mut self::decoder)?;
    }
    Ok(file)
}

/// The merges of a file in which everything is in order.
fn check(json: &[u8]) -> Result<Merges<'_>, String> {
    let File { added_tokens, post_processor, model, .. } = read(json)?;
    let ids = tokens(&model, &added_tokens)?;
    if let Some(steps) = &post_processor {
        walk("post_processor", steps, "processors", &mut |step| self::post_processor(step, &ids))?;
    }
    merges(model, &ids)
}

/// The ids that are in use, by place.
struct Ids {
    used: Vec<bool>,
    is_bpe: bool,
}

impl Ids {
    fn contains(&self, id: u32) -> bool {
        self.used.get(id as usize).copied().unwrap_or_default()
    }

    fn take(&mut self, id: u32, token: &str) -> Result<(), String> {
        match self.used.get_mut(id as usize) {
            None => {
                Err(format!("the token {} has id {id}; ids must be below {}", quoted(token), self.used.len()))
            }
            Some(used) if *used => Err(format!("two tokens have the id {id}, one of them {}", quoted(token))),
            Some(used) => {
                *used = true;
                Ok(())
            }
        }
    }
}

/// Checks tokens and ids, those of the model and the added ones.
fn tokens(model: &Model<'_>, added: &[AddedToken]) -> Result<Ids, String> {
    let is_bpe = match (model.kind.as_deref(), &model.vocab) {
        (Some("BPE") | None, Vocabulary::Ids(_)) if model.merges.is_some() => true,
        (Some("Unigram"), Vocabulary::Scores(_)) if model.merges.is_none() => false,
        (Some(kind @ ("BPE" | "Unigram")), _) => {
            return Err(format!("model {kind}: its vocabulary or its merges are those of another model"));
        }
        (kind, _) => {
            return Err(format!(
                "the model is {}; only `BPE` and `Unigram` are supported",
                kind.map_or("of no type".to_owned(), quoted)
            ));
        }
    };
    let count = model.vocab.len();
    at_most("tokens", count, MAX_TOKENS)?;
    at_most("added tokens", added.len(), MAX_ADDED)?;
    at_most("bytes of added tokens", added.iter().map(|t| t.content.len()).sum(), MAX_ADDED_BYTES)?;
    let limit = (4 * (count + added.len()) + MAX_GAP).min(MAX_ID as usize);
    let mut ids = Ids { used: vec![false; limit], is_bpe };
    let mut vocabulary: HashMap<&str, u32> = HashMap::with_capacity(count);
    let mut put = |token: &'_ str, id: u32| {
        ids.take(id, token)?;
        match token {
            "" => Err(format!("the token with id {id} is empty")),
            _ => Ok(()),
        }
    };
    match &model.vocab {
        Vocabulary::Ids(tokens) => {
            for (token, id) in tokens {
                put(token, *id)?;
                if vocabulary.insert(token, *id).is_some() {
                    return Err(format!("the vocabulary holds {} twice", quoted(token)));
                }
            }
        }
        Vocabulary::Scores(pieces) => {
            for ((piece, score), id) in pieces.iter().zip(0..) {
                put(piece, id)?;
                if piece.len() > MAX_PIECE || score.abs() > 1e6 {
                    return Err(format!(
                        "the piece {} with id {id} has {} bytes and the score {score}; allowed are {MAX_PIECE} bytes \
                         and scores of 1e6",
                        quoted(piece),
                        piece.len()
                    ));
                }
                if let Some(first) = vocabulary.insert(piece, id) {
                    let piece = quoted(piece);
                    return Err(format!("the vocabulary holds {piece} twice, as id {first} and as id {id}"));
                }
            }
            if model.unk_id.is_some_and(|id| id >= count as u64) {
                return Err(format!("model Unigram: unk_id is {:?} of {count} pieces", model.unk_id));
            }
        }
    }
    let mut next = count as u32; // where the library goes on
    let mut contents = HashMap::with_capacity(added.len());
    for AddedToken { id, content, .. } in added {
        let token = quoted(content);
        if content.is_empty() {
            return Err(format!("the added token with id {id} is empty"));
        }
        if let Some(first) = contents.insert(content.as_str(), *id) {
            return Err(format!("the added token {token} has two entries, with the ids {first} and {id}"));
        }
        match vocabulary.get(content.as_str()) {
            Some(known) if known == id => {}
            Some(known) => {
                return Err(format!(
                    "the added token {token} has id {id}, but the vocabulary gives it {known}"
                ));
            }
            None => {
                ids.take(*id, content)?;
                if *id != next {
                    return Err(format!(
                        "the added token {token} has id {id}, but the next that is free is {next}; such a token must be \
                         in the vocabulary too"
                    ));
                }
                next += 1;
            }
        }
    }
    Ok(ids)
}

/// Checks the rest of the model.
fn merges<'a>(model: Model<'a>, ids: &Ids) -> Result<Merges<'a>, String> {
    let affixes = [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (name, affix) in affixes {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return Err(format!("model: {name} is {}, which is not supported", quoted(affix)));
        }
    }
    if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
        return Err(format!("model: dropout is {dropout}: ids would be drawn at random"));
    }
    if !ids.is_bpe {
        return Ok(Vec::new());
    }
    let merges = model.merges.unwrap_or_default();
    at_most("merges", merges.len(), MAX_MERGES)?;
    let Vocabulary::Ids(tokens) = &model.vocab else { return Ok(Vec::new()) };
    let known: HashMap<&str, u32> = tokens.iter().map(|(token, id)| (&**token, *id)).collect();
    let mut whole = String::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        whole.clear();
        whole.extend([&**left, &**right]);
        for part in [left, right, whole.as_str()] {
            if !known.contains_key(part) {
                return Err(format!(
                    "model: merge {rank} joins {} and {}, but {} is no token of the vocabulary",
                    quoted(left),
                    quoted(right),
                    quoted(part)
                ));
            }
        }
    }
    Ok(merges)
}

/// A component's type and parameters.
struct Component<'a> {
    /// Its place in the file.
    place: &'a str,
    kind: &'a str,
    fields: &'a Map<String, Value>,
}

/// Visits every component of one place, those inside of sequences (whose list is named `members`) in their order.
fn walk(
    place: &str,
    value: &Value,
    members: &str,
    visit: &mut dyn FnMut(&Component<'_>) -> Result<(), String>,
) -> Result<(), String> {
    fn inner(
        (place, members): (&str, &str),
        value: &Value,
        depth: usize,
        count: &mut usize,
        visit: &mut dyn FnMut(&Component<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        *count += 1;
        if *count > MAX_STEPS || depth > MAX_DEPTH {
            return Err(format!(
                "{place}: more than {MAX_STEPS} steps, or more than {MAX_DEPTH} in each other"
            ));
        }
        let fields = value.as_object().ok_or_else(|| format!("{place}: a component must be an object"))?;
        let kind = fields.get("type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| format!("{place}: a component has no `type`"))?;
        let component = Component { place, kind, fields };
        if kind != "Sequence" {
            return visit(&component);
        }
        component.has_only(&[members])?;
        let steps = fields.get(members).and_then(Value::as_array);
        let steps = steps.ok_or_else(|| component.wrong(format!("`{members}` must be a list")))?;
        steps.iter().try_for_each(|step| inner((place, members), step, depth + 1, count, visit))
    }
    inner((place, members), value, 0, &mut 0, visit)
}

impl<'a> Component<'a> {
    fn wrong(&self, problem: impl AsRef<str>) -> String {
        format!("{} {}: {}", self.place, quoted(self.kind), problem.as_ref())
    }

    fn unknown<T>(&self, supported: &str) -> Result<T, String> {
        Err(self.wrong(format!("it is not supported; supported are {supported}")))
    }

    fn has_only(&self, known: &[&str]) -> Result<(), String> {
        match self.fields.keys().find(|name| *name != "type" && !known.contains(&name.as_str())) {
            Some(name) => Err(self.wrong(format!("it has the unknown parameter {}", quoted(name)))),
            None => Ok(()),
        }
    }

    /// Whether each of `names` is true, false or left out.
    fn has_flags(&self, names: &[&str]) -> Result<(), String> {
        let is_flag = |name: &&&str| self.fields.get(**name).is_none_or(|v| v.is_boolean() || v.is_null());
        match names.iter().find(|name| !is_flag(name)) {
            Some(name) => Err(self.wrong(format!("`{name}` must be true or false"))),
            None => Ok(()),
        }
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        let text = self.fields.get(name).and_then(Value::as_str);
        let text = text.ok_or_else(|| self.wrong(format!("`{name}` must be a text")))?;
        if text.len() > MAX_TEXT {
            return Err(self.wrong(format!("`{name}` has {} bytes, allowed are {MAX_TEXT}", text.len())));
        }
        Ok(text)
    }

    /// Checks a pattern, and returns the bytes of its shortest match.
    fn pattern(&self) -> Result<usize, String> {
        let pattern = self.fields.get("pattern").and_then(Value::as_object).filter(|p| p.len() == 1);
        let pattern = pattern
            .and_then(|pattern| pattern.iter().next())
            .and_then(|(k, v)| Some((k.as_str(), v.as_str()?)));
        match pattern {
            Some(("String", "")) => Err(self.wrong("its pattern is empty")),
            Some(("String", text)) if text.len() <= MAX_TEXT => Ok(text.len()),
            Some(("Regex", text)) => expression::check(text)
                .map_err(|problem| self.wrong(format!("its expression {} {problem}", quoted(text)))),
            _ => Err(self
                .wrong(format!("its pattern must be a `Regex`, or a `String` of at most {MAX_TEXT} bytes"))),
        }
    }
}

/// How much longer a text can become.
struct Growth {
    factor: usize,
    forms: usize,
}

impl Default for Growth {
    fn default() -> Self {
        Self { factor: 1, forms: 0 }
    }
}

impl Growth {
    /// Counts in a step that makes `to` bytes of `from`.
    fn by(&mut self, step: &Component<'_>, from: usize, to: usize) -> Result<(), String> {
        self.factor = self.factor.saturating_mul(to.div_ceil(from.max(1)).max(1));
        if self.factor > MAX_GROWTH {
            return Err(step.wrong(format!(
                "with the steps before it a text could become {} times longer; allowed is {MAX_GROWTH}",
                self.factor
            )));
        }
        Ok(())
    }
}

fn normalizer(step: &Component<'_>, growth: &mut Growth) -> Result<(), String> {
    match step.kind {
        "NFC" | "NFD" | "NFKC" | "NFKD" => {
            step.has_only(&[])?;
            growth.forms += 1;
            if growth.forms > MAX_FORMS {
                return Err(step.wrong(format!("more than {MAX_FORMS} normal forms in a row")));
            }
            // The largest expansions in UTF-8: U+1D160, and U+FDFA of three bytes with 33.
            growth.by(step, 1, if step.kind.contains('K') { 11 } else { 3 })
        }
        "Lowercase" => {
            step.has_only(&[])?;
            growth.by(step, 1, 2)
        }
        "StripAccents" | "Nmt" => step.has_only(&[]),
        "Strip" => {
            step.has_only(&["strip_left", "strip_right"])?;
            step.has_flags(&["strip_left", "strip_right"])
        }
        "ByteLevel" => {
            step.has_only(&[])?;
            growth.by(step, 1, 2)
        }
        "Prepend" => {
            step.has_only(&["prepend"])?;
            step.text("prepend").map(drop)
        }
        "Replace" => {
            step.has_only(&["pattern", "content"])?;
            let (from, to) = (step.pattern()?, step.text("content")?.len());
            growth.by(step, from, to)
        }
        "Precompiled" => {
            step.has_only(&["precompiled_charsmap"])?;
            let map = step.fields.get("precompiled_charsmap").and_then(Value::as_str);
            let map = map.ok_or_else(|| step.wrong("`precompiled_charsmap` must be a text"))?;
            let factor = charsmap::check(map).map_err(|problem| step.wrong(problem))?;
            growth.by(step, 1, factor)
        }
        _ => step.unknown(
            "Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Nmt, Strip, ByteLevel, Prepend, Replace, \
             Precompiled",
        ),
    }
}

fn pre_tokenizer(step: &Component<'_>, growth: &mut Growth) -> Result<(), String> {
    match step.kind {
        "ByteLevel" => {
            byte_level(step)?;
            growth.by(step, 1, 2)
        }
        "Metaspace" => {
            metaspace(step)?;
            growth.by(step, 1, 3)
        }
        "Split" => {
            step.has_only(&["pattern", "behavior", "invert"])?;
            step.has_flags(&["invert"])?;
            step.pattern().map(drop)
        }
        "Digits" => {
            step.has_only(&["individual_digits"])?;
            step.has_flags(&["individual_digits"])
        }
        "Punctuation" => step.has_only(&["behavior"]),
        "Whitespace" | "WhitespaceSplit" | "UnicodeScripts" => step.has_only(&[]),
        _ => step.unknown(
            "Sequence, ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, UnicodeScripts",
        ),
    }
}

fn byte_level(step: &Component<'_>) -> Result<(), String> {
    const FLAGS: [&str; 3] = ["add_prefix_space", "trim_offsets", "use_regex"];
    step.has_only(&FLAGS)?;
    step.has_flags(&FLAGS)
}

fn metaspace(step: &Component<'_>) -> Result<(), String> {
    step.has_only(&["replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"])?;
    step.has_flags(&["split", "add_prefix_space"])?;
    match step.text("replacement")?.chars().count() {
        1 => Ok(()),
        count => Err(step.wrong(format!("`replacement` has {count} characters, it must have one"))),
    }
}

/// Tokens are turned back into text without the library: a decoder only says how they are spelled.
fn decoder(step: &Component<'_>) -> Result<(), String> {
    match step.kind {
        "ByteLevel" => byte_level(step),
        "Metaspace" => metaspace(step),
        "Replace" => {
            step.has_only(&["pattern", "content"])?;
            step.pattern()?;
            step.text("content").map(drop)
        }
        "Strip" => {
            step.has_only(&["content", "start", "stop"])?;
            step.text("content").map(drop)
        }
        "ByteFallback" | "Fuse" => step.has_only(&[]),
        _ => Err(step.wrong(
            "it is neither `ByteLevel` nor that of SentencePiece (`Metaspace`, or `Replace` of \u{2581} with \
             `ByteFallback`), the kinds that this build turns back into text",
        )),
    }
}

fn post_processor(step: &Component<'_>, ids: &Ids) -> Result<(), String> {
    match step.kind {
        "ByteLevel" => byte_level(step),
        "RobertaProcessing" | "BertProcessing" => {
            step.has_only(&["sep", "cls", "trim_offsets", "add_prefix_space"])?;
            step.has_flags(&["trim_offsets", "add_prefix_space"])?;
            for name in ["sep", "cls"] {
                let id = step.fields.get(name).and_then(|pair| pair.get(1)).and_then(Value::as_u64);
                if !id.and_then(|id| u32::try_from(id).ok()).is_some_and(|id| ids.contains(id)) {
                    return Err(step.wrong(format!("`{name}` must be a token and its id")));
                }
            }
            Ok(())
        }
        "TemplateProcessing" => template(step, ids),
        _ => step.unknown("Sequence, ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing"),
    }
}

/// A template puts tokens around texts: the one text exactly once, and only tokens that it has ids for.
fn template(step: &Component<'_>, ids: &Ids) -> Result<(), String> {
    step.has_only(&["single", "pair", "special_tokens"])?;
    let empty = Map::new();
    let tokens = match step.fields.get("special_tokens") {
        None => &empty,
        Some(tokens) => tokens.as_object().ok_or_else(|| step.wrong("`special_tokens` must be an object"))?,
    };
    let too_many = |what: &str| step.wrong(format!("more than {MAX_TEMPLATE} {what}"));
    if tokens.len() > MAX_TEMPLATE {
        return Err(too_many("tokens"));
    }
    for (name, token) in tokens {
        let list = |key: &str| token.get(key).and_then(Value::as_array);
        let (Some(own_ids), Some(texts)) = (list("ids"), list("tokens")) else {
            return Err(step.wrong(format!("the token {} has no ids or no texts", quoted(name))));
        };
        if own_ids.len() > MAX_TEMPLATE || own_ids.len() != texts.len() {
            return Err(too_many("ids of a token, or not as many texts"));
        }
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        if let Some(wrong) = own_ids.iter().find(|value| !id(value).is_some_and(|id| ids.contains(id))) {
            return Err(
                step.wrong(format!("the token {} has the id {wrong}, which no token has", quoted(name)))
            );
        }
    }
    for (name, texts) in [("single", &["A"][..]), ("pair", &["A", "B"])] {
        let pieces = step.fields.get(name).and_then(Value::as_array);
        let pieces = pieces.ok_or_else(|| step.wrong(format!("`{name}` must be a list of pieces")))?;
        if pieces.len() > MAX_TEMPLATE {
            return Err(too_many("pieces"));
        }
        let id = |piece: &'_ Value, kind: &str| {
            piece.get(kind).and_then(|piece| piece.get("id")).and_then(Value::as_str).map(str::to_owned)
        };
        let mut found = Vec::new();
        for piece in pieces {
            match (id(piece, "Sequence"), id(piece, "SpecialToken")) {
                (Some(text), None) => found.push(text),
                (None, Some(token)) if tokens.contains_key(&token) => {}
                (None, Some(token)) => {
                    return Err(step
                        .wrong(format!("`{name}` has the token {}, which is not defined", quoted(&token))));
                }
                _ => return Err(step.wrong(format!("`{name}` has a piece that is neither text nor token"))),
            }
        }
        let is_whole = match name {
            "single" => found == texts,
            // Only of interest where two texts are given, which is never done.
            _ => found.iter().all(|text| texts.contains(&text.as_str())),
        };
        if !is_whole {
            return Err(step.wrong(format!("`{name}` holds the texts {found:?}, not {texts:?}")));
        }
    }
    Ok(())
}

fn at_most(what: &str, found: usize, limit: usize) -> Result<(), String> {
    if found > limit { Err(format!("{found} {what}, allowed are {limit}")) } else { Ok(()) }
}

/// A text of the file as error messages show it: in quotes, and no more than its beginning.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}
