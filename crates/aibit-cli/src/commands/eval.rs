use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use aibit_format::Archive;
use aibit_pack::Progress;
use aibit_runtime::{Model, Perplexity, PerplexityOptions, Profile, RuntimeError, Tokenizer, perplexity};
use serde::Serialize;

use super::{ArchiveArg, ThreadsArg, text};
use crate::output::Output;

/// Measure how well an archive predicts a text
///
/// The whole text is tokenized at once and cut into windows. Each window is computed on its own; its first
/// token is not scored. With --kl-base also measures how far the predictions are from another archive's.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
        aibit eval gpt2.aibit --ppl text.txt\n  \
        aibit eval gpt2-int8.aibit --ppl text.txt --kl-base gpt2-f32.aibit --json")]
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
    /// Tokens per window [default: the model's context]
    #[arg(short, long, value_name = "N", aliases = ["ctx-size", "num-ctx"])]
    window: Option<usize>,
    /// Tokens from one window to the next [default: a whole window]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// How integer products are computed: fast; precise, with two bytes per activation; or exact, as bitsandbytes does
    #[arg(long, default_value_t = Profile::Fast)]
    profile: Profile,
    #[command(flatten)]
    threads: ThreadsArg,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    result: Perplexity,
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
        write!(f, "scored      {scored_tokens} of {tokens} tokens, windows of {window} every {stride}")
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let threads = args.threads.start()?;
    let archive = Archive::open(args.archive.path())?;
    let model = Model::load(&archive)?;
    let tokenizer = Tokenizer::load(&archive)?;
    let text = text::read(&args.ppl, text::LONGEST_TEXT)?;
    let text = if args.trim { text::without_line_ends(&text) } else { &text };
    let ids = tokenizer.encode_prompt(text)?;
    let base = match &args.kl_base {
        None => None,
        Some(path) => {
            let base = Archive::open(path)?;
            let base_ids = Tokenizer::load(&base)?.encode_prompt(text)?;
            if base_ids != ids {
                let problem =
                    format!("their tokenizers give {} and {} ids for the text", ids.len(), base_ids.len());
                return Err(RuntimeError::NotComparable(problem).into());
            }
            Some(Model::load(&base)?)
        }
    };
    let options = PerplexityOptions { window: args.window, stride: args.stride, profile: args.profile };
    let bar = out.progress();
    bar.start_count("predicting", ids.len() as u64);
    let mut done = 0;
    let result = perplexity(&model, base.as_ref(), &ids, &options, &mut |tokens| {
        bar.advance((tokens - done) as u64);
        done = tokens;
    })?;
    drop(bar);
    out.emit(&Report { result, profile: args.profile.name(), isa: model.isa().name(), threads })?;
    Ok(ExitCode::SUCCESS)
}
