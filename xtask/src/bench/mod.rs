//! `cargo xtask bench`: measures, and writes the pages that state speed.

mod contest;
mod install;
mod packing;
mod page;
mod peers;
mod plot;
mod results;
mod shape;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use self::contest::{CONTESTS, Contest};
use crate::root;
use crate::shape::{Options, Shape};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// aibit against llama.cpp, ONNX Runtime, OpenVINO GenAI and CTranslate2: writes docs/performance.md
    #[arg(long)]
    peers: bool,
    /// The model that they run: `gpt2`; or `smollm2`, against llama.cpp alone: writes docs/performance-smollm2.md
    #[arg(long, value_name = "NAME", default_value = "gpt2", conflicts_with = "shape")]
    model: String,
    /// aibit on a model of a real shape, as shares of this machine's bandwidth and arithmetic
    #[arg(long, value_name = "NAME", value_enum, conflicts_with_all = ["peers", "only", "page_only"])]
    shape: Option<Shape>,
    /// Packing beside llama.cpp's quantization, time and memory, of these shapes (both make files of the weights' size or three
    /// times as much below target: 60 GB for llama-8b): writes docs/performance-packing.md
    #[arg(
        long, value_name = "SHAPE,...", value_enum, value_delimiter = ',', num_args = 0..=1,
        default_missing_value = "llama-1b,llama-8b", conflicts_with_all = ["peers", "shape", "only", "page_only"]
    )]
    packing: Vec<Shape>,
    /// Rounds; in each of them every engine takes its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Only these engines, and print instead of writing the page
    #[arg(long, value_name = "ENGINE,...", value_delimiter = ',', conflicts_with = "page_only")]
    only: Vec<String>,
    /// Write the page from the last run, without measuring
    #[arg(long)]
    page_only: bool,
    /// Measure this binary instead of building one
    #[arg(long, value_name = "FILE")]
    aibit: Option<PathBuf>,
    #[command(flatten, next_help_heading = "With --shape")]
    options: Options,
}

/// Runs what `args` ask for.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(shape) = args.shape {
        print(&shape::measure(shape, &args.options, args.aibit.as_deref())?);
        return Ok(());
    }
    if !args.packing.is_empty() {
        let page = packing::measure(&args.packing, args.rounds.into(), args.aibit.as_deref())?;
        fs::write(root().join("docs/performance-packing.md"), &page)?;
        print(&page);
        return Ok(());
    }
    ensure!(args.peers, "nothing to measure: say `cargo xtask bench --peers`, `--shape gpt2` or `--packing`");
    let Some(contest) = Contest::of(&args.model) else {
        bail!(
            "no contest `{}`; there are {}",
            args.model,
            CONTESTS.map(|contest| contest.model).join(" and ")
        );
    };
    let last = install::folder().join(contest.results);
    let results = if args.page_only {
        let json = fs::read(&last)
            .with_context(|| format!("{}: measure first, without --page-only", last.display()))?;
        serde_json::from_slice(&json).with_context(|| last.display().to_string())?
    } else {
        // A part of the engines is a quick look, no page: its rounds are not those of the others.
        let keep = args.only.is_empty().then_some(last.as_path());
        peers::measure(contest, args.rounds.into(), &args.only, args.aibit.as_deref(), keep)?
    };
    if !args.only.is_empty() {
        print(&page::text(contest, &results));
        return Ok(());
    }
    let docs = root().join("docs");
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
