//! Chat templates: what transformers renders of them, what files say, and what a hostile one cannot do.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use aibit_chat::{ChatError, ChatFiles, ChatMessage, ChatTemplate, LocalTime};
use serde_json::{Value, json};

fn template(source: &str) -> ChatTemplate {
    let files = ChatFiles { template: Some(source.as_bytes()), ..ChatFiles::default() };
    ChatTemplate::from_files(&files).expect("short").expect("a template")
}

/// What `source` makes of one message.
fn render(source: &str) -> Result<String, String> {
    let rendered = template(source).render(&[ChatMessage::new("user", "hello")], true, LocalTime::EPOCH);
    rendered.map(|chat| chat.text).map_err(|e| e.to_string())
}

fn messages(conversation: &Value) -> Vec<ChatMessage> {
    let message = |message: &Value| {
        let field = |key: &str| message[key].as_str().expect("a string");
        ChatMessage::new(field("role"), field("content"))
    };
    conversation.as_array().expect("messages").iter().map(message).collect()
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
        let files = ChatFiles {
            template: Some(source.as_bytes()),
            tokenizer_config: Some(config.as_bytes()),
            ..ChatFiles::default()
        };
        let template = ChatTemplate::from_files(&files).expect("valid files").expect("a template");
        let messages = messages(&golden["conversations"][name("conversation")]);
        let add_generation_prompt = case["add_generation_prompt"].as_bool().expect("a boolean");
        let rendered = template.render(&messages, add_generation_prompt, LocalTime::EPOCH);
        let same =
            match (&rendered.as_ref().map(|chat| &chat.text), case["text"].as_str(), case["raises"].as_str())
            {
                (Ok(text), Some(expected), _) => *text == expected,
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
    for filter in ["int", "float"] {
        refused(&format!("{{{{ '\u{661}\u{662}' | {filter} }}}}"), "digits beyond ASCII"); // 12 in Python
    }
}

#[test]
fn every_idiom_is_rendered_as_transformers_renders_it() {
    const NOW: LocalTime =
        LocalTime { year: 2025, month: 7, day: 4, hour: 9, minute: 8, second: 7, microsecond: 0 };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/chat/idioms.json");
    let golden: Value = serde_json::from_slice(&fs::read(path).expect("a fixture")).expect("JSON");
    let config = golden["special_tokens"].to_string();
    let mut differences = String::new();
    let cases = golden["cases"].as_array().expect("cases");
    for case in cases {
        let source = golden["templates"][case[0].as_str().expect("a name")].as_str().expect("a template");
        let files = files(Some(source.as_bytes()), &config, "{}");
        let template = ChatTemplate::from_files(&files).expect("valid files").expect("a template");
        let messages = messages(&golden["conversations"][case[1].as_str().expect("a name")]);
        let rendered = template.render(&messages, case[2].as_bool().expect("a flag"), NOW);
        let same = match (&rendered.as_ref().map(|chat| &chat.text), case[3].as_str(), case[4].as_str()) {
            (Ok(text), Some(expected), _) => *text == expected,
            (Err(error), None, Some(raised)) => {
                error.to_string().ends_with(&format!("refuses the conversation: {raised}"))
            }
            (Err(_), None, None) => true,
            _ => false,
        };
        if !same {
            writeln!(differences, "{case:#}\n{rendered:#?}").expect("a string takes any text");
        }
    }
    assert!(golden["templates"].as_object().expect("templates").len() >= 60);
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn a_message_may_hold_what_looks_like_a_template() {
    let text = template("{{ messages[0].content }}")
        .render(&[ChatMessage::new("user", "{{ 1 + 1 }}{% raw %}\n")], false, LocalTime::EPOCH)
        .expect("rendered");
    assert_eq!(text.text, "{{ 1 + 1 }}{% raw %}\n");
}

// ---------------------------------------------------------------------------------------------
// Files.

fn files<'a>(template: Option<&'a [u8]>, config: &'a str, map: &'a str) -> ChatFiles<'a> {
    let (tokenizer_config, special_tokens_map) = (Some(config.as_bytes()), Some(map.as_bytes()));
    ChatFiles { template, tokenizer_config, special_tokens_map, processor_template: None }
}

