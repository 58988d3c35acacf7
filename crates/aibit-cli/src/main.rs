//! The `aibit` command line: arguments, output, exit codes, and nothing else.
//!
//! Exit codes: 0 done, 1 the answer is no (a verification failed), 2 a usage error or failure, 130 interrupted.

mod commands;
mod errors;
mod output;
mod timings;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

use crate::output::Output;

/// Package a quantized language model into one file that is ready to run, and run it.
#[derive(Parser)]
#[command(
    name = "aibit",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        aibit pack ./gpt2 -o gpt2.aibit\n  \
        aibit run gpt2.aibit -p \"Once upon a time\" -n 64\n  \
        aibit verify gpt2.aibit --run"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object to standard output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Pack(commands::pack::Args),
    Run(commands::run::Args),
    Chat(commands::chat::Args),
    Export(commands::export::Args),
    Convert(commands::convert::Args),
    Diff(commands::diff::Args),
    Inspect(commands::inspect::Args),
    Verify(commands::verify::Args),
    Eval(commands::eval::Args),
    Bench(commands::bench::Args),
    Completions(commands::completions::Args),
}

fn main() -> ExitCode {
    let start = Instant::now();
    let cli = Cli::parse();
    let mut out = Output::new(cli.json, start);
    let result = match &cli.command {
        Command::Pack(args) => commands::pack::run(args, &mut out),
        Command::Run(args) => commands::run::run(args, &mut out),
        Command::Chat(args) => commands::chat::run(args, &mut out),
        Command::Export(args) => commands::export::run(args, &mut out),
        Command::Convert(args) => commands::convert::run(args, &mut out),
        Command::Diff(args) => commands::diff::run(args, &mut out),
        Command::Inspect(args) => commands::inspect::run(args, &mut out),
        Command::Verify(args) => commands::verify::run(args, &mut out),
        Command::Eval(args) => commands::eval::run(args, &mut out),
        Command::Bench(args) => commands::bench::run(args, &mut out),
        Command::Completions(args) => commands::completions::run(args, &mut out),
    };
    match result {
        Ok(code) => code,
        Err(error) if errors::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            out.complain(&error, errors::hint(&error));
            ExitCode::from(2)
        }
    }
}
