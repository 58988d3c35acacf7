//! `cargo xtask bench`: measurements, and the documents that report them.

mod contest;
mod install;
mod kv;
mod llama;
mod packing;
mod page;
mod peers;
mod plot;
mod rescaled;
mod results;
mod shape;
mod values;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use self::contest::{CONTESTS, Contest};
use self::llama::BuiltFor;
use crate::root;
use crate::shape::{Options, Shape};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compare aibit with other engines and write a page in docs
    ///
    /// The first run installs and builds the engines: an hour and a half on two cores including --isa. A round takes
    /// about eight minutes for `gpt2`, four for `smollm2`, two with `--isa avx2`, eight for `llama-1b`.
    #[arg(long)]
    peers: bool,
    /// The model: `gpt2` (llama.cpp, ONNX Runtime, OpenVINO GenAI, CTranslate2; performance.md); `smollm2`
    /// (llama.cpp, ik_llama.cpp; performance-smollm2.md); `llama-1b` (the same; performance-llama-1b.md)
    ///
    /// [default: gpt2; smollm2 with --isa avx2]
    #[arg(long, value_name = "NAME", conflicts_with = "shape")]
    model: Option<String>,
    /// The instruction set for aibit, llama.cpp and ik_llama.cpp; `avx2` runs smollm2: performance-avx2.md
    #[arg(long, value_enum, default_value_t = BuiltFor::Native, requires = "peers")]
    isa: BuiltFor,
    /// Measure aibit on a model of a real shape, as shares of this machine's bandwidth and arithmetic throughput
    #[arg(long, value_name = "NAME", value_enum, conflicts_with_all = ["peers", "only", "page_only"])]
    shape: Option<Shape>,
    /// Compare time and memory of packing with llama.cpp's quantization, for these shapes (files in target of up to
    /// three times the size of the weights: 60 GB for llama-8b), and write docs/performance-packing.md
    #[arg(
        long, value_name = "SHAPE,...", value_enum, value_delimiter = ',', num_args = 0..=1,
        default_missing_value = "llama-1b,llama-8b", conflicts_with_all = ["peers", "shape", "only", "page_only"]
    )]
    packing: Vec<Shape>,
    /// Measure layers and whole models by distribution of activations, and write docs/performance-values.md
    ///
    /// Takes 15 GB in target/bench; about ten minutes the first time, then five.
    #[arg(long, conflicts_with_all = ["peers", "shape", "packing", "only", "page_only"])]
    values: bool,
    /// Measure the quality of the KV cache on Qwen2 shapes with large keys and values, and write
    /// docs/quality-kv-cache.md
    ///
    /// Takes 8 GB in target/bench and about twenty minutes.
    #[arg(long, conflicts_with_all = ["peers", "shape", "values", "packing", "only", "page_only"])]
    kv: bool,
    /// Number of rounds; each round runs every engine
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Run only these engines, and print the results instead of writing the page
    #[arg(long, value_name = "ENGINE,...", value_delimiter = ',', conflicts_with = "page_only")]
    only: Vec<String>,
    /// Write the page from the last run's results, without measuring
    #[arg(long)]
    page_only: bool,
    /// Measure this binary instead of building one
    #[arg(long, value_name = "FILE")]
    aibit: Option<PathBuf>,
    #[command(flatten, next_help_heading = "With --shape")]
    options: Options,
}

/// Runs the measurement that `args` select.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(shape) = args.shape {
        print(&shape::measure(shape, &args.options, args.aibit.as_deref())?);
        return Ok(());
    }
    let docs = root().join("docs");
    if !args.packing.is_empty() {
        let page = packing::measure(&args.packing, args.rounds.into(), args.aibit.as_deref())?;
        fs::write(docs.join("performance-packing.md"), &page)?;
        print(&page);
        return Ok(());
    }
    if args.values {
        let page = values::measure(args.rounds.into(), args.aibit.as_deref())?;
        fs::write(docs.join("performance-values.md"), &page)?;
        print(&page);
        return Ok(());
    }
    if args.kv {
        let page = kv::measure(args.aibit.as_deref())?;
        fs::write(docs.join("quality-kv-cache.md"), &page)?;
        print(&page);
        return Ok(());
    }
    ensure!(
        args.peers,
        "nothing to measure: say `cargo xtask bench --peers`, `--shape NAME`, `--values`, `--kv` or `--packing`"
    );
    let model = args.model.as_deref().unwrap_or(match args.isa {
        BuiltFor::Native => "gpt2",
        BuiltFor::Avx2 => "smollm2",
    });
    let Some(contest) = Contest::of(model, args.isa) else {
        let known = CONTESTS.iter().filter(|contest| contest.built_for == args.isa);
        let known: Vec<&str> = known.map(|contest| contest.model).collect();
        bail!("no contest `{model}` with this --isa; there are {}", known.join(", "));
    };
    let last = install::folder().join(contest.results);
    let results = if args.page_only {
        let json = fs::read(&last)
            .with_context(|| format!("{}: measure first, without --page-only", last.display()))?;
        serde_json::from_slice(&json).with_context(|| last.display().to_string())?
    } else {
        // A subset of the engines is not saved: its rounds do not match those of the others.
        let keep = args.only.is_empty().then_some(last.as_path());
        peers::measure(contest, args.rounds.into(), &args.only, args.aibit.as_deref(), keep)?
    };
    if !args.only.is_empty() {
        print(&page::text(contest, &results));
        return Ok(());
    }
    let plots = docs.join(contest.page.name);
    fs::create_dir_all(&plots)?;
    for (name, svg) in page::plots(contest, &results) {
        fs::write(plots.join(name), svg)?;
    }
    fs::write(docs.join(contest.page.name).with_extension("md"), page::text(contest, &results))?;
    print(&page::targets(contest, &results));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the figures are the task's result")]
fn print(text: &str) {
    println!("{text}");
}