/// What is rendered with these files.
fn of_files(template: Option<&str>, config: &Value, map: &Value) -> Option<String> {
    let (config, map) = (config.to_string(), map.to_string());
    ChatTemplate::from_files(&files(template.map(str::as_bytes), &config, &map))
        .expect("valid files")
        .map(|template| template.render(&[], false, LocalTime::EPOCH).expect("rendered").text)
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
fn named_templates_may_be_a_list_or_an_object_and_need_a_default() {
    let none = json!({});
    let object = json!({"chat_template": {"rag": "r", "default": "d"}});
    assert_eq!(of_files(None, &object, &none).as_deref(), Some("d"));
    let twice = json!({"chat_template": [{"name": "default", "template": "1"}, {"name": "default", "template": "2"}]});
    assert_eq!(of_files(None, &twice, &none).as_deref(), Some("2"));
    for several in [
        json!([{"name": "rag", "template": "r"}, {"name": "tools", "template": "t"}]),
        json!({"rag": "r", "tools": "t"}),
    ] {
        let config = json!({"chat_template": several}).to_string();
        let error =
            ChatTemplate::from_files(&files(None, &config, "{}")).expect_err("no default").to_string();
        assert!(
            error.starts_with(
                "tokenizer_config.json, chat template: there is no template named `default` among rag, tools"
            ),
            "{error}"
        );
    }
    assert_eq!(of_files(None, &json!({"chat_template": []}), &none), None);
    // Of a key that comes again the last counts.
    let config = r#"{"chat_template": "1", "eos_token": "a", "chat_template": "2{{ eos_token }}", "eos_token": {"content": "b"}}"#;
    let template = ChatTemplate::from_files(&files(None, config, "{}")).expect("valid").expect("a template");
    assert_eq!(template.render(&[], false, LocalTime::EPOCH).expect("rendered").text, "2b");
}

#[test]
fn processors_have_a_file_of_their_own_which_counts_last() {
    let of = |config: &str, processor: &str| {
        let files = ChatFiles {
            tokenizer_config: Some(config.as_bytes()),
            processor_template: Some(processor.as_bytes()),
            ..ChatFiles::default()
        };
        let template = ChatTemplate::from_files(&files).expect("valid files").expect("a template");
        template.render(&[], false, LocalTime::EPOCH).expect("rendered").text
    };
    assert_eq!(of("{}", r#"{"chat_template": "p"}"#), "p");
    assert_eq!(of(r#"{"chat_template": "t"}"#, r#"{"chat_template": "p"}"#), "t");
    assert_eq!(of("{}", r#"{"chat_template": [{"name": "default", "template": "q"}]}"#), "q");
}

#[test]
fn line_ends_are_the_same_wherever_the_template_is() {
    for end in ["\n", "\r\n", "\r"] {
        let source = ["a", "{% if true %}", "b", "{% endif %}", "c", ""].join(end);
        assert_eq!(render(&source).expect("rendered"), "a\nb\nc");
        assert_eq!(of_files(None, &json!({"chat_template": source}), &json!({})).as_deref(), Some("a\nb\nc"));
    }
}

#[test]
fn other_special_tokens_and_false_ones() {
    let source = "{{ sep_token }}{{ cls_token }}{{ image_token }}{{ bos_token is defined }}";
    let config = json!({
        "sep_token": "<sep>", "cls_token": {"content": "<cls>"}, "bos_token": false,
        "extra_special_tokens": {"image_token": "<image>"},
    });
    assert_eq!(of_files(Some(source), &config, &json!({})).as_deref(), Some("<sep><cls><image>False"));
}

#[test]
fn templates_that_no_conversation_gets_past_are_told_apart() {
    let check = |source: &str| template(source).check().map_err(|e| e.to_string());
    assert_eq!(check("{% if false %}{{ nosuch() }}{% endif %}{{ raise_exception('no') }}"), Ok(()));
    assert!(check("a\n{% for %}").expect_err("wrong syntax").contains("line 2: "));
    assert!(
        check("a\n\n{% if false %}{% include 'x' %}{% endif %}")
            .expect_err("unsupported")
            .contains("line 3: `block`")
    );
    assert!(template("{{ raise_exception('alternate') }}").failure().is_none());
    assert!(template("{{ messages[0].content }}").failure().is_none());
    let failure = template("{{ [1] | random }}").failure().expect("a failure").to_string();
    assert!(failure.ends_with("line 1: the filter `random` is not supported"), "{failure}");
}

// ---------------------------------------------------------------------------------------------
// What comes from messages.

/// The parts of what `source` makes of a message of the user that come from its content, by brackets.
fn typed(source: &str, content: &str) -> String {
    let chat = template(source).render(&[ChatMessage::new("user", content)], true, LocalTime::EPOCH);
    let chat = chat.expect("rendered");
    let mut marked = chat.text.clone();
    for part in chat.typed.iter().rev() {
        marked.insert(part.end, '}');
        marked.insert(part.start, '{');
    }
    marked
}

#[test]
fn text_of_messages_is_known_through_everything_that_a_template_does_with_it() {
    let content = "{% set c = messages[0].content %}";
    for (expression, expected) in [
        ("c", "{a<s>b}"),
        ("'<s>' ~ c ~ '</s>'", "<s>{a<s>b}</s>"),
        ("'<s>' + c", "<s>{a<s>b}"),
        ("c[1:] ~ c[0]", "{<s>ba}"),
        ("c | upper", "{A<S>B}"),
        ("c.split('<s>') | join('<s>')", "{a}<s>{b}"),
        ("c.replace('<s>', '')", "{ab}"),
        ("c.replace('b', '<s>')", "{a<s>}<s>"),
        ("(' <s> ' ~ c ~ ' ') | trim", "<s> {a<s>b}"),
        ("'%s|%5s' % (c, 1)", "{a<s>b}|    1"),
        ("'<s>{}'.format(c)", "<s>{a<s>b}"),
        ("messages[0] | tojson", "{\"role\": \"user\", \"content\": \"{a<s>b}\"}"),
        ("c | list | reverse | join", "{b>s<a}"),
        ("[c, c] | join('\n')", "{a<s>b}\n{a<s>b}"),
        ("messages | map(attribute='content') | first", "{a<s>b}"),
        ("c | e", "{a&lt;s&gt;b}"),
        ("(c ~ '\n' ~ c) | indent(1)", "{a<s>b}\n {a<s>b}"),
        ("c.partition('<s>')[1]", "{<s>}"),
        ("messages[0].role ~ c | length", "user5"),
        ("'<s>' if c == 'a<s>b' else c", "<s>"),
        ("'<s>' in c and c.startswith('a') and c.endswith(('x', 'b'))", "True"),
    ] {
        let source = format!("{content}{{{{ {expression} }}}}");
        assert_eq!(typed(&source, "a<s>b"), expected, "{expression}");
    }
    let block = "{% set x %}<s>{{ messages[0].content }}{% endset %}{% macro m(t) %}[{{ t }}]{% endmacro %}{{ m(x) }}";
    assert_eq!(typed(block, "a<s>b"), "[<s>{a<s>b}]");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let error = |template: Option<&[u8]>, config: &str| {
        ChatTemplate::from_files(&files(template, config, "{}")).expect_err("refused").to_string()
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
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    assert!(error(Some(pointer), "{}").contains("a pointer of Git LFS"));
    for wrong in [r#"{"bos_token": 7}"#, r#"{"eos_token": {"text": "x"}}"#, "[]"] {
        assert!(error(Some(b"x"), wrong).starts_with("tokenizer_config.json: "), "{wrong}");
    }
    for wrong in [
        r#"{"chat_template": [{"name": 1}]}"#,
        r#"{"chat_template": {"default": 1}}"#,
        r#"{"chat_template": true}"#,
    ] {
        assert!(error(None, wrong).starts_with("tokenizer_config.json: `chat_template` must be"), "{wrong}");
    }
    let broken = template("\n{{ oops").render(&[], false, LocalTime::EPOCH).expect_err("wrong syntax");
    assert!(matches!(broken, ChatError::Template { file: "chat_template.jinja", .. }));
    assert!(broken.to_string().contains("line 2: "), "{broken}");
}

// ---------------------------------------------------------------------------------------------
// Hostile templates: an error, soon, and no memory to speak of.

#[test]
fn a_template_cannot_run_long() {
    let out_of_instructions = "more than 2000000 instructions";
    refused("{% for i in range(1000000000) %}{% endfor %}", "too many elements");
    refused("{% for i in range(100001) %}{% endfor %}", "too many elements: 100001, allowed are 100000");
    refused(
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "more than 67108864 bytes",
    );
    refused(
        "{% for i in range(100000) %}{% for j in 'ab' %}{{ 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 }}{% endfor %}{% endfor %}",
        out_of_instructions,
    );
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit");
    refused("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion limit");
    refused("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion limit");
    refused(
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "recursion limit",
    );
    refused(
        "{% macro f() %}{% call f() %}{% endcall %}{{ caller }}{% endmacro %}{% call f() %}{% endcall %}",
        "recursion limit",
    );
    refused("{{ range(-2147483648, 2147483647, 1) }}", "too many elements");
    refused("{{ range(9223372036854775807) }}", "");
    refused("{{ 9 ** 9 ** 9 ** 9 }}", "");
}

#[test]
fn a_template_cannot_fill_memory_with_text() {
    let out_of_budget = "more than 67108864 bytes";
    refused("{{ 'x' * 1000000000 }}", out_of_budget);
    refused("{{ ('x') * 1000000000 ~ 1000000000 * ('x') }}", out_of_budget);
    refused("{{ ['x'] * 1000000000 }}", out_of_budget);
    refused("{{ (1, 2) * 10 ** 30 }}", out_of_budget);
    refused("{% set x = 'x' %}{{ x * 1000000000 }}", out_of_budget);
    refused("{% set x = 'x' %}{{ x * 9223372036854775807 }}", out_of_budget);
    refused("{% set x = ['x'] %}{{ x * 1000000000 }}", out_of_budget);
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
    refused("{% set x = 'x' %}{{ (x * 1000000).join(range(100000) | map('string')) }}", out_of_budget);
    refused("{% set x = 'x' %}{{ range(100000) | join(x * 1000000) }}", out_of_budget);
    refused("{% set x = 'x' %}{{ (x * 10000000).replace('', x * 10000) }}", out_of_budget);
    refused("{% set x = 'x' %}{{ (x * 10000000).split('x') }}", out_of_budget);
    refused("{% set x = 'x' %}{{ (x * 10000000) | list }}", out_of_budget);
    refused("{% set x = 'x' %}{% for c in x * 10000000 %}{% endfor %}", out_of_budget);
    refused("{% set x = [1, [2]] %}{{ x | tojson(indent=1000000000) }}", out_of_budget);
    let wide = "a width or precision of more than";
    refused("{{ '{:>1000000000}'.format('x') }}", wide);
    refused("{{ '{:>{}}'.format('x', 10 ** 12) }}", wide);
    refused("{{ '{:.999999999}'.format(1.5) }}", wide);
    refused("{{ '%1000000000d' | format(1) }}", wide);
    refused("{{ '%.1000000000f' % 1 }}", wide);
    refused(
        "{{ '%.4000000d%.4000000d' % (1, 1) ~ '%4000000s' * 9 % (1, 2, 3, 4, 5, 6, 7, 8, 9) }}",
        out_of_budget,
    );
    refused("{{ [1] | batch(1000000000, 'x') | list }}", out_of_budget);
    refused("{{ [1] | slice(1000000000) | list }}", out_of_budget);
    refused("{{ range(100000) | map('replace', '', 'x' * 10000) | list }}", out_of_budget);
    for widening in [
        "'x'.center(10 ** 9)",
        "'x'.ljust(10 ** 12)",
        "'x'.rjust(10 ** 30)",
        "'x'.zfill(10 ** 9)",
        "'x' | center(10 ** 9)",
        "'x' | indent(10 ** 9, true)",
        "('a\n' * 100000) | indent(10 ** 6)",
        "('\t' * 1000).expandtabs(10 ** 9)",
        "[1] | tojson(indent=10 ** 9)",
        "('a b ' * 1000000) | wordwrap(1)",
        "('<' * 10000000) | e",
        "('\\u00e9' * 8000000) | urlencode",
        "('x' * 9000000).split()",
        "('x y ' * 5000000) | wordcount",
        "('ab' * 4000000).count('b') ~ ('ab' * 4000000).count('b')",
        "([''] * 400000) | join('x' * 1000)",
        "range(100000) | map('string') | map('center', 1000) | join",
    ] {
        refused(&format!("{{{{ {widening} }}}}"), out_of_budget);
    }
    refused("{{ strftime_now('%1000d' * 1000) }}", "`strftime_now` gives up to");
    refused("{{ strftime_now('%999999999999999999999d') }}", "`strftime_now`: fields have up to");
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
            if grow == "ns.x + ns.x" { out_of_budget } else { "nested more than 32 deep" },
        );
    }
    for looked_up in ["{{ {x: 1}[x] }}", "{{ {x: 1}.get(x) }}", "{{ x in {x: 1} }}"] {
        refused(
            &format!("{{% set x = 'x' * 50000 %}}{{% for i in range(100000) %}}{looked_up}{{% endfor %}}"),
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
    refused("{% set a = namespace() %}{% set c = cycler(a) %}", inside);
    refused("{% set a = namespace() %}{% for i in [1] %}{{ loop.changed(a) }}{% endfor %}", inside);
    refused("{% set a = namespace() %}{% set a.j = joiner(a) %}", inside);
    refused("{% for i in [1] %}{% set c = cycler(loop.cycle) %}{% endfor %}", inside);
    refused(
        "{% for i in range(100000) %}{% macro f() %}{% endmacro %}{% macro g() %}{% endmacro %}{% macro h() %}{% endmacro %}{% endfor %}",
        out_of_budget,
    );
    refused(
        "{% set d = dict(range(3000) | batch(2) | list) %}{% for i in range(100000) %}{{ d[i] }}{% endfor %}",
        out_of_budget,
    );
    refused("{{ range(50000) | unique | list | length }}", out_of_budget);
    refused("{{ ((range(100000) | list) * 20) | sort }}", out_of_budget);
    refused("{% set x = [range(60000) | list] * 100 %}{{ x | sum(start=[]) | length }}", out_of_budget);
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
        ("{% do 1 %}", "expected call expression"),
        ("{% do range(1) %}", "not supported"),
        ("{{ debug() }}", "undefined value: `debug`"),
        ("{{ self }}", "`self` is not supported"),
        ("{{ lipsum() }}", "`lipsum` is not supported"),
        ("{{ [1, 2] | random }}", "the filter `random` is not supported"),
        ("{{ super() }}", ""),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' is unsafe"),
        (
            "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
            "access to attribute '__init__' is unsafe",
        ),
        ("{{ messages.append(1) }}", "'list' has no method `append` here: the sandbox forbids"),
        ("{{ messages[0].update({}) }}", "the sandbox forbids"),
        ("{{ (messages | attr('append'))(1) }}", "the sandbox forbids"),
        ("{{ messages | attr('__class__') | attr('__mro__') }}", "unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
        ("{{ '{x[__class__]}'.format(x=messages[0]) }}", "unsafe"),
        ("{{ open('x') }}", "undefined value: `open`"),
    ] {
        refused(source, why);
    }
    // It knows the time that it is given, and no other.
    assert_eq!(render("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}").expect("rendered"), "1970-01-01 00:00:00");
}
