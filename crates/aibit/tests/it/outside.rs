//! A crate outside of the workspace that depends on `aibit` alone.

use std::fs;
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = r#"
use std::ops::ControlFlow;

use aibit::{Archive, GenerateOptions, Model, Profile, Session, Tokenizer, generate};

fn main() {
    let path = std::env::args().nth(1).expect("an archive");
    let archive = Archive::open(path).expect("an archive");
    let (model, tokenizer) = (Model::load(&archive).expect("a model"), Tokenizer::load(&archive).expect("a tokenizer"));
    let mut session = Session::new(&model, Profile::Fast, 32).expect("memory");
    let options = GenerateOptions {
        max_tokens: Some(8),
        ..GenerateOptions::default()
    };
    let prompt = tokenizer.encode_prompt("Once upon a time").expect("ids");
    let mut on_text = |_: &str| ControlFlow::Continue(());
    let generation = generate(&mut session, &tokenizer, &prompt, &options, &mut on_text).expect("a continuation");
    println!("{}", generation.ids.len());
}
"#;

#[test]
fn a_crate_outside_of_the_workspace_generates_text() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = crates.join("../..");
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [dependencies]\naibit = {{ path = {crates:?} }}\n"
        ),
    );
    fs::create_dir(folder.path().join("src")).expect("a folder");
    write("src/main.rs", PROGRAM);
    // The versions that are on disk already: nothing is fetched.
    fs::copy(repository.join("Cargo.lock"), folder.path().join("Cargo.lock")).expect("a lock file");
    // Kept between runs, so that only what has changed is built again.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "--"])
        .arg(repository.join("fixtures/golden/tiny-llama/qwen3.aibit"))
        .current_dir(folder.path())
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .output()
        .expect("cargo");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout == "8\n", "{}: {stdout}{stderr}", output.status);
}
