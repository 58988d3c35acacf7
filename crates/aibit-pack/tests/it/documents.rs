//! `docs/format.md` is the contract: it must list exactly the schemes and ops that the code has.

use std::collections::BTreeSet;

use aibit_families::Family;
use aibit_format::Scheme;

const FORMAT: &str = include_str!("../../../../docs/format.md");

/// First cells, in backquotes, of the table rows below a heading.
fn listed(heading: &str) -> BTreeSet<String> {
    let section = FORMAT.split(heading).nth(1).unwrap_or_else(|| panic!("docs/format.md has no {heading}"));
    let section = section.split("\n#").next().expect("text below the heading");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}

#[test]
fn the_format_document_lists_the_schemes() {
    let schemes = Scheme::ALL.map(|scheme| scheme.name().to_owned());
    let listed = listed("### 5.3 Schemes");
    assert!(schemes.iter().all(|scheme| listed.contains(scheme)), "{listed:?}");
    let unknown: Vec<_> = listed.iter().filter(|name| name.parse::<Scheme>().is_err()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_format_document_lists_the_ops() {
    // Together these families use every op of this version; an op that none of them uses must be added here.
    let gpt2 = Family::Gpt2.describe(br#"{"model_type": "gpt2"}"#).expect("config");
    let qwen3 = Family::Llama.describe(
        br#"{"model_type": "qwen3", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 8,
            "hidden_act": "silu", "rms_norm_eps": 1e-6}"#,
    );
    let nodes = [gpt2.graph.nodes, qwen3.expect("config").graph.nodes].concat();
    let ops: BTreeSet<_> = nodes.iter().map(|op| op.name().to_owned()).collect();
    assert_eq!(listed("### 6.1 Ops"), ops);
}
