//! Golden outputs: made at pack time by the very package, replayed by `aibit verify --run`.

use aibit_format::hex;
use aibit_tokenizer::{Agreement, Tokenizer, TokenizerError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::sampler::largest;
use crate::{Executor, Profile, RuntimeError, Session};

/// Version of the arithmetic of profile `fast`: results are bit-equal across machines, instruction sets and
/// threads while this number stays. Whoever changes a rounding or an order of summation raises it.
pub const NUMERICS: u32 = 2;

/// Largest difference of a logit between versions of the arithmetic that is still the same model. On the golden tiny
/// model, int8 activations as a whole move logits by up to 0.20 (`fixtures/golden/README.md`); another order of
/// roundings moves single codes among them.
const LOGIT_TOLERANCE: f32 = 0.25;

/// Short texts of different kinds: prose, code, digits, white space, accents, other scripts, emoji.
const TEXTS: [&str; 8] = [
    "The history of the city begins with a river, a bridge and a market.",
    "fn main() {\n    let x: u32 = 0x1f + 42;\n\tprintln!(\"{x}\");\n}\n",
    "It's 3.14159, they'll say; we've counted 1,234,567 (or 2^20) of them!",
    "  leading, trailing and   inner   spaces  \n\n\n",
    "Zażółć gęślą jaźń — naïve café, Ærøskøbing, ÅÄÖ",
    "漢字かな交じり文 и немного кириллицы, العربية",
    "👩\u{200d}🚀 🏳️\u{200d}🌈 e\u{301} \u{feff}\u{0}",
    "supercalifragilisticexpialidocious antidisestablishmentarianism AAAAAAAAAAAAAAAA",
];

/// What decides the ids in `tokenizer.json`.
const RULES: [&str; 4] = ["added_tokens", "normalizer", "pre_tokenizer", "model"];

/// Most tokens of a greedy continuation.
const MAX_CONTINUATION: usize = 16;

/// What is recorded.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// How many of [`TEXTS`] are run.
    prompts: usize,
    /// Most tokens of each.
    prompt_tokens: usize,
    /// Tokens of its continuation.
    continuation: usize,
}

impl Extent {
    /// Less for larger models, since every token of a continuation reads all weights: some seconds at any size.
    fn of(weights_bytes: u64) -> Self {
        match weights_bytes {
            0..500_000_000 => Self { prompts: 4, prompt_tokens: 24, continuation: MAX_CONTINUATION },
            500_000_000..4_000_000_000 => Self { prompts: 2, prompt_tokens: 24, continuation: 6 },
            _ => Self { prompts: 1, prompt_tokens: 16, continuation: 4 },
        }
    }
}

/// The content of `golden.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// [`NUMERICS`] of the build that made it.
    pub numerics: u32,
    /// Name of the profile.
    pub profile: String,
    /// What the tokenizer must give.
    pub tokenizer: GoldenTokenizer,
    /// What the model must give.
    pub runs: Vec<GoldenRun>,
}

/// What the tokenizer must give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenTokenizer {
    /// Texts and their ids.
    pub cases: Vec<GoldenText>,
    /// SHA-256 over the ids (u32, little-endian, `u32::MAX` after each) of every token's own text.
    pub vocabulary_sha256: String,
    /// SHA-256 over the rules of `tokenizer.json`, those under `added_tokens`, `normalizer`, `pre_tokenizer` and `model`,
    /// as compact JSON with sorted keys (`docs/format.md` says how). Texts cannot reach the order of every pair of merges.
    pub rules_sha256: String,
}

/// A text and its ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenText {
    /// The text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

/// A prompt, its greedy continuation and its logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenRun {
    /// The prompt.
    pub prompt_ids: Vec<u32>,
    /// Greedy continuation.
    pub greedy_ids: Vec<u32>,
    /// SHA-256 over the logits after every prompt token (f32, little-endian).
    pub logits_sha256: String,
    /// The five largest logits after the prompt: `(id, logit)`.
    pub top: Vec<(u32, f32)>,
}

/// One comparison made by [`Golden::replay`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// Whether it was as it should be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

