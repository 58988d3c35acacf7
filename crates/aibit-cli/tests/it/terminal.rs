//! Behaviour at a terminal: no content of a file controls the terminal, and every typed or pasted line is a message.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aibit_format::{Archive, ArchiveWriter, Manifest, entry_names};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::chat::chat_int8;
use crate::models::Tiny;
use crate::support::{ids, json, run, shelf, temporary_folder, tiny_int8};

/// Longer than any answer of a test's model on any machine.
const PATIENCE: Duration = Duration::from_secs(120);
const TITLE: &str = "\u{1b}]0;owned\u{7}";
const TITLE_SHOWN: &str = "\\u{1b}]0;owned\\u{7}";

/// The binary at a pseudo-terminal.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&controller).expect("grantpt");
        unlockpt(&controller).expect("unlockpt");
        let name: CString = ptsname(&controller, Vec::new()).expect("its name");
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())).to_owned();
        let user = || Stdio::from(File::options().read(true).write(true).open(&path).expect("the other end"));
        let child = Command::new(env!("CARGO_BIN_EXE_aibit"))
            .current_dir(folder)
            .args(args)
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdin(user())
            .stdout(user())
            .stderr(user())
            .spawn()
            .expect("the binary starts");
        let keyboard = File::from(controller);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut output, shared) = (keyboard.try_clone().expect("a second handle"), Arc::clone(&screen));
        // Ends with an error when the last slave end is closed.
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut piece) {
                shared.lock().expect("no panic").extend(&piece[..read]);
            }
        });
        Self { child, keyboard, screen, reader: Some(reader) }
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no panic")).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.screen().matches(what).count() < times {
            assert!(Instant::now() < deadline, "no {what:?} {times} times in {:?}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn types(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("typed");
    }

    /// Waits for the end and returns the exit code and all output.
    #[track_caller]
    fn ends(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let code = loop {
            match self.child.try_wait().expect("a state") {
                Some(status) => break status.code(),
                None => assert!(Instant::now() < deadline, "it goes on after {:?}", self.screen()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.reader.take().expect("joined once").join().expect("no panic");
        (code, self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output at a terminal, without control characters from files.
#[track_caller]
fn shows(folder: &Path, args: &[&str]) -> String {
    let (_, screen) = Terminal::start(folder, args).ends();
    let steers =
        |c: char| (c.is_control() && !"\r\n\t".contains(c)) || "\u{202e}\u{2028}\u{200b}".contains(c);
    // A terminal converts line feeds to CR LF.
    let screen = screen.replace("\r\n", "\n");
    assert!(!screen.contains(steers) && !screen.contains('\r'), "{args:?}: {screen:?}");
    screen
}

/// An archive with this manifest.
fn with_manifest(folder: &Path, edit: impl FnOnce(&mut Manifest)) {
    let old = Archive::open(shelf().join(tiny_int8())).expect("an archive");
    let mut writer = ArchiveWriter::create(folder.join("hostile.aibit")).expect("a new archive");
    for entry in old.entries().filter(|entry| entry.name != entry_names::MANIFEST) {
        let record = old.manifest().entries.iter().find(|record| record.name == entry.name);
        writer.add(entry.name, &record.expect("listed").media_type, entry.data).expect("add");
    }
    let mut manifest = old.manifest().clone();
    edit(&mut manifest);
    writer.finish(manifest).expect("finish");
}

#[test]
fn inspect_shows_what_an_archive_says_of_itself() {
    let folder = temporary_folder();
    with_manifest(folder.path(), |manifest| {
        manifest.provenance.tool = format!("{TITLE}\u{9b}2J\u{202e}\u{2028}\u{200b}\r");
        manifest.architecture = format!("gpt2{TITLE}");
        manifest.recipe.preset = "int8\nmade by          somebody else".to_owned();
    });
    let screen = shows(folder.path(), &["inspect", "hostile.aibit"]);
    let tool = format!("{TITLE_SHOWN}\\u{{9b}}2J\\u{{202e}}\\u{{2028}}\\u{{200b}}\\r");
    assert!(screen.contains(&tool) && screen.contains(&format!("gpt2{TITLE_SHOWN}")), "{screen}");
    assert_eq!(screen.matches("\nmade by ").count(), 1, "a line break makes no line: {screen}");
    let piped = run(folder.path(), &["inspect", "hostile.aibit"]).stdout;
    assert!(piped.contains(TITLE) && piped.contains('\u{202e}'), "a pipe gets the bytes: {piped:?}");

    // JSON has its own escapes.
    let screen = shows(folder.path(), &["inspect", "hostile.aibit", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&screen.replace('\n', "")).expect("JSON");
    assert_eq!(report["architecture"], format!("gpt2{TITLE}"));
    // Messages go to standard error, where nothing depends on exact bytes.
    for command in ["run", "diff"] {
        let args: &[&str] = if command == "run" {
            &["hostile.aibit", "-p", "x", "--chat"]
        } else {
            &["hostile.aibit", "hostile.aibit"]
        };
        shows(folder.path(), &[&[command], args].concat());
    }
}

#[test]
fn inspect_shows_keys_and_names_of_a_gguf_file() {
    let folder = temporary_folder();
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend([1_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat());
    file.extend([string(&format!("key{TITLE}")), 8_u32.to_le_bytes().into(), string(TITLE)].concat());
    // One dimension of one element, F32, at the start of the data.
    file.extend(string(&format!("tensor{TITLE}")));
    file.extend([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.resize(file.len().next_multiple_of(32) + 4, 0);
    fs::write(folder.path().join("hostile.gguf"), file).expect("written");
    let screen = shows(folder.path(), &["inspect", "hostile.gguf", "--tensors"]);
    for shown in [format!("key{TITLE_SHOWN}"), format!("tensor{TITLE_SHOWN}")] {
        assert!(screen.contains(&shown), "{screen}");
    }
}

#[test]
fn verify_and_arguments_show_names() {
    let folder = temporary_folder();
    let name = format!("a{TITLE}.aibit");
    fs::copy(shelf().join(tiny_int8()), folder.path().join("sound.aibit")).expect("a copy");
    fs::write(folder.path().join(&name), b"no archive, but long enough to be one").expect("written");
    for args in [
        &["verify", &name] as &[&str],
        &["inspect", &name],
        &["diff", "sound.aibit", &name],
        &["pack", &name, "-o", "out.aibit"],
        &["run", "sound.aibit", "-f", TITLE],
    ] {
        let screen = shows(folder.path(), args);
        assert!(screen.contains(TITLE_SHOWN), "{args:?}: {screen}");
    }
    // The argument parser removes such sequences itself.
    shows(folder.path(), &["run", "sound.aibit", "-p", "x", "--profile", TITLE]);
    shows(folder.path(), &["pack", "sound.aibit", "-o", "x", "-q", "\u{202e}\u{9b}2J"]);
}

/// The tiny model with a tokenizer in which the first token generated after "x y" is an escape character.
fn escaping(folder: &Path) {
    let report = json(shelf(), &["run", tiny_int8(), "-p", "x y", "-n", "1", "--ignore-eos"]);
    let generated = ids(&report["generated_ids"])[0];
    let model =
        Tiny::new().remove("vocab.json").remove("merges.txt").edit_json("tokenizer.json", |tokenizer| {
            let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
            let token =
                vocabulary.iter().find(|(_, id)| **id == json!(generated)).expect("a token").0.clone();
            // The byte 1b in GPT-2's byte alphabet.
            let escape = vocabulary.insert("ě".to_owned(), json!(generated)).expect("a token for every byte");
            vocabulary.insert(token, escape);
        });
    let target = folder.join("escaping.aibit");
    let args = ["pack", "tiny", "-o", target.to_str().expect("a UTF-8 path")];
    assert_eq!(run(model.around(), &args).code, Some(0));
}

#[test]
fn generated_text_is_shown() {
    let folder = temporary_folder();
    escaping(folder.path());
    let args = ["run", "escaping.aibit", "-p", "x y", "-n", "1", "--ignore-eos"];
    assert_eq!(run(folder.path(), &args).stdout, "\u{1b}\n", "a pipe gets the bytes");
    for stream in [&[] as &[&str], &["--no-stream"]] {
        let screen = shows(folder.path(), &[&args[..], stream].concat());
        assert!(screen.starts_with("\\u{1b}\n"), "{screen}");
    }
}

/// A conversation at a terminal. The screen includes the editor's own control sequences.
fn chat(options: &[&str]) -> Terminal {
    let terminal = Terminal::start(shelf(), &[&["chat", chat_int8(), "--temp", "0"], options].concat());
    terminal.wait_for("> ", 1);
    terminal
}

#[test]
fn lines_that_come_in_one_piece_are_messages_each() {
    let mut terminal = chat(&["-n", "4"]);
    terminal.types(b"First line\rSecond line\r/usr is big\r/history\r/bye\r");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0), "{screen:?}");
    for message in ["First line", "Second line", "/usr is big"] {
        assert_eq!(screen.matches(&format!("user: {message}\r\n")).count(), 1, "{screen:?}");
    }
    assert_eq!(screen.matches("assistant: ").count(), 3, "{screen:?}");
}

#[test]
fn more_lines_than_the_editor_reads_at_once_are_messages_each() {
    let mut terminal = chat(&["-n", "1"]);
    let said: String = (0..40).map(|i| format!("/system This is system message number {i:03}.\r")).collect();
    terminal.types(said.as_bytes());
    terminal.types(b"/history\r/quit\r");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0), "{screen:?}");
    assert!(screen.contains("\r\nsystem: This is system message number 039.\r\n"), "{screen:?}");
}

#[test]
fn several_lines_are_pasted_with_brackets() {
    let mut terminal = chat(&["-n", "4"]);
    terminal.types(b"\x1b[200~One\nTwo\x1b[201~\r");
    terminal.wait_for("context", 1);
    terminal.types(b"\"\"\"Three\rFour\"\"\"\r/history\r/exit\r");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0));
    for message in ["user: One\r\nTwo\r\n", "user: Three\r\nFour\r\n"] {
        assert!(screen.contains(message), "{screen:?}");
    }
}

#[test]
fn history_is_shown() {
    let mut terminal = chat(&["-n", "4", "--system", TITLE]);
    terminal.types(b"/history\r");
    terminal.wait_for(&format!("system: {TITLE_SHOWN}"), 1);
    terminal.types(b"\x04");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0));
    assert!(!screen.contains(TITLE), "{screen:?}");
}

#[test]
fn a_line_that_is_no_text_is_refused_at_a_terminal_too() {
    let mut terminal = chat(&["-n", "4"]);
    terminal.types(b"caf\xff");
    terminal.wait_for("not UTF-8 and was not sent", 1);
    terminal.types(b"Hello\r");
    terminal.wait_for("context", 1);
    terminal.types(b"/history\r/bye\r");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0), "each problem has been seen");
    assert!(screen.contains("user: Hello\r\n") && !screen.contains("user: caf"), "{screen:?}");
}

#[test]
fn interrupts_clear_the_line_and_end_the_program() {
    let mut terminal = chat(&["-n", "4"]);
    terminal.types(b"half a message\x03");
    terminal.wait_for("> ", 2);
    terminal.types(b"/history\r");
    terminal.wait_for("> ", 3);
    terminal.types(b"\x03");
    terminal.wait_for("> ", 4);
    terminal.types(b"\x03");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0));
    assert!(!screen.contains("user: half"), "{screen:?}");
}
