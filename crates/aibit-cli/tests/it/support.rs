//! Running the binary, and archives shared by tests.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use std::{fs, io};

use serde_json::Value;

use crate::models;

/// Longer than any run of a test on any machine.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The exit code and output of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the binary in `folder` with `input` on standard input and the environment variables `env`. Files are named
/// relative to the folder, so that messages contain no machine-specific path.
#[track_caller]
pub(crate) fn run_with(folder: &Path, args: &[&str], input: &str, env: &[(&str, &str)]) -> Outcome {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_aibit"))
        .current_dir(folder)
        .args(args)
        .env("COLUMNS", "100")
        .env_remove("CLICOLOR_FORCE")
        .envs(env.iter().copied())
        .write_stdin(input)
        .timeout(TIMEOUT)
        .output()
        .expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let outcome =
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!outcome.stderr.contains("panicked"), "{args:?}: {}", outcome.stderr);
    outcome
}

#[track_caller]
pub(crate) fn run(folder: &Path, args: &[&str]) -> Outcome {
    run_with(folder, args, "", &[])
}

/// Standard output of a run that must succeed without messages.
#[track_caller]
pub(crate) fn succeeds(folder: &Path, args: &[&str]) -> String {
    let Outcome { code, stdout, stderr } = run(folder, args);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
    stdout
}

/// Standard error of a run that must fail with exit code 2 and print no result.
#[track_caller]
pub(crate) fn refuses(folder: &Path, args: &[&str]) -> String {
    let Outcome { code, stdout, stderr } = run(folder, args);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
    stderr
}

/// The single JSON object of a run with `--json`.
#[track_caller]
pub(crate) fn json(folder: &Path, args: &[&str]) -> Value {
    parse_json(&succeeds(folder, &[args, &["--json"]].concat()))
}

#[track_caller]
pub(crate) fn parse_json(stdout: &str) -> Value {
    assert_eq!(stdout.lines().count(), 1, "one object on one line: {stdout}");
    let value: Value = serde_json::from_str(stdout).expect("JSON");
    assert_eq!(value["schema_version"], 1);
    value
}

/// The token ids in an array of a report.
#[track_caller]
pub(crate) fn ids(value: &Value) -> Vec<u64> {
    value.as_array().expect("an array").iter().map(|id| id.as_u64().expect("an id")).collect()
}

#[track_caller]
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// Starts the binary with its standard output piped and its standard error in `folder`.
#[track_caller]
pub(crate) fn spawn(folder: &Path, args: &[&str]) -> Running {
    let errors = folder.join("stderr.txt");
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_aibit"))
        .current_dir(folder)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&errors).expect("a file for messages"))
        .spawn()
        .expect("the binary starts");
    Running { child, errors }
}

/// A running process, which is killed at the end of the test.
pub(crate) struct Running {
    pub(crate) child: Child,
    errors: PathBuf,
}

impl Running {
    /// Its standard error so far.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.errors).expect("messages are UTF-8")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of archives shared by tests. It is in the build folder rather than the system's temporary folder,
/// because temporary files would not be removed when a test binary ends.
pub(crate) fn shelf() -> &'static Path {
    static SHELF: OnceLock<PathBuf> = OnceLock::new();
    SHELF.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aibit-cli");
        fs::create_dir_all(&folder).expect("a folder in the build folder");
        folder
    })
}

/// Packs `source` as `name` on the shelf. An existing archive is replaced atomically, while other processes may still
/// read it.
fn put_on_shelf(source: &Path, name: &'static str, preset: &str) -> &'static str {
    let source = source.to_str().expect("a UTF-8 path");
    succeeds(shelf(), &["pack", source, "-o", name, "-q", preset]);
    name
}

/// The trained model in INT8, on the [`shelf`].
pub(crate) fn small_int8() -> &'static str {
    static NAME: OnceLock<&str> = OnceLock::new();
    NAME.get_or_init(|| put_on_shelf(&models::small(), "small-int8.aibit", "int8"))
}

/// The trained model in F32, on the [`shelf`].
pub(crate) fn small_f32() -> &'static str {
    static NAME: OnceLock<&str> = OnceLock::new();
    NAME.get_or_init(|| put_on_shelf(&models::small(), "small-f32.aibit", "f32"))
}

/// The tiny random model in INT8, on the [`shelf`].
pub(crate) fn tiny_int8() -> &'static str {
    static NAME: OnceLock<&str> = OnceLock::new();
    NAME.get_or_init(|| put_on_shelf(models::Tiny::new().path(), "tiny-int8.aibit", "int8"))
}

/// A temporary folder for one test.
#[track_caller]
pub(crate) fn temporary_folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Whether this process may write into `folder`; root may, regardless of permissions.
pub(crate) fn is_writable(folder: &Path) -> io::Result<bool> {
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(e) => Err(e),
    }
}

/// Deterministic pseudo-random numbers (splitmix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}
