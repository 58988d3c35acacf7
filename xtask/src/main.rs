//! Development tasks, run as `cargo xtask TASK`. Nothing here ships to users.

mod bench;
mod e2e;
mod fixtures;
mod fuzz;
mod interop;
mod python;
mod shape;
mod tidy;

use std::path::Path;

use clap::{Parser, Subcommand};

/// Development tasks
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure speed, start and memory compared with other engines, and write the page of results
    Bench(bench::Args),
    /// The main use case end to end: pack, verify, load in a new process, generate, measure
    E2e {
        /// `small`: the model in this repository; `gpt2`, `smollm2`: real ones, after `fixtures --model NAME`
        #[arg(long, default_value = "small")]
        model: String,
    },
    /// Download a real model, pinned by digest, into target/fixtures
    Fixtures {
        /// `gpt2` or `smollm2`
        #[arg(long)]
        model: String,
    },
    /// Test mutated files of every kind against their readers, within limits of time and memory
    Fuzz(fuzz::Args),
    /// Load exports of aibit in other engines, and write the results into docs/interop.md
    Interop,
    /// Make a model of a real shape with seeded weights, without a download
    Shape(shape::Args),
    /// Check what the compiler does not: crate dependencies, documents, unsafe code
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::E2e { model } => e2e::run(&model),
        Task::Fixtures { model } => fixtures::run(&model),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Interop => interop::run(),
        Task::Shape(args) => {
            eprintln!("{}", shape::run(&args)?.display());
            Ok(())
        }
        Task::Tidy => tidy::run(),
    }
}

/// The workspace's folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}
