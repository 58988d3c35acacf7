//! Pre-tokenizers: splitting of a text into pieces that merges do not cross.
//!
//! A GGUF file names one that llama.cpp implements; `tokenizer.json` lists the steps. Source: the values of
//! `tokenizer_pre` and their expressions in llama.cpp's `llama-vocab.cpp`.

use serde::{Deserialize, Serialize};

/// What llama.cpp does for certain values of `tokenizer.ggml.pre`.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// Values of the key; the first is the one written.
    names: &'static [&'static str],
    pub(super) splitting: Splitting,
    /// Whether a piece that is a token is not split further.
    pub(super) ignore_merges: bool,
    /// Whether a BOS token is prepended if the file does not say.
    pub(super) add_bos: bool,
}

/// How text is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Splitting {
    /// The expression of GPT-2.
    Gpt2,
    /// Every digit separately, the rest by GPT-2's expression.
    Digits,
    /// Llama 3's expression: up to three digits together.
    Llama3,
    /// Qwen 2's expression: Llama 3's with single digits.
    Qwen2,
}

// Without the names for encoders, whose mask token absorbs the spaces before it.
static KNOWN: [PreTokenizer; 5] = [
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        splitting: Splitting::Gpt2,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        splitting: Splitting::Digits,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        splitting: Splitting::Llama3,
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["smaug-bpe", "dbrx", "chatglm-bpe"],
        splitting: Splitting::Llama3,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        splitting: Splitting::Qwen2,
        ignore_merges: false,
        add_bos: false,
    },
];

impl PreTokenizer {
    /// The pre-tokenizer for a value of `tokenizer.ggml.pre`.
    pub(super) fn of_name(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.names.contains(&name))
    }

    /// The pre-tokenizer with these properties.
    pub(super) fn of(splitting: Splitting, ignore_merges: bool) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.splitting == splitting && known.ignore_merges == ignore_merges)
    }

    /// The value of `tokenizer.ggml.pre` to write.
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }
}

// As in the models' own `tokenizer.json`. llama.cpp spells the contractions out, `'[sS]|'[tT]|...`, and so does not
// split off U+017F, which `(?i:'s)` matches too.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A step of `tokenizer.json`, of the kinds used by the known pre-tokenizers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Step {
    Sequence {
        pretokenizers: Vec<Step>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        invert: bool,
    },
    Digits {
        individual_digits: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "yes")]
        trim_offsets: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Pattern {
    String(String),
    Regex(String),
}

fn yes() -> bool {
    true
}

/// The steps of a splitting; `without_token` are characters of the byte alphabet that are not tokens.
pub(super) fn steps(splitting: Splitting, without_token: &[char]) -> Step {
    let byte_level = |use_regex| Step::ByteLevel { add_prefix_space: false, trim_offsets: true, use_regex };
    let split = |regex: &str| Step::Split {
        pattern: Pattern::Regex(regex.to_owned()),
        behavior: "Isolated".into(),
        invert: false,
    };
    let mut steps = match splitting {
        Splitting::Gpt2 => vec![byte_level(true)],
        Splitting::Digits => vec![Step::Digits { individual_digits: true }, byte_level(true)],
        Splitting::Llama3 => vec![split(LLAMA3), byte_level(false)],
        Splitting::Qwen2 => vec![split(QWEN2), byte_level(false)],
    };
    steps.extend(removal(without_token));
    if steps.len() == 1 { steps.remove(0) } else { Step::Sequence { pretokenizers: steps } }
}

/// The step that removes characters and splits at their positions, where the library would otherwise merge.
fn removal(without_token: &[char]) -> Option<Step> {
    if without_token.is_empty() {
        return None;
    }
    let codes: String = without_token.iter().map(|&c| format!(r"\x{{{:x}}}", u32::from(c))).collect();
    let pattern = Pattern::Regex(format!("[{codes}]"));
    Some(Step::Split { pattern, behavior: "Removed".into(), invert: false })
}

/// The splitting that is equivalent to the steps.
///
/// # Errors
/// Why llama.cpp has no name for it.
pub(super) fn recognise(step: Step, without_token: &[char]) -> Result<Splitting, String> {
    let mut steps = Vec::new();
    flatten(step, &mut steps);
    if steps.len() > 1 && steps.last() == removal(without_token).as_ref() {
        steps.pop();
    }
    if steps.iter().any(|step| matches!(step, Step::ByteLevel { add_prefix_space: true, .. })) {
        return Err("the pre-tokenizer puts a space before every text, which llama.cpp does not".into());
    }
    match steps.as_slice() {
        [Step::ByteLevel { use_regex: true, .. }] => Ok(Splitting::Gpt2),
        [Step::Digits { individual_digits: true }, Step::ByteLevel { use_regex: true, .. }] => {
            Ok(Splitting::Digits)
        }
        [
            Step::Split { pattern: Pattern::Regex(regex), behavior, invert },
            Step::ByteLevel { use_regex: false, .. },
        ] if is_complete(behavior, *invert) => match regex.as_str() {
            GPT2 => Ok(Splitting::Gpt2),
            LLAMA3 => Ok(Splitting::Llama3),
            QWEN2 => Ok(Splitting::Qwen2),
            other => Err(format!(
                "the pre-tokenizer splits by {}, which is not an expression of GPT-2, Llama 3 or Qwen 2",
                super::quoted(other)
            )),
        },
        steps => {
            let names: Vec<&str> = steps.iter().map(Step::name).collect();
            Err(format!(
                "the pre-tokenizer is {}, for whose steps and settings llama.cpp has no name; known are \
                 those of GPT-2, SmolLM, Llama 3 and Qwen 2",
                super::quoted(&names.join(", "))
            ))
        }
    }
}

/// Whether a split by an expression that matches all text keeps every match as a piece.
fn is_complete(behavior: &str, invert: bool) -> bool {
    behavior == "Isolated" || (behavior == "Removed" && invert)
}

fn flatten(step: Step, steps: &mut Vec<Step>) {
    match step {
        Step::Sequence { pretokenizers } => pretokenizers.into_iter().for_each(|step| flatten(step, steps)),
        step => steps.push(step),
    }
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Sequence { .. } => "Sequence",
            Self::Split { .. } => "Split",
            Self::Digits { .. } => "Digits",
            Self::ByteLevel { .. } => "ByteLevel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_splitting_is_recognised_from_its_steps() {
        for splitting in [Splitting::Gpt2, Splitting::Digits, Splitting::Llama3, Splitting::Qwen2] {
            for without_token in [&[][..], &['Ą', ']']] {
                assert_eq!(recognise(steps(splitting, without_token), without_token), Ok(splitting));
            }
            assert!(recognise(steps(splitting, &['Ą']), &[]).is_err(), "removes a character that is a token");
        }
    }

    #[test]
    fn every_name_stands_once_and_the_first_is_found_again() {
        let names: Vec<&str> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
        let distinct: std::collections::HashSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), distinct.len());
        for known in &KNOWN {
            let found = PreTokenizer::of(known.splitting, known.ignore_merges).expect("known");
            assert_eq!(found.name(), known.name());
        }
    }
}
