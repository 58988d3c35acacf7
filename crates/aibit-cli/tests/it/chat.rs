//! `aibit chat` and `aibit run --chat`.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use insta::assert_snapshot;
use serde_json::json;

use crate::models::{self, Tiny};
use crate::support::{
    Outcome, json, parse_json, refuses, run_with, shelf, small_int8, succeeds, temporary_folder, text,
};

const TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content | trim }}\n\
    {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
const GREEDY: [&str; 4] = ["-n", "12", "--temp", "0"];

/// The template's output for a conversation that the assistant continues.
fn rendered(messages: &[(&str, &str)]) -> String {
    let lines: String =
        messages.iter().map(|(role, content)| format!("{role}: {}\n", content.trim())).collect();
    lines + "assistant:"
}

/// The trained model with a chat template, on the shelf.
pub(crate) fn chat_int8() -> &'static str {
    static NAME: OnceLock<&str> = OnceLock::new();
    NAME.get_or_init(|| {
        let folder = temporary_folder();
        for file in fs::read_dir(models::small()).expect("a folder") {
            let file = file.expect("a file").path();
            let copy = folder.path().join(file.file_name().expect("a name"));
            fs::write(copy, fs::read(&file).expect("read")).expect("write");
        }
        fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).expect("write");
        let source = folder.path().to_str().expect("a UTF-8 path");
        succeeds(shelf(), &["pack", source, "-o", "chat-int8.aibit", "-q", "int8"]);
        "chat-int8.aibit"
    })
}

/// The conversation for `input`.
#[track_caller]
fn chat(options: &[&str], input: &str) -> Outcome {
    run_with(shelf(), &[&["chat", chat_int8()], &GREEDY[..], options].concat(), input, &[])
}

/// The model's continuation of `prompt`.
#[track_caller]
fn continuation(prompt: &str) -> String {
    let report = json(shelf(), &[&["run", chat_int8(), "-p", prompt], &GREEDY[..]].concat());
    text(&report["text"]).to_owned()
}

/// Output and errors without any answer.
#[track_caller]
fn silent(input: &str) -> (String, String) {
    let Outcome { code, stdout, stderr } = chat(&[], input);
    assert_eq!(code, Some(if stderr.is_empty() { 0 } else { 2 }), "{stderr}");
    (stdout, stderr)
}

#[test]
fn run_answers_one_message() {
    let expected = continuation(&rendered(&[("user", "Who are you?")]));
    let args = [&["run", chat_int8(), "-p", "Who are you?", "--chat"], &GREEDY[..]].concat();
    assert_eq!(succeeds(shelf(), &args), format!("{expected}\n"));
    assert_eq!(text(&json(shelf(), &args)["text"]), expected);

    let expected = continuation(&rendered(&[("system", "Be brief."), ("user", "Who are you?")]));
    let args = [&args[..], &["--system", "Be brief."]].concat();
    assert_eq!(succeeds(shelf(), &args), format!("{expected}\n"));
    assert!(refuses(shelf(), &["run", chat_int8(), "-p", "x", "--system", "x"]).contains("--chat"));
}

#[test]
fn each_turn_says_what_run_says_of_the_whole_conversation() {
    let mut messages = vec![("system", "Be brief.".to_owned())];
    let mut expected = String::new();
    for said in ["Who are you?", "And what can you do?", "Thank you."] {
        messages.push(("user", said.into()));
        let so_far: Vec<_> = messages.iter().map(|(role, content)| (*role, content.as_str())).collect();
        let answer = continuation(&rendered(&so_far));
        expected += &format!("{answer}\n");
        messages.push(("assistant", answer));
    }
    let input = "Who are you?\nAnd what can you do?\nThank you.\n";
    let Outcome { code, stdout, stderr } = chat(&["--system", "Be brief."], input);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), expected.as_str(), ""));
    // CRLF line ends, empty lines, and a missing newline at the end make no difference.
    let other = "Who are you?\r\n\r\n   \nAnd what can you do?\r\nThank you.";
    assert_eq!(chat(&["--system", "Be brief."], other).stdout, expected);

    let history: String = messages.iter().map(|(role, content)| format!("{role}: {content}\n")).collect();
    let Outcome { stdout, .. } = chat(&["--system", "Be brief."], &format!("{input}/history\n"));
    assert_eq!(stdout, expected + &history);
}

