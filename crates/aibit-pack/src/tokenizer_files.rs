//! Assembles one `tokenizer.json` from all of a folder's tokenizer files.
//!
//! There may be a `tokenizer.json`, the older pair `vocab.json` and `merges.txt`, or SentencePiece's
//! `tokenizer.model`; in addition `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` add
//! tokens and change settings. The result is equivalent to what transformers loads.

mod class;
mod names;
mod sentencepiece;
#[cfg(test)]
mod tests;
mod tokens;

use aibit_format::entry_names;
use aibit_tokenizer::{TokenizerError, check_components};
use serde_json::{Map, Value, json};

use self::class::Class;
use self::names::Names;
use self::tokens::Tokens;
use crate::{ModelSource, PackError};

/// The older pair of files.
pub(crate) const VOCABULARY: &str = "vocab.json";
pub(crate) const MERGES: &str = "merges.txt";

const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const SENTENCEPIECE: &str = "tokenizer.model";

/// The tokenizer's JSON and the names of the files it was made from, except those that are carried over.
pub(crate) struct TokenizerFiles {
    pub(crate) json: Vec<u8>,
    pub(crate) read: Vec<&'static str>,
}

/// A JSON object's fields.
type Object = Map<String, Value>;

/// A problem and the file in which it is.
struct Problem(&'static str, String);

/// A source's tokenizer; the unchanged bytes of its `tokenizer.json` if the other files add nothing to it.
///
/// # Errors
/// [`PackError::SourceFile`] for contradicting files and for an unknown tokenizer class.
pub(crate) fn load(source: &ModelSource) -> Result<TokenizerFiles, PackError> {
    let problem = |Problem(file, problem)| PackError::SourceFile { path: source.folder.join(file), problem };
    let own = source.read(entry_names::TOKENIZER)?;
    if let Some(json) = &own
        && !source.whole_files().is_empty()
    {
        return Ok(TokenizerFiles { json: json.clone(), read: vec![entry_names::TOKENIZER] });
    }
    let object = |name: &'static str| -> Result<Option<Object>, PackError> {
        let Some(json) = source.read(name)? else { return Ok(None) };
        serde_json::from_slice(&json).map(Some).map_err(|e| problem(Problem(name, e.to_string())))
    };
    let mut names = Names::default();
    for file in [CONFIG, SPECIAL_TOKENS] {
        if let Some(json) = source.read(file)? {
            names.read(&json).map_err(|text| problem(Problem(file, text)))?;
        }
    }
    let mut settings = Settings {
        names,
        config: object(CONFIG)?.unwrap_or_default(),
        special_tokens: object(SPECIAL_TOKENS)?.unwrap_or_default(),
        added_tokens: object(ADDED_TOKENS)?,
        class: None,
        puts_space: false,
    };
    let model = object(entry_names::CONFIG)?.unwrap_or_default();
    settings.class = Class::name(&model, &settings.config);
    let mut read = Vec::new();
    if settings.added_tokens.is_some() {
        read.push(ADDED_TOKENS);
    }
    let mut file = if let Some(json) = &own {
        read.push(entry_names::TOKENIZER);
        // Before it is read as a whole.
        check_components(json).map_err(|e| match e {
            TokenizerError::Json(text) => problem(Problem(entry_names::TOKENIZER, text)),
            other => other.into(),
        })?;
        serde_json::from_slice(json).map_err(|e| problem(Problem(entry_names::TOKENIZER, e.to_string())))?
    } else if let (Some(vocab), Some(merges)) = (source.read(VOCABULARY)?, source.read(MERGES)?) {
        read.extend([VOCABULARY, MERGES]);
        let class = Class::of_pair(settings.class.as_deref()).map_err(problem)?;
        class.tokenizer(&vocab, &merges).map_err(problem)?
    } else if let Some(bytes) = source.read(SENTENCEPIECE)? {
        read.push(SENTENCEPIECE);
        let is_legacy = settings.config.get("legacy").and_then(Value::as_bool).unwrap_or(true);
        let model = sentencepiece::Model::parse(&bytes)
            .map_err(|problem| format!("{problem}; {CONVERT}"))
            .map_err(|text| problem(Problem(SENTENCEPIECE, text)))?;
        settings.take_names(&model);
        model
            .tokenizer(is_legacy)
            .map_err(|text| problem(Problem(SENTENCEPIECE, format!("{text}; {CONVERT}"))))?
    } else {
        let problem =
            "it holds no tokenizer: tokenizer.json, or vocab.json with merges.txt, or SentencePiece's \
                       tokenizer.model"
                .to_owned();
        return Err(PackError::NotAModel { path: source.folder.clone(), problem });
    };
    // The parts that settings change, except the vocabulary, which they only extend.
    let state = |file: &Object| {
        let size = file.get("model").and_then(|model| model["vocab"].as_object()).map_or(0, Object::len);
        let parts = ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"]
            .map(|name| file.get(name).cloned());
        (parts, size)
    };
    let before = state(&file);
    settings.complete(&mut file, own.is_some()).map_err(problem)?;
    let json = match own {
        Some(json) if state(&file) == before => json,
        _ => serde_json::to_vec(&Value::Object(file)).expect("names are strings"),
    };
    Ok(TokenizerFiles { json, read })
}

