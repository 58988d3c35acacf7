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

/// Measure how well an archive predicts a text
///
/// The whole text is tokenized at once and cut into windows. Each window is computed on its own; its first
/// token is not scored. With --kl-base also measures how far the predictions are from another archive's.
///
/// llama.cpp's `llama-perplexity` scores the second halves of windows of 512 tokens only, so its figures differ from
/// these and are mostly lower; `--second-half --window 512` gives those to compare with it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        aibit eval gpt2.aibit --ppl text.txt\n  \
        aibit eval gpt2-int8.aibit --ppl text.txt --kl-base gpt2-f32.aibit --json\n  \
        aibit eval gpt2.aibit --ppl text.txt --window 512 --second-half   # as llama-perplexity")]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArg,
    /// The text to predict; `-` is standard input
    #[arg(long, value_name = "TEXTFILE")]
    ppl: PathBuf,
    /// Leave out the line ends at the end of the text
    #[arg(long)]
    trim: bool,
    /// Compare the predictions with this archive's
    #[arg(long, value_name = "FILE")]
    kl_base: Option<PathBuf>,
    /// Tokens per window; 0: the model's context, which is also the most [default: 0]
    #[arg(short, long, value_name = "N", aliases = ["ctx-size", "num-ctx"])]
    window: Option<usize>,
    /// Tokens from one window to the next [default: a whole window]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Score the second half of each whole window only, as llama.cpp's `llama-perplexity` does
    ///
    /// Each window then begins with the token that the tokenizer puts before a text, if there is one.
    #[arg(long, conflicts_with = "stride")]
    second_half: bool,
    /// Begin each window with the token that begins a text (BOS), in the place of its first token
    #[arg(long)]
    bos_per_window: bool,
    /// How integer products are computed: fast; precise, with two bytes per activation; or exact, as bitsandbytes does
    #[arg(long, default_value_t = Profile::Fast)]
    profile: Profile,
    #[command(flatten)]
    threads: ThreadsArg,
    /// Measure a conversation.
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
        let message =
            "--chat is not supported by `eval`: a text is measured as it is, without the chat template";
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
                    format!("their tokenizers give {} and {} ids for the text", ids.len(), base_ids.len());
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

/// The token that begins each window, where one is asked for: what the tokenizer puts before a text, or the one that
/// the configuration names, which GPT-2's tokenizer does not put there.
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
    let message =
        "--bos-per-window: the tokenizer puts no token before a text, and config.json has no bos_token_id";
    Ok(Some(named.ok_or_else(|| Advised::new("usage", message))?))
}