impl Golden {
    /// Runs the package on the built-in texts, on fewer of them where the model is large. `tokenizer_json` is the entry that
    /// `tokenizer` was made from. `on_pass` gets the share of the work that is done, from 0 to 1, after each pass.
    ///
    /// # Errors
    /// Whatever keeps the package from running; [`RuntimeError::Tokenizer`] where no text gives tokens of the model.
    pub fn record(
        model: &dyn Executor,
        tokenizer: &Tokenizer,
        tokenizer_json: &[u8],
        on_pass: &mut dyn FnMut(f64),
    ) -> Result<Self, RuntimeError> {
        let extent = Extent::of(model.limits().weights_bytes);
        let mut passes = 0;
        let mut passed = || {
            passes += 1;
            on_pass(f64::from(passes) / (extent.prompts * extent.continuation) as f64);
        };
        let mut cases = Vec::new();
        for text in TEXTS {
            cases.push(GoldenText { text: text.to_owned(), ids: tokenizer.encode(text)? });
        }
        let vocabulary = model.limits().vocabulary;
        let mut runs = Vec::new();
        for case in &cases {
            // Short enough for the smallest context; without tokens that the model has no row for.
            let length = (model.limits().context / 2).clamp(1, extent.prompt_tokens);
            let prompt = case.ids.iter().copied().take(length).take_while(|&id| (id as usize) < vocabulary);
            let prompt: Vec<u32> = prompt.collect();
            if !prompt.is_empty() && runs.len() < extent.prompts {
                runs.push(run(model, &prompt, extent.continuation, &mut passed)?);
            }
        }
        if runs.is_empty() {
            return Err(RuntimeError::Tokenizer(TokenizerError::Json(format!(
                "none of {} texts of prose, code and digits begins with a token of the model's {vocabulary}: the \
                 tokenizer encodes them to nothing, or is that of another model",
                TEXTS.len()
            ))));
        }
        let tokenizer = GoldenTokenizer {
            cases,
            vocabulary_sha256: vocabulary_digest(tokenizer)?,
            rules_sha256: rules_digest(tokenizer_json)?,
        };
        Ok(Self { numerics: NUMERICS, profile: Profile::Fast.name().to_owned(), tokenizer, runs })
    }

    /// Reads `golden.json`.
    ///
    /// # Errors
    /// [`RuntimeError::Golden`] for malformed JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, RuntimeError> {
        serde_json::from_slice(json).map_err(|e| RuntimeError::Golden(e.to_string()))
    }

    /// The JSON, the same bytes for equal results.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("finite numbers and strings")
    }

    /// Runs the package again and compares.
    ///
    /// Logits are compared bit for bit where the arithmetic is that of the build that recorded them
    /// ([`NUMERICS`]), and within a tolerance otherwise.
    ///
    /// # Errors
    /// Whatever keeps the package from running.
    pub fn replay(
        &self,
        model: &dyn Executor,
        tokenizer: &Tokenizer,
        tokenizer_json: &[u8],
    ) -> Result<Vec<Check>, RuntimeError> {
        if self.profile != Profile::Fast.name() || self.runs.is_empty() || self.tokenizer.cases.is_empty() {
            return Err(RuntimeError::Golden(format!(
                "{} runs in profile `{:.80}` and {} texts; there must be some of both, in profile `{}`",
                self.runs.len(),
                self.profile,
                self.tokenizer.cases.len(),
                Profile::Fast
            )));
        }
        let mut checks = Vec::new();
        for (index, case) in self.tokenizer.cases.iter().enumerate() {
            let ids = tokenizer.encode(&case.text)?;
            checks.push(compare(format!("tokenizer, text {index}"), &case.ids, &ids));
        }
        let digest = vocabulary_digest(tokenizer)?;
        checks.push(Check {
            name: "tokenizer, every token".into(),
            ok: digest == self.tokenizer.vocabulary_sha256,
            detail: format!("digest {} of the ids of every token's text", &digest[..12]),
        });
        let digest = rules_digest(tokenizer_json)?;
        checks.push(Check {
            name: "tokenizer, rules".into(),
            ok: digest == self.tokenizer.rules_sha256,
            detail: format!("digest {} of the rules of tokenizer.json", &digest[..12]),
        });
        if tokenizer.is_compiled() {
            let Agreement { ok, detail } = tokenizer.agrees_with_json(tokenizer_json)?;
            checks.push(Check { name: "tokenizer, compiled and not".to_owned(), ok, detail });
        }
        for (index, golden) in self.runs.iter().enumerate() {
            let continuation = golden.greedy_ids.len().min(MAX_CONTINUATION);
            let found = run(model, &golden.prompt_ids, continuation, &mut || {})?;
            if self.numerics == NUMERICS {
                checks.push(compare(
                    format!("greedy ids, prompt {index}"),
                    &golden.greedy_ids,
                    &found.greedy_ids,
                ));
            } // between versions of the arithmetic two close logits may change places
            checks.push(self.compare_logits(index, golden, &found));
        }
        Ok(checks)
    }

    fn compare_logits(&self, index: usize, golden: &GoldenRun, found: &GoldenRun) -> Check {
        let name = format!("logits, prompt {index}");
        let difference = golden
            .top
            .iter()
            .map(|(id, logit)| match found.top.iter().find(|(other, _)| other == id) {
                Some((_, other)) => (logit - other).abs(),
                None => f32::INFINITY,
            })
            .fold(0.0, f32::max);
        if self.numerics == NUMERICS {
            let ok = golden.logits_sha256 == found.logits_sha256;
            let equal = if ok { "bit-equal" } else { "not bit-equal" };
            let detail = format!("{equal}; largest difference among the top five {difference}");
            return Check { name, ok, detail };
        }
        let detail = format!(
            "largest difference among the top five {difference}, allowed is {LOGIT_TOLERANCE} between versions of the \
             arithmetic ({} and {NUMERICS})",
            self.numerics
        );
        Check { name, ok: !golden.top.is_empty() && difference <= LOGIT_TOLERANCE, detail }
    }
}