/// How to create a `tokenizer.json` for a folder.
const CONVERT: &str = "convert it with transformers, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), and \
                       pack what has a tokenizer.json then";

/// The settings in addition to the tokenizer itself.
struct Settings {
    /// In file order, which determines the ids of tokens without an explicit one.
    names: Names,
    config: Object,
    special_tokens: Object,
    added_tokens: Option<Object>,
    class: Option<String>,
    /// Whether a space is prepended to each part of a text between added tokens.
    puts_space: bool,
}

impl Settings {
    /// Takes the names of special tokens from a SentencePiece model, unless the files give them.
    fn take_names(&mut self, model: &sentencepiece::Model) {
        self.puts_space = model.adds_prefix();
        for (name, piece) in model.names() {
            if !self.config.contains_key(name) {
                self.config.insert(name.to_owned(), piece.into());
            }
        }
    }

    /// Adds the settings to `file`.
    fn complete(mut self, file: &mut Object, is_own: bool) -> Result<(), Problem> {
        let class = self.class.as_deref().and_then(Class::of_name);
        let flag = |name: &str| self.config.get(name).and_then(Value::as_bool);
        let (puts_space, adds_bos) = (flag("add_prefix_space"), flag("add_bos_token").unwrap_or_default());
        let config = std::mem::take(&mut self.config);
        let mut tokens = Tokens::of(file).map_err(|text| Problem(entry_names::TOKENIZER, text))?;
        let bos = self.add_tokens(config, &mut tokens, class)?;
        let bos = bos.and_then(|token| Some((tokens.id(&token)?, token)));
        tokens.write(file).map_err(|text| Problem(CONFIG, text))?;
        match (class, self.class.as_deref()) {
            (Some(class), _) => class.set_prefix_space(file, puts_space.unwrap_or_default()),
            (None, Some("LlamaTokenizer")) if puts_space == Some(false) => class::remove_prefix_space(file),
            _ => {}
        }
        if let Some((id, token)) = bos.filter(|_| adds_bos && !is_own) {
            file.insert("post_processor".into(), prompts_prefix(&token, id));
        }
        Ok(())
    }