#[test]
fn penalties_look_back_on_the_whole_conversation() {
    let penalty = ["--repeat-penalty", "1.5", "--repeat-last-n", "-1"];
    let run = |prompt: &str| {
        let args = [&["run", chat_int8(), "-p", prompt], &GREEDY[..], &penalty].concat();
        text(&json(shelf(), &args)["text"]).to_owned()
    };
    let first = run(&rendered(&[("user", "Once more")]));
    let second = run(&rendered(&[("user", "Once more"), ("assistant", &first), ("user", "Once more")]));
    assert_eq!(chat(&penalty, "Once more\nOnce more\n").stdout, format!("{first}\n{second}\n"));
}

#[test]
fn clear_forgets_all_but_the_system_message() {
    let fresh = continuation(&rendered(&[("system", "Be kind."), ("user", "Hello")]));
    let Outcome { stdout, stderr, .. } =
        chat(&[], "/system Be rude.\n/system   Be kind. \n/clear\nHello\n/clear\n/history\n/clear\nHello\n");
    assert_eq!(stdout, format!("{fresh}\nsystem: Be kind.\n{fresh}\n"));
    assert_eq!(stderr, "");
}

#[test]
fn several_lines_and_slashes_can_be_said() {
    let expected = continuation(&rendered(&[("user", "first\n\n/help\n  last")]));
    assert_eq!(chat(&[], "\"\"\"\nfirst\n\n/help\n  last\n\"\"\"\n").stdout, format!("{expected}\n"));
    let expected = continuation(&rendered(&[("user", "/help me")]));
    assert_eq!(chat(&[], "//help me\n").stdout, format!("{expected}\n"));
}

#[test]
fn a_line_is_a_command_only_if_it_is_one() {
    for said in ["/etc/fstab", "/usr is big", "// twice", "/helpful hints"] {
        let expected = continuation(&rendered(&[("user", said)]));
        assert_eq!(chat(&[], &format!("{said}\n")).stdout, format!("{expected}\n"), "{said}");
    }
}

#[test]
fn several_lines_begin_and_end_beside_text() {
    let expected = continuation(&rendered(&[("user", "first\n\n/help\nlast")]));
    assert_eq!(chat(&[], "\"\"\"first\n\n/help\nlast\"\"\"\n").stdout, format!("{expected}\n"));
    let expected = continuation(&rendered(&[("user", "one line")]));
    assert_eq!(chat(&[], "\"\"\"one line\"\"\"\n").stdout, format!("{expected}\n"));
}