fn compare(name: String, expected: &[u32], found: &[u32]) -> Check {
    let difference = (0..expected.len().max(found.len())).find(|&i| expected.get(i) != found.get(i));
    let detail = match difference {
        None => format!("{} ids as recorded", expected.len()),
        Some(at) => format!("id {at} is {:?}, recorded was {:?}", found.get(at), expected.get(at)),
    };
    Check { name, ok: difference.is_none(), detail }
}

/// Appends `prompt` to an empty sequence, and up to `continuation` tokens, each the likeliest after those before.
fn run(
    model: &dyn Executor,
    prompt: &[u32],
    continuation: usize,
    passed: &mut dyn FnMut(),
) -> Result<GoldenRun, RuntimeError> {
    let vocabulary = model.limits().vocabulary;
    let mut session = Session::new(model, Profile::Fast, prompt.len() + continuation)?;
    let mut digest = Sha256::new();
    let mut last = Vec::new();
    session.append_all(prompt, |_, logits| {
        digest.update(bytemuck::cast_slice::<f32, u8>(logits));
        last = logits[logits.len() - vocabulary..].to_vec();
    })?;
    passed();
    let top = top_five(&last);
    let mut greedy_ids = Vec::new();
    let mut logits = last.as_slice();
    while greedy_ids.len() < continuation {
        let (id, _) = largest(logits)?;
        greedy_ids.push(id);
        if greedy_ids.len() == continuation || session.len() == session.capacity() {
            break; // nobody reads what comes then
        }
        logits = session.append(&[id])?;
        passed();
    }
    Ok(GoldenRun { prompt_ids: prompt.to_vec(), greedy_ids, logits_sha256: hex(&digest.finalize()), top })
}

/// The five largest logits with their ids, largest first, of equal ones the lowest id.
fn top_five(logits: &[f32]) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(6);
    for (id, &logit) in (0..).zip(logits) {
        let at = top.iter().position(|(_, other)| logit.total_cmp(other).is_gt()).unwrap_or(top.len());
        if at < 5 {
            top.insert(at, (id, logit));
            top.truncate(5);
        }
    }
    top
}

/// Encodes the text of every token: reaches every merge rule, which short texts cannot.
fn vocabulary_digest(tokenizer: &Tokenizer) -> Result<String, RuntimeError> {
    let mut digest = Sha256::new();
    for id in 0..tokenizer.id_limit() as u32 {
        let text = String::from_utf8_lossy(&tokenizer.bytes(id)).into_owned();
        for id in tokenizer.encode(&text)?.into_iter().chain([u32::MAX]) {
            digest.update(id.to_le_bytes());
        }
    }
    Ok(hex(&digest.finalize()))
}

fn rules_digest(tokenizer_json: &[u8]) -> Result<String, RuntimeError> {
    let json: serde_json::Value =
        serde_json::from_slice(tokenizer_json).map_err(|e| TokenizerError::Json(e.to_string()))?;
    let mut digest = Sha256::new();
    for key in RULES {
        let rules = serde_json::to_vec(&json[key]).map_err(|e| TokenizerError::Json(e.to_string()))?;
        digest.update(key.as_bytes());
        digest.update(rules);
    }
    Ok(hex(&digest.finalize()))
}