    /// Adds the tokens that the files name, and returns the BOS token.
    fn add_tokens(
        &self,
        mut config: Object,
        tokens: &mut Tokens,
        class: Option<&Class>,
    ) -> Result<Option<String>, Problem> {
        let is_empty = |value: Option<&Value>| match value {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(fields)) => fields.is_empty(),
            value => value.is_none_or(Value::is_null),
        };
        if is_empty(config.get(EXTRA))
            && let Some(additional) = config.remove(ADDITIONAL)
        {
            config.insert(EXTRA.into(), additional);
        }
        check_fields(&config).map_err(|text| Problem(CONFIG, text))?;
        if let Some(decoder) = config.get("added_tokens_decoder").filter(|decoder| !decoder.is_null()) {
            let entries = decoder.as_object().into_iter().flatten().map(|(id, token)| {
                let id = id.parse::<u32>().map_err(|_| format!("added_tokens_decoder has the id {id:?}"))?;
                let mut token = tokens::Token::of(token, false)
                    .ok_or_else(|| format!("added_tokens_decoder has no token for id {id}"))?;
                token.normalized &= !self.puts_space;
                Ok((id, token))
            });
            let mut entries: Vec<_> =
                entries.collect::<Result<_, String>>().map_err(|text| Problem(CONFIG, text))?;
            entries.sort_by_key(|(id, _)| *id);
            for (id, token) in entries {
                tokens.add(token, Some(id)).map_err(|text| Problem(CONFIG, text))?;
            }
        } else {
            self.merge_special_tokens(&mut config);
            check_fields(&config).map_err(|text| Problem(SPECIAL_TOKENS, text))?;
            let specials = self.specials(&config, None);
            let mut entries = Vec::new();
            for (content, id) in self.added_tokens.iter().flatten() {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id =
                    id.ok_or_else(|| Problem(ADDED_TOKENS, format!("the token {content:?} has no id")))?;
                entries.push((id, content));
            }
            entries.sort_unstable();
            for (id, content) in entries {
                let special = specials.iter().any(|token| token.content == *content);
                let token = tokens::Token {
                    normalized: !special && !self.puts_space,
                    ..tokens::Token::new(content, special)
                };
                tokens.add_missing(token, Some(id)).map_err(|text| Problem(ADDED_TOKENS, text))?;
            }
        }
        for token in self.specials(&config, class) {
            tokens.add_missing(token, None).map_err(|text| Problem(CONFIG, text))?;
        }
        Ok(named(&config, class, "bos_token").map(|token| token.content))
    }

    /// Merges `special_tokens_map.json` as transformers does: only if the configuration lists no added tokens, and
    /// then with precedence over the configuration.
    fn merge_special_tokens(&self, config: &mut Object) {
        for (name, value) in &self.special_tokens {
            let value = match (name.as_str(), value) {
                (EXTRA, Value::Array(more)) => {
                    let mut list = config.get(EXTRA).and_then(Value::as_array).cloned().unwrap_or_default();
                    list.extend(
                        more.iter().filter(|token| !list.contains(token)).cloned().collect::<Vec<_>>(),
                    );
                    list.into()
                }
                _ => value.clone(),
            };
            config.insert(name.clone(), value);
        }
        if !config.contains_key(EXTRA)
            && let Some(additional) = config.remove(ADDITIONAL)
        {
            config.insert(EXTRA.into(), additional);
        }
    }

    /// The special tokens that a configuration names, in the order in which missing ones are added.
    fn specials(&self, config: &Object, class: Option<&Class>) -> Vec<tokens::Token> {
        let mut found: Vec<_> = NAMED.iter().filter_map(|name| named(config, class, name)).collect();
        let is_other = |name: &&str| name.ends_with("_token") && !NAMED.contains(name);
        let others = self.names.in_order(config).into_iter().filter(is_other);
        found.extend(others.filter_map(|name| named(config, None, name)));
        match config.get(EXTRA) {
            Some(Value::Object(tokens)) => {
                let names = self.names.in_order(tokens);
                found.extend(names.into_iter().filter_map(|name| named(tokens, None, name)));
            }
            Some(Value::Array(tokens)) => {
                found.extend(tokens.iter().filter_map(|token| tokens::Token::of(token, true)));
            }
            _ => {}
        }
        found
    }
}

const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";

/// Fields that name a special token, in the order in which transformers adds missing ones.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Checks the types of the special-token fields.
fn check_fields(config: &Object) -> Result<(), String> {
    let is_token = |value: &Value| {
        value.is_null() || value.as_str() == Some("") || tokens::Token::of(value, true).is_some()
    };
    let fields = NAMED.iter().filter_map(|name| Some((*name, config.get(*name)?)));
    let wrong = |value: &Value| value.to_string().chars().take(60).collect::<String>();
    if let Some((name, value)) = fields.into_iter().find(|(_, value)| !is_token(value)) {
        return Err(format!("`{name}` is {}, which is not a token", wrong(value)));
    }
    let list = config.get(EXTRA).and_then(Value::as_array).into_iter().flatten();
    match list.into_iter().find(|value| !is_token(value)) {
        Some(value) => {
            Err(format!("`{EXTRA}` or `{ADDITIONAL}` holds {}, which is not a token", wrong(value)))
        }
        None => Ok(()),
    }
}

/// The token that a field names, or the class's default.
fn named(config: &Object, class: Option<&Class>, name: &str) -> Option<tokens::Token> {
    let token = match config.get(name) {
        Some(value) => tokens::Token::of(value, true),
        None => {
            class.and_then(|class| class.default_token(name)).map(|content| tokens::Token::new(content, true))
        }
    };
    token.map(|token| tokens::Token { special: true, ..token })
}

/// The step that prepends a token to prompts.
fn prompts_prefix(token: &str, id: u32) -> Value {
    let text = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    let bos = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [bos, text("A", 0)],
        "pair": [bos, text("A", 0), text("B", 1)],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
    })
}