/// The conversation for these bytes.
#[track_caller]
fn chat_bytes(input: &[u8]) -> Outcome {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_aibit"))
        .current_dir(shelf())
        .args([&["chat", chat_int8()], &GREEDY[..]].concat())
        .write_stdin(input)
        .output()
        .expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_line_that_is_not_text_does_not_end_the_conversation() {
    let expected = continuation(&rendered(&[("user", "Hello")]));
    let Outcome { code, stdout, stderr } = chat_bytes(b"caf\xe9\nHello\n\"\"\"\none\xff\nHello\n\"\"\"\n");
    assert_eq!((code, stdout), (Some(2), format!("{expected}\n")));
    assert_snapshot!(stderr, @r"
    error: a line is not UTF-8 and was not sent; byte 3 of it is 0xe9
    hint: convert it, for instance with `iconv -f latin1 -t utf-8`
    error: a line is not UTF-8 and was not sent; byte 3 of it is 0xff
    hint: convert it, for instance with `iconv -f latin1 -t utf-8`
    ");
}

#[test]
fn a_line_without_an_end_is_not_read_for_ever() {
    let Outcome { code, stdout, stderr } = chat_bytes(&vec![b'x'; (16 << 20) + 2]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert_snapshot!(stderr, @"error: a line of standard input has more than 16777216 bytes, the maximum");
}

#[test]
fn commands_end_and_explain() {
    assert_eq!(silent(""), Default::default());
    for quit in ["/quit\n/help\n", "/exit\n/help\n", "/bye\n/help\n", "/history\n", "\n\n"] {
        assert_eq!(silent(quit), Default::default(), "{quit}");
    }
    let (help, complaints) = silent("/help\n");
    assert_eq!(complaints, "");
    assert_eq!(silent("/?\n").0, help);
    for command in ["/help", "/?", "/history", "/system", "/clear", "/quit", "/exit", "/bye", "//", "\"\"\""]
    {
        assert!(help.contains(command), "{command}");
    }
}

#[test]
fn a_command_that_cannot_be_is_not_said() {
    let (stdout, stderr) = silent("/quit now\n/system\n\"\"\"\nno end\n");
    assert_eq!(stdout, "");
    assert_snapshot!(stderr, @r#"
    error: /quit takes no argument
    hint: to send it to the model, start the line with //
    error: /system needs a text
    hint: /system Answer in one sentence.
    error: the message started by """ has no end and was not sent
    hint: end it with """
    "#);
}

#[test]
fn a_message_that_does_not_fit_leaves_the_conversation_as_it_was() {
    let first = continuation(&rendered(&[("user", "Hello")]));
    let long = "word ".repeat(100);
    let Outcome { code, stdout, stderr } = chat(&["-c", "40"], &format!("Hello\n{long}\n/history\n"));
    assert_eq!(code, Some(2), "one message could not be answered");
    assert_eq!(stdout, format!("{first}\nuser: Hello\nassistant: {first}\n"));
    let mut settings = insta::Settings::clone_current();
    settings.add_filter("[0-9]+ tokens", "[N] tokens");
    settings.add_filter("[0-9]+ of 40", "[N] of 40");
    settings.bind(|| {
        assert_snapshot!(stderr, @r"
        error: [N] tokens do not fit: [N] of 40 positions of the context are taken
        hint: /clear clears the conversation; -c sets a longer context
        ");
    });
}

#[test]
fn a_model_without_a_template_is_refused() {
    let message = refuses(shelf(), &["chat", small_int8()]);
    assert_snapshot!(message, @"error: small-int8.aibit has no chat template, neither chat_template.jinja nor `chat_template` in tokenizer_config.json; it can only continue text: `aibit run FILE -p TEXT`");
    assert_eq!(refuses(shelf(), &["run", small_int8(), "-p", "x", "--chat"]), message);
}

#[test]
fn json_is_for_run() {
    let Outcome { code, stdout, stderr } = chat(&["--json"], "");
    assert_eq!((code, text(&parse_json(&stdout)["error"]["code"])), (Some(2), "usage"));
    assert_snapshot!(stderr, @"error: `chat` has no JSON output; `aibit run FILE -p TEXT --chat --json` answers one message");
}

/// The tiny model with this template, and a folder to run it in.
fn tiny_with(template: &str) -> (tempfile::TempDir, &'static str) {
    let model = Tiny::new().write("chat_template.jinja", template.as_bytes());
    let folder = temporary_folder();
    let source = model.path().to_str().expect("a UTF-8 path");
    // A template that fails is noted and packed.
    let Outcome { code, stderr, .. } =
        run_with(folder.path(), &["pack", source, "-o", "tiny.aibit", "-q", "int8"], "", &[]);
    assert_eq!(code, Some(0), "{stderr}");
    (folder, "tiny.aibit")
}

#[test]
fn special_tokens_in_messages_are_text_unless_they_are_allowed() {
    // The vocabulary's only special token, in the template and in the message.
    let (folder, archive) = tiny_with("<|endoftext|>{{ messages[0].content | trim }}!");
    let ids = |args: &[&str]| {
        json(folder.path(), &[&["run", archive, "-n", "1"], args].concat())["prompt_ids"].clone()
    };
    let own = ids(&["-p", "<|endoftext|>"]);
    assert_eq!(own.as_array().map(Vec::len), Some(1));
    let typed = ids(&["-p", "a<|endoftext|>b", "--chat"]);
    let count =
        |ids: &serde_json::Value| ids.as_array().map(|ids| ids.iter().filter(|id| **id == own[0]).count());
    assert_eq!(count(&typed), Some(1), "{typed}");
    assert_eq!(typed[0], own[0]);
    let allowed = ids(&["-p", "a<|endoftext|>b", "--chat", "--allow-special"]);
    assert_eq!(allowed, ids(&["-p", "<|endoftext|>a<|endoftext|>b!"]));
    assert_eq!(count(&allowed), Some(2));
    // Without special tokens nothing changes.
    assert_eq!(ids(&["-p", " a b ", "--chat"]), ids(&["-p", "<|endoftext|>a b!"]));
    assert!(refuses(folder.path(), &["run", archive, "-p", "x", "--allow-special"]).contains("--chat"));
    let said = |options: &[&str]| {
        run_with(folder.path(), &[&["chat", archive], options].concat(), "x<|endoftext|>\n", &[])
    };
    assert_eq!(said(&[]).code, Some(0));
    assert_eq!(said(&["--allow-special"]).code, Some(0));
}

#[test]
fn pack_reads_the_template() {
    let folder = temporary_folder();
    let pack = |model: &Tiny| {
        let source = model.path().to_str().expect("a UTF-8 path").to_owned();
        ["pack".to_owned(), source, "-o".to_owned(), "t.aibit".to_owned(), "-q".to_owned(), "int8".to_owned()]
    };
    let refused = |model: &Tiny| {
        let args = pack(model);
        let error = refuses(folder.path(), &args.each_ref().map(String::as_str));
        assert!(!folder.path().join("t.aibit").exists());
        error
    };
    let broken = Tiny::new().write("chat_template.jinja", b"a\n{% for %}");
    assert!(refused(&broken).contains("chat_template.jinja, chat template: line 2: "));
    let foreign = Tiny::new().write("chat_template.jinja", b"{% extends 'base' %}");
    assert!(refused(&foreign).contains("`block`, `extends`, `include` or `import` is not supported"));
    let several = Tiny::new().edit_json("tokenizer_config.json", |config| {
        config["chat_template"] =
            json!([{"name": "rag", "template": "r"}, {"name": "agent", "template": "a"}]);
    });
    assert!(refused(&several).contains("there is no template named `default` among agent, rag"));
    let further = Tiny::new();
    fs::create_dir(further.path().join("additional_chat_templates")).expect("a folder");
    let further = further.write("additional_chat_templates/rag.jinja", b"r");
    assert!(refused(&further).contains("no chat template named `default`, only rag"));

    let noted = |model: &Tiny| {
        let args = pack(model);
        run_with(folder.path(), &args.each_ref().map(String::as_str), "", &[]).stderr
    };
    let with_default = further.write("chat_template.jinja", b"{{ messages[0].content }}");
    assert!(noted(&with_default).contains("additional_chat_templates: rag left out"));
    let failing = Tiny::new().write("chat_template.jinja", b"{{ messages | random }}");
    assert!(noted(&failing).contains("the chat template fails for a conversation of one message"));
    let asking =
        Tiny::new().write("chat_template.jinja", b"{{ raise_exception('a system message comes first') }}");
    assert_eq!(noted(&asking).matches("note").count(), 0);
}

#[test]
fn a_gguf_export_has_the_default_of_several_templates() {
    let model = Tiny::new().edit_json("tokenizer_config.json", |config| {
        config["chat_template"] = json!({"rag": "r", "default": "{% if true %}\r\nA: {{ messages[0].content }}\r\n{% endif %}"});
    });
    let folder = temporary_folder();
    let source = model.path().to_str().expect("a UTF-8 path");
    succeeds(folder.path(), &["pack", source, "-o", "a.aibit", "-q", "f32"]);
    succeeds(folder.path(), &["export", "a.aibit", "--to", "gguf", "-o", "a.gguf"]);
    succeeds(folder.path(), &["pack", "a.gguf", "-o", "b.aibit"]);
    let ids =
        |args: &[&str]| json(folder.path(), &[&["run"], args, &["-n", "1"]].concat())["prompt_ids"].clone();
    let expected = ids(&["a.aibit", "-p", "A: hi\n"]);
    for archive in ["a.aibit", "b.aibit"] {
        assert_eq!(ids(&[archive, "-p", "hi", "--chat"]), expected, "{archive}");
    }
}

#[test]
fn the_template_may_be_in_the_tokenizer_config() {
    let model = Tiny::new().edit_json("tokenizer_config.json", |config| {
        config["chat_template"] = json!("{{ messages[0].content }}!")
    });
    let folder = temporary_folder();
    let source = model.path().to_str().expect("a UTF-8 path");
    succeeds(folder.path(), &["pack", source, "-o", "tiny.aibit", "-q", "int8"]);
    let of = |args: &[&str]| json(folder.path(), &[&["run", "tiny.aibit", "-n", "4"], args].concat());
    assert_eq!(of(&["-p", "hi", "--chat"])["prompt_ids"], of(&["-p", "hi!"])["prompt_ids"]);
}

#[test]
fn a_hostile_template_is_an_error_message() {
    let run = |folder: &Path, archive| refuses(folder, &["run", archive, "-p", "x", "--chat"]);
    let (folder, archive) = tiny_with(
        "{% set ns = namespace(x='x') %}{% for i in range(100000) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    );
    assert_snapshot!(run(folder.path(), archive), @"error: chat_template.jinja, chat template: line 1: it reads and makes more than 67108864 bytes for this conversation");
    let (folder, archive) = tiny_with("{{ ''.__class__.__base__.__subclasses__() }}");
    assert_snapshot!(run(folder.path(), archive), @"error: chat_template.jinja, chat template: line 1: access to attribute '__class__' is unsafe");

    // In a conversation the error is shown for each turn, and the turn is discarded.
    let (folder, archive) = tiny_with("{{ raise_exception('no\u{1b}[2J ' ~ messages | length) }}");
    let Outcome { code, stdout, stderr } =
        run_with(folder.path(), &["chat", archive], "hello\nhello\n/history\n", &[]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert_snapshot!(stderr, @r"
    error: chat_template.jinja, chat template: the template refuses the conversation: no\u{1b}[2J 1
    error: chat_template.jinja, chat template: the template refuses the conversation: no\u{1b}[2J 1
    ");
}

#[test]
fn a_report_of_run_is_of_the_conversation() {
    let args = [&["run", chat_int8(), "-p", "Hello", "--chat", "--json"], &GREEDY[..]].concat();
    let report = parse_json(&succeeds(shelf(), &args));
    let prompt = rendered(&[("user", "Hello")]);
    let of_text = json(shelf(), &[&["run", chat_int8(), "-p", &prompt], &GREEDY[..]].concat());
    assert_eq!(report["prompt_ids"], of_text["prompt_ids"]);
    assert_eq!(report["generated_ids"], of_text["generated_ids"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer_and_not_the_conversation() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let mut child = Command::new(env!("CARGO_BIN_EXE_aibit"))
        .current_dir(shelf())
        .args(["chat", chat_int8(), "-n", "-1", "--ignore-eos", "-t1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    stdin.write_all(b"Hello\n").expect("written");
    let mut printed = vec![0];
    stdout.read_exact(&mut printed).expect("a first byte");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    stdin.write_all(b"/history\n").expect("written");
    drop(stdin);
    stdout.read_to_end(&mut printed).expect("the rest");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let printed = String::from_utf8(printed).expect("whole characters");
    let (answer, history) = printed.split_once("\nuser: Hello\nassistant: ").expect("a history");
    assert_eq!(history, format!("{answer}\n"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_program_that_waits_for_a_line() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let mut child = Command::new(env!("CARGO_BIN_EXE_aibit"))
        .current_dir(shelf())
        .args(["chat", chat_int8()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    stdin.write_all(b"/help\n").expect("written");
    let mut help = vec![0; 100];
    stdout.read_exact(&mut help).expect("the help");
    // The signal handler may not be installed yet; then a later signal ends it.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let status = loop {
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
        std::thread::sleep(std::time::Duration::from_millis(20));
        match child.try_wait().expect("a state") {
            Some(status) => break status,
            None => assert!(std::time::Instant::now() < deadline, "it goes on"),
        }
    };
    assert_eq!(status.code(), Some(130));
}
