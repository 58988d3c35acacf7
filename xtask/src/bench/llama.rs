//! llama.cpp and its fork ik_llama.cpp: built from the source packages of their Python bindings, and driven by one
//! small program, `benches/peers/llama.c`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use clap::ValueEnum;

use super::install::{folder, scripts};
use crate::python::{self, finish, needs};

/// The instruction sets that peers are built for and that aibit may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum BuiltFor {
    /// Everything that this processor has
    Native,
    /// AVX2, FMA and F16C only
    Avx2,
}

impl BuiltFor {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Avx2 => "avx2",
        }
    }

    /// The value of `AIBIT_ISA`.
    pub(super) fn aibit_isa(self) -> Option<&'static str> {
        match self {
            Self::Native => None,
            Self::Avx2 => Some("avx2"),
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Native => &["-DGGML_NATIVE=ON"],
            Self::Avx2 => &[
                "-DGGML_NATIVE=OFF",
                "-DGGML_AVX=ON",
                "-DGGML_AVX2=ON",
                "-DGGML_FMA=ON",
                "-DGGML_F16C=ON",
                "-DGGML_BMI2=ON",
                "-DGGML_AVX512=OFF",
            ],
        }
    }
}

/// One of the two libraries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Library {
    /// The name in tables and of its folders.
    pub(super) name: &'static str,
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    /// The root of its build inside the package.
    source: &'static str,
    options: &'static [&'static str],
    /// The folders of its libraries inside the build.
    built: &'static [&'static str],
    /// Compiler flags for `llama.c`.
    flags: &'static [&'static str],
}

pub(super) static LLAMA: Library = Library {
    name: "llama.cpp",
    package: "llama-cpp-python",
    version: "0.3.36",
    source: "vendor/llama.cpp",
    options: &[],
    built: &["bin"],
    flags: &["-lllama", "-lggml", "-lggml-base"],
};

pub(super) static IK_LLAMA: Library = Library {
    name: "ik_llama.cpp",
    package: "ik-llama-cpp-python",
    version: "0.1.5",
    source: "vendor/ik_llama.cpp",
    // Kernels for caches of every type are most of its build; we use f16, the default.
    options: &["-DGGML_IQK_FA_ALL_QUANTS=OFF"],
    built: &["src", "ggml/src"],
    flags: &["-DIK_LLAMA", "-lllama", "-lggml"],
};

/// Builds what is missing and returns the driver program. A build takes up to half an hour on two cores.
pub(super) fn build(library: &Library, built_for: BuiltFor) -> anyhow::Result<PathBuf> {
    for compiler in ["cc", "c++"] {
        needs(compiler, "install a C and C++ compiler; on Debian: apt install build-essential")?;
    }
    let python = tools()?;
    let source = source(library, &python)?;
    let Library { name, options, built, flags, .. } = library;
    let folder = folder().join(format!("{}-{}", name.trim_end_matches(".cpp"), built_for.name()));
    let tool = |name: &str| Command::new(python.with_file_name(name));
    let stamp = folder.join("complete");
    if !stamp.exists() {
        eprintln!("building {name} in {}: up to half an hour", folder.display());
        let mut ninja = std::ffi::OsString::from("-DCMAKE_MAKE_PROGRAM=");
        ninja.push(python.with_file_name("ninja"));
        finish(
            tool("cmake")
                .args(["-G", "Ninja", "-S"])
                .arg(&source)
                .arg("-B")
                .arg(&folder)
                .arg(ninja)
                .args([
                    "-DCMAKE_BUILD_TYPE=Release",
                    "-DBUILD_SHARED_LIBS=ON",
                    "-DGGML_CCACHE=OFF",
                    "-DLLAMA_CURL=OFF",
                ])
                .args(
                    ["TESTS", "EXAMPLES", "SERVER", "TOOLS"].map(|part| format!("-DLLAMA_BUILD_{part}=OFF")),
                )
                .args(*options)
                .args(built_for.options()),
            "cmake",
        )?;
        // One of the packages lacks files that its tools need.
        finish(tool("cmake").arg("--build").arg(&folder).args(["--target", "llama"]), "cmake --build")?;
        std::fs::write(&stamp, "")?;
    }
    let program = folder.join("llama");
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&program).arg(scripts().join("llama.c"));
    for include in ["include", "ggml/include"] {
        compile.arg(format!("-I{}", source.join(include).display()));
    }
    for built in *built {
        let libraries = folder.join(built).display().to_string();
        compile.args([format!("-L{libraries}"), format!("-Wl,-rpath,{libraries}")]);
    }
    finish(compile.args(*flags), "cc llama.c")?;
    Ok(program)
}

/// The interpreter in whose folder cmake and ninja are.
pub(super) fn tools() -> anyhow::Result<PathBuf> {
    python::environment(&folder().join("venv-build"), &scripts().join("requirements-build.txt"))
}

/// The library's sources, downloaded once.
fn source(library: &Library, python: &Path) -> anyhow::Result<PathBuf> {
    let Library { package, version, source, .. } = library;
    let sources = folder().join("sources");
    let found = sources.join(format!("{package}-{version}")).join(source);
    if found.is_dir() {
        return Ok(found);
    }
    let work = sources.join("download");
    if work.exists() {
        std::fs::remove_dir_all(&work)?;
    }
    std::fs::create_dir_all(&work)?;
    let pip = |command: &mut Command| finish(command, "pip download");
    pip(Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            package,
            "--dest",
        ])
        .arg(&work)
        .arg(format!("{package}=={version}")))?;
    let name = format!("{}-{version}", package.replace('-', "_"));
    let mut extract = Command::new(python);
    extract.args(["-m", "tarfile", "-e"]).arg(work.join(format!("{name}.tar.gz"))).arg(&work);
    finish(&mut extract, "unpacking the source package")?;
    std::fs::rename(work.join(&name), sources.join(format!("{package}-{version}")))?;
    std::fs::remove_dir_all(&work)?;
    ensure!(found.is_dir(), "{package} {version} has no {source}");
    Ok(found)
}
