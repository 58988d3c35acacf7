//! Brings everything to be measured into `target/peers`: the peers, built for this machine, and every engine's model
//! of the same weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::contest::Contest;
use crate::python::{self, answer, finish, needs};
use crate::shape::{self, Options, Shape};
use crate::{e2e, fixtures, root};

/// Paths of what is installed.
pub(super) struct Installed {
    pub(super) aibit: PathBuf,
    pub(super) python: PathBuf,
    /// The small program on llama.cpp's library.
    pub(super) llama: PathBuf,
    /// The folder of every engine's model.
    pub(super) models: PathBuf,
}

/// The programs that make models.
pub(super) struct Makers<'a> {
    aibit: &'a Path,
    python: &'a Path,
}

/// In the folder of models: the tokenizer of those engines that bring none.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Outlier channels of the package with outliers, as in a trained model.
pub(super) const OUTLIERS: usize = 6;

pub(super) fn folder() -> PathBuf {
    root().join("target/peers")
}

pub(super) fn scripts() -> PathBuf {
    root().join("benches/peers")
}

/// Does what is not done yet: the first time takes about ten minutes, most of it llama.cpp's build.
pub(super) fn install(contest: &Contest, aibit: Option<&Path>) -> anyhow::Result<Installed> {
    ensure!(
        Path::new("/proc/stat").is_file(),
        "the measurement reads Linux's /proc (idle machine, memory): run it on Linux"
    );
    let python = environment()?;
    let llama = build_program(&python, "llama")?;
    let aibit = match aibit {
        Some(path) => path.to_path_buf(),
        None => e2e::build()?.0,
    };
    let models = folder().join(contest.models);
    fs::create_dir_all(&models)?;
    (contest.make)(&Makers { aibit: &aibit, python: &python }, &models)?;
    Ok(Installed { aibit, python, llama, models })
}

/// The models of GPT-2's shape: converted for each peer, packed without and with outlier channels.
pub(super) fn gpt2(makers: &Makers<'_>, models: &Path) -> anyhow::Result<()> {
    let source = shape::make(Shape::Gpt2, &Options::default())?;
    convert(makers.python, &source, models)?;
    let tokenizer = source.join("tokenizer.json");
    fs::copy(&tokenizer, models.join(TOKENIZER)).with_context(|| tokenizer.display().to_string())?;
    makers.pack(&source, &models.join("int8.aibit"), &[])?;
    let outliers = Options { outliers: OUTLIERS, ..Options::default() };
    makers.pack(&shape::make(Shape::Gpt2, &outliers)?, &models.join("int8-outliers.aibit"), &[])
}

/// SmolLM2's models: the package, what it is as a GGUF file, and the file that it was made of.
pub(super) fn smollm2(makers: &Makers<'_>, models: &Path) -> anyhow::Result<()> {
    let source = fixtures::smollm2()?;
    let package = models.join("int8.aibit");
    makers.pack(&source, &package, &["--requantize"])?;
    let mut export = Command::new(makers.aibit);
    export.arg("export").arg(&package).args(["--to", "gguf", "-o"]).arg(models.join("q8_0.gguf"));
    finish(&mut export, "aibit export")?;
    fs::copy(&source, models.join("q4_1.gguf")).with_context(|| source.display().to_string())?;
    Ok(())
}

impl Makers<'_> {
    fn pack(&self, source: &Path, archive: &Path, options: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(self.aibit);
        command.arg("pack").arg(source).arg("-o").arg(archive);
        finish(command.args(["-q", "int8"]).args(options), "aibit pack")
    }
}

/// The peers' packages; returns their interpreter.
pub(super) fn environment() -> anyhow::Result<PathBuf> {
    for compiler in ["cc", "c++"] {
        needs(compiler, "install a C and C++ compiler; on Debian: apt install build-essential")?;
    }
    python::environment(&folder().join("venv"), &scripts().join("requirements.txt"))
}

/// Compiles the small program `name` against llama.cpp's library and headers, which the Python package has brought.
pub(super) fn build_program(python: &Path, name: &str) -> anyhow::Result<PathBuf> {
    needs("cc", "install a C compiler; on Debian: apt install build-essential")?;
    let packages =
        answer(Command::new(python).args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))?;
    let libraries = format!("{packages}/llama_cpp/lib");
    let program = folder().join(name);
    finish(
        Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-o"])
            .arg(&program)
            .arg(scripts().join(name).with_extension("c"))
            .arg(format!("-I{packages}/include"))
            .args([format!("-L{libraries}"), format!("-Wl,-rpath,{libraries}")])
            .args(["-lllama", "-lggml", "-lggml-base"]),
        &format!("cc {name}.c"),
    )?;
    Ok(program)
}

/// Converts the weights for each peer, where its model is missing or older than what it is made by.
fn convert(python: &Path, source: &Path, models: &Path) -> anyhow::Result<()> {
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
        let mut command = Command::new(python);
        command.arg("-B").arg(&script).arg(source).arg(models.join(target));
        // Converters tell much on both streams; it matters only if they fail.
        let output = command.output().with_context(|| name.clone())?;
        ensure!(output.status.success(), "{name}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
