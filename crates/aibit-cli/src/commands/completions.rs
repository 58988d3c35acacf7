use std::fmt;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;

use crate::output::Output;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  aibit completions bash > /etc/bash_completion.d/aibit")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

#[derive(Serialize)]
struct Report {
    shell: String,
    script: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.script.trim_end())
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "aibit", &mut script);
    out.emit(&Report { shell: args.shell.to_string(), script: String::from_utf8(script)? })?;
    Ok(ExitCode::SUCCESS)
}
