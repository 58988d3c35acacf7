//! Generation options shared by `run` and `chat`.

use aibit_cpu::Model;
use aibit_runtime::sampler::SamplerOptions;
use aibit_runtime::text_stream::TextStream;
use aibit_runtime::{GenerateOptions, PackageDefaults, Profile, RuntimeError, Session};

use super::{ThreadsArg, stop_string};
use crate::output::Output;

/// Generation options.
#[derive(clap::Args)]
pub(crate) struct GenerationArgs {
    /// Maximum number of tokens to generate; -1: no limit [default: from the package, or 128]
    #[arg(
        short = 'n',
        long = "predict",
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..),
        aliases = ["n-predict", "num-predict", "max-tokens"]
    )]
    predict: Option<i64>,
    /// Context to reserve, in tokens, prompt included; 0: the model's context, which is the maximum [default: 0]
    ///
    /// A model with LongRoPE uses its table for long contexts if more than its original context is reserved, however
    /// short the text is.
    #[arg(short, long, value_name = "N", alias = "num-ctx")]
    ctx_size: Option<usize>,
    /// Temperature; 0: greedy [default: 0]
    #[arg(long = "temp", value_name = "T", alias = "temperature", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Sample from the K most likely tokens; 0 or -1: all [default: 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    top_k: Option<i64>,
    /// Sample from the most likely tokens up to this probability mass; 1: all, 0: only the first [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Exclude tokens below this fraction of the largest probability; 0: none [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Penalty for tokens that have occurred; 1: none [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// Number of last tokens that penalties consider; 0: none, -1: all [default: 64, or all for the package's own
    /// penalty]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..)
    )]
    repeat_last_n: Option<i64>,
    /// Subtracted once from the logit of each token that has occurred
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtracted from a token's logit for each time it has occurred
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Sampling seed; -1: random
    #[arg(
        short,
        long,
        value_name = "SEED",
        default_value_t = -1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..)
    )]
    seed: i64,
    /// Stop before this string; may be repeated
    ///
    /// \n, \r and \t are a line feed, a carriage return and a tab, \xNN a character by its code of two hexadecimal
    /// digits, \u{N} one by its code point, and \\ a backslash.
    #[arg(long, value_name = "TEXT", value_parser = stop_string::parse)]
    stop: Vec<String>,
    /// Stop at this token id; may be repeated
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Do not stop at the package's end-of-text tokens
    #[arg(long)]
    ignore_eos: bool,
    /// How integer products are computed: fast; precise, with two bytes per activation; or exact, as in bitsandbytes
    #[arg(long, default_value_t = Profile::Fast)]
    pub(crate) profile: Profile,
    #[command(flatten)]
    pub(crate) threads: ThreadsArg,
}

impl GenerationArgs {
    /// Settings from options, else from the package, else the documented defaults; checked for their ranges.
    pub(crate) fn options(&self, package: &PackageDefaults) -> anyhow::Result<GenerateOptions> {
        let mut stop_ids = self.stop_id.clone();
        if !self.ignore_eos {
            stop_ids.extend(&package.stop_ids);
        }
        let off = SamplerOptions::greedy();
        let repeat_last_n = match (self.repeat_last_n, self.repeat_penalty, package.repeat_penalty) {
            (Some(last_n), ..) => usize::try_from(last_n).unwrap_or(usize::MAX),
            (None, None, Some(_)) => package.repeat_last_n.unwrap_or(usize::MAX),
            (None, ..) => 64,
        };
        let sampler = SamplerOptions {
            temperature: self.temperature.or(package.temperature).unwrap_or(0.0),
            top_k: self.top_k.map(|k| usize::try_from(k).unwrap_or(0)).or(package.top_k).unwrap_or(40),
            top_p: self.top_p.or(package.top_p).unwrap_or(0.95),
            min_p: self.min_p.or(package.min_p).unwrap_or(0.05),
            typical_p: package.typical_p.unwrap_or(off.typical_p),
            epsilon_cutoff: package.epsilon_cutoff.unwrap_or(off.epsilon_cutoff),
            eta_cutoff: package.eta_cutoff.unwrap_or(off.eta_cutoff),
            repeat_penalty: self.repeat_penalty.or(package.repeat_penalty).unwrap_or(1.0),
            repeat_last_n,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: u64::try_from(self.seed).unwrap_or_else(|_| random_seed()),
        };
        sampler.validate()?;
        let stop_strings = [self.stop.as_slice(), &package.stop_strings].concat();
        TextStream::new(stop_strings.clone())?;
        Ok(GenerateOptions {
            max_tokens: self.predict.map_or(package.max_tokens.or(Some(128)), |n| usize::try_from(n).ok()),
            sampler,
            processors: package.processors.clone(),
            stop_ids,
            stop_strings,
            ..GenerateOptions::default()
        })
    }

    /// An empty sequence with the context asked for, or all that the model has; a note says where that is less.
    pub(crate) fn session(&self, model: &Model, out: &Output) -> Result<Session, RuntimeError> {
        let context = model.graph().context;
        let capacity = match self.ctx_size {
            None | Some(0) => context,
            Some(asked_for) if asked_for > context => {
                out.note(&format_args!(
                    "note: -c {asked_for} exceeds the model's context; {context} tokens are reserved"
                ));
                context
            }
            Some(asked_for) => asked_for,
        };
        Session::new(model, self.profile, capacity)
    }
}

/// A seed that differs from run to run and is small enough to be exact in any JSON reader.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 12
}
