//! The `aibit` command line: arguments, output and exit codes only.
//!
//! Exit codes: 0 done, 1 a negative answer (a verification failed), 2 a usage error or failure, 130 interrupted.

mod clock;
mod commands;
mod errors;
mod output;
mod signals;
mod timings;
mod visible;

use std::borrow::Cow;
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
    /// Print one JSON object to standard output, errors included
    #[arg(long, global = true, display_order = 900)]
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error, start),
    };
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
            out.fail(&error);
            ExitCode::from(2)
        }
    }
}

/// Prints help or version if requested, otherwise the error in the arguments.
fn usage(error: &clap::Error, start: Instant) -> ExitCode {
    // The arguments could not be parsed, so `--json` is looked for in the raw ones.
    let json = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    let asked_for = !error.use_stderr();
    let mut out = Output::new(json && !asked_for, start);
    let text = error.render().to_string();
    // Plain text if an argument contains control characters that would reach the terminal, coloured otherwise.
    let printed = match visible::escaped(&text, '\n') {
        Cow::Borrowed(_) => error.print(),
        Cow::Owned(_) => {
            out.note(&text.trim_end());
            Ok(())
        }
    };
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            out.fail(&anyhow::Error::from(error).context("cannot write the help to standard output"));
            return ExitCode::from(2);
        }
        _ if asked_for => return ExitCode::SUCCESS,
        _ => {}
    }
    let message = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, hint) = match message.split_once("\n\nFor more information, ") {
        Some((message, hint)) => (message, Some(hint.trim_end())),
        None => (message, None),
    };
    out.fail_as(message.trim_end(), hint, "usage");
    ExitCode::from(2)
}
