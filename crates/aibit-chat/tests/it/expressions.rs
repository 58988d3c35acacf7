//! What small templates mean: jinja2's results, as transformers sets it up, for values of every type under every
//! operator, test and filter, and for statements and white space.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use aibit_chat::{ChatFiles, ChatMessage, ChatTemplate, LocalTime};
use serde_json::Value;

/// The golden file's clock.
const NOW: LocalTime =
    LocalTime { year: 2024, month: 2, day: 29, hour: 16, minute: 5, second: 9, microsecond: 42 };

/// What an error says where jinja2 gives a text and this build refuses to, by name.
const REFUSAL: &str = "not supported";
/// Expressions whose syntax is refused: a plus without a left side, and tuples without brackets.
const REFUSED_SYNTAX: [&str; 3] = ["{{ +5 }}", "{{ True, False }}", "{{ 1, 2 }}"];

#[test]
fn every_expression_means_what_jinja2_makes_of_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/chat/expressions.json");
    let golden: Value = serde_json::from_slice(&fs::read(path).expect("a fixture")).expect("JSON");
    let config = golden["special_tokens"].to_string();
    let messages: Vec<ChatMessage> = golden["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| {
            let field = |key: &str| message[key].as_str().expect("a string");
            ChatMessage::new(field("role"), field("content"))
        })
        .collect();
    let rows = golden["rows"].as_array().expect("rows");
    let (mut differences, mut refused) = (String::new(), 0);
    for row in rows {
        let source = row[0].as_str().expect("a template");
        let files = ChatFiles {
            template: Some(source.as_bytes()),
            tokenizer_config: Some(config.as_bytes()),
            ..ChatFiles::default()
        };
        let template = ChatTemplate::from_files(&files).expect("valid files").expect("a template");
        let rendered = template.render(&messages, true, NOW).map(|chat| chat.text).map_err(|e| e.to_string());
        match (&rendered, row[1].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(_), None) => {}
            (Err(error), Some(_)) if error.contains(REFUSAL) || REFUSED_SYNTAX.contains(&source) => {
                refused += 1
            }
            (_, expected) => {
                writeln!(differences, "{source:?}: {expected:?}, but {rendered:?}").expect("a string");
            }
        }
    }
    assert!(rows.len() >= 10_000, "{} rows", rows.len());
    let different = differences.lines().count();
    assert!(differences.is_empty(), "{different} of {} differ:\n{differences}", rows.len());
    assert!(refused <= 50, "{refused} are refused");
}
