//! Python: virtual environments in `target`, and running programs in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// A virtual environment at `venv` with exactly the packages of `requirements`, recreated if they have changed;
/// returns its interpreter.
pub(crate) fn environment(venv: &Path, requirements: &Path) -> anyhow::Result<PathBuf> {
    let wanted = fs::read_to_string(requirements)?;
    let python = venv.join("bin/python");
    let stamp = venv.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("installing {} into {}: about ten minutes", requirements.display(), venv.display());
    create(venv)?;
    finish(
        Command::new(&python)
            // A wheel in pip's cache may have been built with other options or for another CPU.
            .args(["-m", "pip", "install", "--no-cache-dir", "-r"])
            .arg(requirements)
            .env("CMAKE_ARGS", "-DGGML_NATIVE=ON -DLLAMA_BUILD_TOOLS=OFF -DLLAVA_BUILD=OFF"),
        "pip install",
    )?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

/// A folder at `folder` with the packages of `requirements`, recreated if they have changed. With this folder in
/// `PYTHONPATH` they override packages of the same name in `python`'s environment.
pub(crate) fn overlay(python: &Path, folder: &Path, requirements: &Path) -> anyhow::Result<()> {
    let wanted = fs::read_to_string(requirements)?;
    let stamp = folder.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let mut install = Command::new(python);
    install
        .args(["-m", "pip", "install", "--no-cache-dir", "--target"])
        .arg(folder)
        .arg("-r")
        .arg(requirements);
    finish(&mut install, "pip install")?;
    fs::write(stamp, wanted)?;
    Ok(())
}

/// Creates an empty virtual environment and returns its interpreter.
pub(crate) fn create(venv: &Path) -> anyhow::Result<PathBuf> {
    needs("python3", "install Python 3.11 or newer")?;
    fs::create_dir_all(venv)?;
    finish(
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv),
        "python3 -m venv (on Debian: apt install python3-venv)",
    )?;
    Ok(venv.join("bin/python"))
}

/// Checks that a program exists.
pub(crate) fn needs(program: &str, hint: &str) -> anyhow::Result<()> {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match found {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("cannot run `{program}`\nhint: {hint}"),
    }
}

/// Runs a program, which must succeed.
pub(crate) fn finish(command: &mut Command, what: &str) -> anyhow::Result<()> {
    // Standard output is reserved for results.
    let status = command.stdout(std::io::stderr()).status().with_context(|| format!("cannot run {what}"))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

/// The output of a program, without the trailing newline.
pub(crate) fn answer(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
