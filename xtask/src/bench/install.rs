//! Installs everything to be measured in `target/peers`: the peers, built for this machine, and every engine's model
//! of the same weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::contest::{Contest, Kind};
use super::llama;
use crate::python::{self, finish};
use crate::shape::{self, Options, Shape};
use crate::{e2e, fixtures, root};

/// Paths of the installed programs and models.
pub(super) struct Installed {
    pub(super) aibit: PathBuf,
    pub(super) python: PathBuf,
    /// The program that drives llama.cpp's library, and the one for ik_llama.cpp's if the contest includes it.
    pub(super) llama: PathBuf,
    pub(super) ik_llama: Option<PathBuf>,
    /// The folder of every engine's model.
    pub(super) models: PathBuf,
}

/// The programs that create models.
pub(super) struct Makers<'a> {
    aibit: &'a Path,
    python: &'a Path,
    llama: &'a Path,
}

/// In the folder of models: the tokenizer for engines without one.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Outlier channels of the package with outliers, as in a trained model.
const OUTLIERS: usize = 6;

pub(super) fn folder() -> PathBuf {
    root().join("target/peers")
}

pub(super) fn scripts() -> PathBuf {
    root().join("benches/peers")
}

/// Performs missing steps: the first run takes from half an hour to an hour, mostly for building llama.cpp and its
/// fork.
pub(super) fn install(contest: &Contest, aibit: Option<&Path>) -> anyhow::Result<Installed> {
    ensure!(
        Path::new("/proc/stat").is_file(),
        "the measurement reads Linux's /proc (idle machine, memory): run it on Linux"
    );
    let has = |wanted: fn(&Kind) -> bool| contest.engines.iter().any(|engine| wanted(&engine.kind));
    let python = if has(|kind| matches!(kind, Kind::Python { .. })) {
        python::environment(&folder().join("venv"), &scripts().join("requirements.txt"))?
    } else {
        llama::tools()?
    };
    let llama = llama::build(&llama::LLAMA, contest.built_for)?;
    let ik_llama = has(|kind| matches!(kind, Kind::IkLlama { .. }))
        .then(|| llama::build(&llama::IK_LLAMA, contest.built_for))
        .transpose()?;
    let aibit = match aibit {
        Some(path) => path.to_path_buf(),
        None => e2e::build()?.0,
    };
    let models = folder().join(contest.models);
    fs::create_dir_all(&models)?;
    (contest.make)(&Makers { aibit: &aibit, python: &python, llama: &llama }, &models)?;
    Ok(Installed { aibit, python, llama, ik_llama, models })
}

/// The models of GPT-2's shape: converted for each peer, packed with and without outlier channels.
pub(super) fn gpt2(makers: &Makers<'_>, models: &Path) -> anyhow::Result<()> {
    let source = shape::make(Shape::Gpt2, &Options::default())?;
    convert(makers, &source, models)?;
    let tokenizer = source.join("tokenizer.json");
    fs::copy(&tokenizer, models.join(TOKENIZER)).with_context(|| tokenizer.display().to_string())?;
    makers.pack(&source, &models.join("int8.aibit"), &[])?;
    let outliers = Options { outliers: OUTLIERS, ..Options::default() };
    makers.pack(&shape::make(Shape::Gpt2, &outliers)?, &models.join("int8-outliers.aibit"), &[])
}

/// SmolLM2's models: the package, the same as a GGUF file, and the original file.
pub(super) fn smollm2(makers: &Makers<'_>, models: &Path) -> anyhow::Result<()> {
    let source = fixtures::smollm2()?;
    let package = models.join("int8.aibit");
    makers.pack(&source, &package, &["--requantize"])?;
    makers.export(&package, &models.join("q8_0.gguf"))?;
    fs::copy(&source, models.join("q4_1.gguf")).with_context(|| source.display().to_string())?;
    Ok(())
}

/// Packages of a Llama of 1.07 billion parameters with three norm gains, and the first as a GGUF file.
pub(super) fn llama_1b(makers: &Makers<'_>, models: &Path) -> anyhow::Result<()> {
    let package = models.join("int8.aibit");
    for (norms, package) in [
        (1.0, package.clone()),
        (0.05, models.join("int8-norms0.05.aibit")),
        (8.0, models.join("int8-norms8.aibit")),
    ] {
        let options = Options { norms, ..Options::default() };
        let archive = super::shape::archive(makers.aibit, Shape::Llama1b, &options)?;
        if package.exists() {
            fs::remove_file(&package)?;
        }
        fs::hard_link(&archive, &package).with_context(|| archive.display().to_string())?;
    }
    makers.export(&package, &models.join("q8_0.gguf"))
}

impl Makers<'_> {
    fn export(&self, archive: &Path, gguf: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(self.aibit);
        command.arg("export").arg(archive).args(["--to", "gguf", "--force", "-o"]).arg(gguf);
        finish(&mut command, "aibit export")
    }

    fn pack(&self, source: &Path, archive: &Path, options: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(self.aibit);
        command.arg("pack").arg(source).arg("-o").arg(archive);
        finish(command.args(["-q", "int8"]).args(options), "aibit pack")
    }
}

/// Converts the weights for each peer whose model is missing or older than its script.
fn convert(makers: &Makers<'_>, source: &Path, models: &Path) -> anyhow::Result<()> {
    // (script, its last argument, the file whose age counts)
    for (script, target, made) in [
        ("make_gguf.py", "", "q4_0.gguf"),
        ("make_onnx.py", "int8.onnx", "int8.onnx"),
        ("make_openvino.py", "openvino", "openvino/openvino_model.bin"),
        ("make_ctranslate2.py", "ctranslate2", "ctranslate2/model.bin"),
    ] {
        let script = scripts().join(script);
        let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        let made = changed(&models.join(made));
        if made.is_some() && made >= changed(&script) && made >= changed(&source.join("model.safetensors")) {
            continue;
        }
        let name = script.display().to_string();
        eprintln!("{name}");
        let mut command = Command::new(makers.python);
        command.arg("-B").arg(&script).arg(source).arg(models.join(target));
        if target.is_empty() {
            command.arg(makers.llama);
        }
        // Converters tell much on both streams; it matters only if they fail.
        let output = command.output().with_context(|| name.clone())?;
        ensure!(output.status.success(), "{name}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
