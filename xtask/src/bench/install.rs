//! Brings everything to be measured into `target/peers`: the peers, built for this machine, and every engine's model
//! of the same weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::python::{self, answer, finish, needs};
use crate::{e2e, root, shape};

/// Paths of what is installed.
pub(super) struct Installed {
    pub(super) aibit: PathBuf,
    /// Packages of the shape without and with outlier channels.
    pub(super) archive: PathBuf,
    pub(super) outliers: PathBuf,
    pub(super) python: PathBuf,
    /// The small program on llama.cpp's library.
    pub(super) llama: PathBuf,
    pub(super) models: PathBuf,
    pub(super) tokenizer: PathBuf,
}

/// Outlier channels of the second package, as in a trained model.
pub(super) const OUTLIERS: usize = 6;

pub(super) fn folder() -> PathBuf {
    root().join("target/peers")
}

pub(super) fn scripts() -> PathBuf {
    root().join("benches/peers")
}

/// Does what is not done yet: the first time takes about ten minutes, most of it llama.cpp's build.
pub(super) fn install(aibit: Option<&Path>) -> anyhow::Result<Installed> {
    ensure!(
        Path::new("/proc/stat").is_file(),
        "the measurement reads Linux's /proc (idle machine, memory): run it on Linux"
    );
    let python = environment()?;
    let llama = build_llama(&python)?;
    let source = shape::gpt2(0)?;
    let models = folder().join("models");
    make_models(&python, &source, &models)?;

    let aibit = match aibit {
        Some(path) => path.to_path_buf(),
        None => e2e::build()?.0,
    };
    let pack = |source: &Path| -> anyhow::Result<PathBuf> {
        let archive = source.with_extension("int8.aibit");
        let mut command = Command::new(&aibit);
        finish(command.arg("pack").arg(source).arg("-o").arg(&archive).args(["-q", "int8"]), "aibit pack")?;
        Ok(archive)
    };
    Ok(Installed {
        archive: pack(&source)?,
        outliers: pack(&shape::gpt2(OUTLIERS)?)?,
        aibit,
        python,
        llama,
        models,
        tokenizer: source.join("tokenizer.json"),
    })
}

/// The peers' packages; returns their interpreter.
fn environment() -> anyhow::Result<PathBuf> {
    for compiler in ["cc", "c++"] {
        needs(compiler, "install a C and C++ compiler; on Debian: apt install build-essential")?;
    }
    python::environment(&folder().join("venv"), &scripts().join("requirements.txt"))
}

/// Compiles the small program against the library and headers that the Python package has brought.
fn build_llama(python: &Path) -> anyhow::Result<PathBuf> {
    needs("cc", "install a C compiler; on Debian: apt install build-essential")?;
    let packages =
        answer(Command::new(python).args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))?;
    let libraries = format!("{packages}/llama_cpp/lib");
    let program = folder().join("llama");
    finish(
        Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-o"])
            .arg(&program)
            .arg(scripts().join("llama.c"))
            .arg(format!("-I{packages}/include"))
            .args([format!("-L{libraries}"), format!("-Wl,-rpath,{libraries}")])
            .args(["-lllama", "-lggml", "-lggml-base"]),
        "cc llama.c",
    )?;
    Ok(program)
}

/// Converts the weights for each peer, where its model is missing or older than what it is made by.
fn make_models(python: &Path, source: &Path, models: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(models)?;
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
