use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use aibit_cpu::Model;
use aibit_format::{Archive, entry_names};
use aibit_pack::Progress;
use aibit_runtime::{Executor, Perplexity, PerplexityOptions, Profile, RuntimeError, Scored, perplexity};
use aibit_tokenizer::Tokenizer;
use serde::Serialize;

use super::unsupported::UnsupportedArgs;
use super::{ArchiveArg, ThreadsArg, open_archive, text};
use crate::errors::Advised;
use crate::output::Output;

/// Measure the perplexity of a text
///
/// The whole text is tokenized at once and split into windows. Each window is computed independently; its first token
/// is not scored. --kl-base also measures the KL divergence from another archive's predictions.
///
/// llama.cpp's `llama-perplexity` scores only the second half of windows of 512 tokens, so its figures differ and are
/// mostly lower; use `--second-half --window 512` to compare with them.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        aibit eval gpt2.aibit --ppl text.txt\n  \
        aibit eval gpt2-int8.aibit --ppl text.txt --kl-base gpt2-f32.aibit --json\n  \
        aibit eval gpt2.aibit --ppl text.txt --window 512 --second-half   # as llama-perplexity")]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArg,
    /// The text to score; `-` is standard input
    #[arg(long, value_name = "TEXTFILE")]
    ppl: PathBuf,
    /// Strip trailing newlines from the text
    #[arg(long)]
    trim: bool,
    /// Measure the KL divergence from this archive's predictions
    #[arg(long, value_name = "FILE")]
    kl_base: Option<PathBuf>,
    /// Tokens per window; 0: the model's context, which is the maximum [default: 0]
    #[arg(short, long, value_name = "N", aliases = ["ctx-size", "num-ctx"])]
    window: Option<usize>,
    /// Tokens from the start of one window to the next [default: the window]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Score only the second half of each full window, as llama.cpp's `llama-perplexity` does
    ///
    /// Each window then starts with the tokenizer's BOS token, if it adds one.
    #[arg(long, conflicts_with = "stride")]
    second_half: bool,
    /// Start each window with the BOS token, in place of its first token
    #[arg(long)]
    bos_per_window: bool,
    /// How integer products are computed: fast; precise, with two bytes per activation; or exact, as in bitsandbytes
    #[arg(long, default_value_t = Profile::Fast)]
    profile: Profile,
    #[command(flatten)]
    threads: ThreadsArg,
    /// Unsupported: score a conversation.
    #[arg(long, hide = true)]
    chat: bool,
    #[command(flatten)]
    unsupported: UnsupportedArgs,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    result: Perplexity,
    second_half: bool,
    bos_per_window: bool,
    profile: &'static str,
    isa: &'static str,
    threads: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Perplexity { perplexity, mean_nll, tokens, scored_tokens, window, stride, base } = &self.result;
        writeln!(f, "perplexity  {perplexity:.4} ({mean_nll:.6} nats per token)")?;
        if let Some(base) = base {
            writeln!(f, "base        {:.4} (ratio {:.5})", base.perplexity, perplexity / base.perplexity)?;
            writeln!(f, "mean KL     {:.6} nats", base.mean_kl)?;
            writeln!(f, "same top-1  {:.2} %", 100.0 * base.top1_agreement)?;
        }
        let halves = if self.second_half { "second halves of " } else { "" };
        write!(
            f,
            "scored      {scored_tokens} of {tokens} tokens, {halves}windows of {window} every {stride}"
        )?;
        if self.bos_per_window {
            write!(f, ", each with BOS")?;
        }
        Ok(())
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    args.unsupported.refuse()?;
    if args.chat {
        let message = "--chat is not supported by `eval`: a text is scored without the chat template";
        return Err(Advised::new("unsupported", message).into());
    }
    let threads = args.threads.start_all()?;
    let archive = open_archive(args.archive.path())?;
    let model = Model::load(&archive)?.with_threads(threads.clone());
    let tokenizer = Tokenizer::load(&archive)?;
    let text = text::read(&args.ppl, text::LONGEST_TEXT)?;
    let text = if args.trim { text::without_line_ends(&text) } else { &text };
    let ids = tokenizer.encode_prompt(text)?;
    tokenizer.check_ids(&ids, model.graph().vocabulary)?;
    let base = match &args.kl_base {
        None => None,
        Some(path) => {
            let base = open_archive(path)?;
            let base_ids = Tokenizer::load(&base)?.encode_prompt(text)?;
            if base_ids != ids {
                let problem =
                    format!("their tokenizers produce {} and {} ids for the text", ids.len(), base_ids.len());
                return Err(RuntimeError::NotComparable(problem).into());
            }
            Some(Model::load(&base)?.with_threads(threads.clone()))
        }
    };
    let first_token = first_token(args, &archive, &tokenizer)?;
    let options = PerplexityOptions {
        window: args.window.filter(|&window| window > 0),
        stride: args.stride,
        scored: if args.second_half { Scored::SecondHalf } else { Scored::All },
        first_token,
        profile: args.profile,
    };
    let bar = out.progress();
    bar.start_count("predicting", ids.len() as u64);
    let mut done = 0;
    let result =
        perplexity(&model, base.as_ref().map(|base| base as &dyn Executor), &ids, &options, &mut |tokens| {
            bar.advance((tokens - done) as u64);
            done = tokens;
        })?;
    drop(bar);
    out.emit(&Report {
        result,
        second_half: args.second_half,
        bos_per_window: first_token.is_some(),
        profile: args.profile.name(),
        isa: model.context().isa.name(),
        threads: threads.count(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The token that starts each window, if requested: the one that the tokenizer adds to a text, or `bos_token_id` of
/// the configuration, since GPT-2's tokenizer adds none.
fn first_token(args: &Args, archive: &Archive, tokenizer: &Tokenizer) -> anyhow::Result<Option<u32>> {
    if !args.bos_per_window && !args.second_half {
        return Ok(None);
    }
    let before_text = tokenizer.encode_prompt("")?.first().copied();
    if before_text.is_some() || !args.bos_per_window {
        return Ok(before_text);
    }
    let config: serde_json::Value = serde_json::from_slice(archive.entry(entry_names::CONFIG)?.data)?;
    let named = config["bos_token_id"].as_u64().and_then(|id| u32::try_from(id).ok());
    let message = "--bos-per-window: the tokenizer adds no BOS token, and config.json has no bos_token_id";
    Ok(Some(named.ok_or_else(|| Advised::new("usage", message))?))
}
