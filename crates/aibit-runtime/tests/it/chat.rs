//! Chat templates: what transformers renders of them, what files say, and what a hostile one cannot do.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use aibit_runtime::{ChatMessage, ChatTemplate, RuntimeError};
use serde_json::{Value, json};

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_files(Some(source.as_bytes()), None, None).expect("short").expect("a template")
}

/// What `source` makes of one message.
fn render(source: &str) -> Result<String, String> {
    template(source).render(&[ChatMessage::new("user", "hello")], true).map_err(|e| e.to_string())
}

/// The template is refused, and says why.
#[track_caller]
fn refused(source: &str, why: &str) {
    match render(source) {
        Ok(text) => panic!("{} bytes rendered of {source:.200}", text.len()),
        Err(error) => assert!(error.contains(why), "{error}\nof {source:.200}"),
    }
}

// ---------------------------------------------------------------------------------------------
// As transformers.

#[test]
fn every_golden_case_is_rendered_as_transformers_renders_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/chat/cases.json");
    let golden: Value = serde_json::from_slice(&fs::read(path).expect("a fixture")).expect("JSON");
    let config = golden["special_tokens"].to_string();
    let mut differences = String::new();
    let cases = golden["cases"].as_array().expect("an array");
    for case in cases {
        let name = |key: &str| case[key].as_str().expect("a name");
        let source = golden["templates"][name("template")].as_str().expect("a template");
        let template = ChatTemplate::from_files(Some(source.as_bytes()), Some(config.as_bytes()), None);
        let template = template.expect("valid files").expect("a template");
        let messages: Vec<ChatMessage> = golden["conversations"][name("conversation")]
            .as_array()
            .expect("messages")
            .iter()
            .map(|message| {
                let field = |key: &str| message[key].as_str().expect("a string");
                ChatMessage::new(field("role"), field("content"))
            })
            .collect();
        let add_generation_prompt = case["add_generation_prompt"].as_bool().expect("a boolean");
        let rendered = template.render(&messages, add_generation_prompt);
        let same = match (&rendered, case["text"].as_str(), case["raises"].as_str()) {
            (Ok(text), Some(expected), _) => text == expected,
            // Only what the template says itself is the same; the libraries' own messages differ.
            (Err(error), None, Some(expected)) => {
                let raised = source.contains("raise_exception(");
                !raised || error.to_string().ends_with(&format!("refuses the conversation: {expected}"))
            }
            _ => false,
        };
        if !same {
            writeln!(differences, "{case:#}\n{rendered:#?}").expect("a string takes any text");
        }
    }
    assert!(cases.len() >= 80);
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn slices_are_those_of_python() {
    for (slice, expected) in [
        ("[1:3]", "bc"),
        ("[:-1]", "abcd"),
        ("[-2:]", "de"),
        ("[::-1]", "edcba"),
        ("[3:1]", ""),
        ("[3:1:-1]", "dc"),
        ("[-99:99:2]", "ace"),
        ("[99::-2]", "eca"),
        ("[:-9223372036854775807:-1]", "edcba"),
    ] {
        assert_eq!(render(&format!("{{{{ 'abcde'{slice} }}}}")).expect(slice), expected, "{slice}");
        let list = format!("{{{{ ['a', 'b', 'c', 'd', 'e']{slice} | join }}}}");
        assert_eq!(render(&list).expect(slice), expected, "{slice}");
    }
    refused("{{ 'abc'[::0] }}", "step of a slice is 0");
}

#[test]
fn a_message_may_hold_what_looks_like_a_template() {
    let text = template("{{ messages[0].content }}")
        .render(&[ChatMessage::new("user", "{{ 1 + 1 }}{% raw %}\n")], false)
        .expect("rendered");
    assert_eq!(text, "{{ 1 + 1 }}{% raw %}\n");
}

// ---------------------------------------------------------------------------------------------
// Files.

/// What is rendered with these files.
fn of_files(template: Option<&str>, config: &Value, map: &Value) -> Option<String> {
    let (config, map) = (config.to_string(), map.to_string());
    ChatTemplate::from_files(template.map(str::as_bytes), Some(config.as_bytes()), Some(map.as_bytes()))
        .expect("valid files")
        .map(|template| template.render(&[], false).expect("rendered"))
}

#[test]
fn the_template_has_one_place_of_several() {
    let several =
        json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]);
    let none = json!({});
    assert_eq!(of_files(None, &none, &none), None);
    assert_eq!(of_files(None, &json!({"chat_template": null}), &none), None);
    assert_eq!(of_files(None, &json!({"chat_template": "config"}), &none).as_deref(), Some("config"));
    assert_eq!(of_files(None, &json!({"chat_template": several}), &none).as_deref(), Some("named"));
    assert_eq!(of_files(None, &json!({"chat_template": [several[0]]}), &none), None);
    assert_eq!(of_files(Some("file"), &json!({"chat_template": "config"}), &none).as_deref(), Some("file"));
}

#[test]
fn special_tokens_come_from_either_file_in_any_form() {
    let source = "{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}{{ pad_token }}";
    let config =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null});
    let map = json!({"bos_token": "other", "pad_token": {"content": "<pad>"}});
    assert_eq!(of_files(Some(source), &config, &map).as_deref(), Some("<s></s>False<pad>"));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let error = |template: Option<&[u8]>, config: &str| {
        ChatTemplate::from_files(template, Some(config.as_bytes()), None).expect_err("refused").to_string()
    };
    assert!(error(None, "{").starts_with("tokenizer_config.json: "));
    assert!(error(None, r#"{"chat_template": 7}"#).starts_with("tokenizer_config.json: "));
    assert!(
        error(Some(b"\xff"), "{}")
            .starts_with("chat_template.jinja, chat template: the template is not UTF-8")
    );
    let long = "x".repeat((64 << 10) + 1);
    assert_eq!(
        error(Some(long.as_bytes()), "{}"),
        "chat_template.jinja, chat template: the template has 65537 bytes, allowed are 65536"
    );
    let config = json!({"chat_template": long}).to_string();
    assert!(error(None, &config).starts_with("tokenizer_config.json, chat template: the template has 65537"));
    let broken = template("\n{{ oops").render(&[], false).expect_err("wrong syntax");
    assert!(matches!(broken, RuntimeError::ChatTemplate { file: "chat_template.jinja", .. }));
    assert!(broken.to_string().contains("line 2: "), "{broken}");
}

// ---------------------------------------------------------------------------------------------
// Hostile templates: an error, soon, and no memory to speak of.

#[test]
fn a_template_cannot_run_long() {
    let out_of_instructions = "more than 2000000 instructions";
    refused("{% for i in range(1000000000) %}{% endfor %}", "too many elements");
    refused(
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        out_of_instructions,
    );
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit");
    refused("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion limit");
    refused("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "a recursive loop is not supported");
    refused("{{ range(-2147483648, 2147483647, 1) }}", "too many elements");
    refused("{{ range(9223372036854775807) }}", "");
    refused("{{ 9 ** 9 ** 9 ** 9 }}", "");
}

#[test]
fn a_template_cannot_fill_memory_with_text() {
    let out_of_budget = "more than 67108864 bytes";
    refused("{{ 'x' * 1000000000 }}", "`*` is supported between names and numbers only");
    refused("{{ ('x') * 1000000000 ~ 1000000000 * ('x') }}", "`*` is supported");
    refused("{{ ['x'] * 1000000000 }}", "`*` is supported");
    refused("{% set x = 'x' %}{{ x * 1000000000 }}", out_of_budget);
    refused("{% set x = 'x' %}{{ x * 9223372036854775807 }}", out_of_budget);
    refused("{% set x = ['x'] %}{{ x * 1000000000 }}", "`*` between sequence and number is not supported");
    for grow in ["ns.x ~ ns.x", "ns.x + ns.x", "ns.x.replace('x', 'xx')", "ns.x | replace('x', 'xx')"] {
        refused(
            &format!(
                "{{% set ns = namespace(x='x') %}}{{% for i in range(60) %}}{{% set ns.x = {grow} %}}{{% endfor %}}"
            ),
            out_of_budget,
        );
    }
    let doubled = "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60);
    refused(&format!("{{% set x = 'x' %}}{doubled}"), out_of_budget);
    refused(&format!("{{% for i in range(100000) %}}{}{{% endfor %}}", "raw ".repeat(15_000)), out_of_budget);
    refused(
        &format!(
            "{{% set x %}}{{% for i in range(100000) %}}{}{{% endfor %}}{{% endset %}}",
            "raw ".repeat(15_000)
        ),
        out_of_budget,
    );
    refused("{% set x = 'x' %}{{ (x * 1000000).join(range(100000)) }}", out_of_budget);
    refused("{% set x = 'x' %}{{ range(100000) | join(x * 1000000) }}", out_of_budget);
    refused("{% set x = 'x' %}{{ (x * 10000000).replace('', x * 10000) }}", out_of_budget);
    refused("{% set x = 'x' %}{{ (x * 10000000).split('x') }}", out_of_budget);
    refused("{% set x = 'x' %}{{ (x * 10000000) | list }}", out_of_budget);
    refused("{% set x = 'x' %}{% for c in x * 10000000 %}{% endfor %}", out_of_budget);
    refused("{% set x = [1, [2]] %}{{ x | tojson(indent=1000000000) }}", out_of_budget);
    refused("{{ '{:>1000000000}'.format('x') }}", "the method `format` is not supported");
    refused("{{ '%1000000000d' | format(1) }}", "filter format is unknown");
    refused("{{ [1] | batch(1000000000, 'x') }}", "filter batch is unknown");
    refused("{{ range(100000) | map('replace', '', 'x') }}", "`map` may apply");
    refused("{% set x = 'x' %}{{ x * 5000000 }}", "it gives 5000000 bytes of text, allowed are 4194304");
}

#[test]
fn a_template_cannot_fill_memory_with_lists() {
    let out_of_budget = "more than 67108864 bytes";
    for grow in
        ["ns.x + ns.x", "[ns.x, ns.x]", "{'a': ns.x, 'b': ns.x}", "(ns.x, ns.x)", "dict(a=ns.x, b=ns.x)"]
    {
        refused(
            &format!(
                "{{% set ns = namespace(x=[1]) %}}{{% for i in range(60) %}}{{% set ns.x = {grow} %}}{{% endfor %}}"
            ),
            if grow == "dict(a=ns.x, b=ns.x)" { "" } else { out_of_budget },
        );
    }
    for looked_up in ["{{ {}[x] }}", "{{ {}.get(x) }}", "{{ x in {} }}"] {
        refused(
            &format!(
                "{{% set x = range(50000) | list %}}{{% for i in range(100000) %}}{looked_up}{{% endfor %}}"
            ),
            out_of_budget,
        );
    }
    refused("{% set x = 'x' %}{% set x = x * 4000000 %}{% set a, b = x %}", out_of_budget);
    let nest = "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    refused(nest, "nested more than 32 deep");
    let inside = "a namespace or `loop` inside another value is not supported";
    refused("{% set a = namespace() %}{% set a.a = a %}{{ a }}", inside);
    refused("{% set a = namespace() %}{% set b = namespace(a=a) %}{{ b }}", inside);
    refused("{% set a = namespace() %}{% set b = [a] %}{{ b }}", inside);
    refused("{% set a = namespace() %}{% for i in [1] %}{% set a.a = loop %}{% endfor %}", inside);
    refused("{% for i in [1] %}{{ loop.changed(1) }}{% endfor %}", "`changed` is not supported");
    refused(
        "{% set ns = namespace(x=range(100000) | list) %}{% for i in range(100000) %}{{ ns.x == ns.x }}{% endfor %}",
        out_of_budget,
    );
    refused(
        "{% set x = range(100000) | list %}{% for i in range(100000) %}{{ x[i:] | length }}{% endfor %}",
        out_of_budget,
    );
}

#[test]
fn a_template_cannot_overflow_the_stack() {
    let long = |before: &str, middle: &str, after: &str| {
        let count = ((64 << 10) - before.len() - after.len()) / middle.len();
        format!("{before}{}{after}", middle.repeat(count))
    };
    for source in [
        long("{{ x", " ~ x", " }}"),
        long("{{ x", "|e", " }}"),
        long("{{ x", ".x", " }}"),
        long("{{ ", "not ", "x }}"),
        long("{{ ", "-", "1 }}"),
        long("{{ ", "(", " }}"),
        long("{{ ", "[", " }}"),
        long("{{ 1", " if 1 else 1", " }}"),
        long("", "{% if 1 %}", ""),
        long("", "{% for i in [1] %}", ""),
        long("{% if 0 %}", "{% elif 0 %}", "{% endif %}"),
        long("{{ 1", "**1", " }}"),
        long("{{ x", "[0]", " }}"),
        long("{{ x", "()", " }}"),
        format!("{{{{ 1{} }}}}", " ~ 1".repeat(2000)),
        format!("{{{{ x{} }}}}", " ~ x".repeat(2000)),
        format!("{{{{ [1]{} }}}}", " + [1]".repeat(1000)),
    ] {
        // Some of these are right and some are not; none may end the program.
        let _ = render(&source);
    }
    refused(&long("{{ x", " ~ x", " }}"), "a tag has more than 4096 tokens");
    refused(&format!("{{{{ {} }}}}", "(".repeat(1000)), "recursion");
}

#[test]
fn a_template_reaches_nothing_but_the_conversation() {
    for (source, why) in [
        ("{% include 'x' %}", "not supported"),
        ("{% import 'x' as x %}", "not supported"),
        ("{% from 'x' import x %}", "not supported"),
        ("{% extends 'x' %}", "not supported"),
        ("{% block x %}{% endblock %}", "not supported"),
        ("{% autoescape true %}{% endautoescape %}", "not supported"),
        ("{% generation %}x{% endgeneration %}", "unknown statement generation"),
        ("{{ debug() }}", "debug is unknown"),
        ("{{ super() }}", ""),
        ("{{ ''.__class__.__mro__ }}", "undefined"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "undefined"),
        ("{{ messages.append(1) }}", "no method named append"),
        ("{{ messages | attr('x') }}", "filter attr is unknown"),
        ("{{ dict(**messages[0]) }}", "`**`"),
        ("{{ open('x') }}", "open is unknown"),
    ] {
        refused(source, why);
    }
    assert_eq!(render("{{ strftime_now is defined }}").expect("rendered"), "False");
}
