//! `docs/format.md` is the contract: it must list exactly the schemes and ops that the code has.

use std::collections::BTreeSet;

use aibit_format::Scheme;
use aibit_gpt2::{Gpt2Config, describe};

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
    // GPT-2 uses every op of this version; an op that it does not use must be added here.
    let config = Gpt2Config::from_json(br#"{"model_type": "gpt2"}"#).expect("config");
    let ops: BTreeSet<_> = describe(&config).graph.nodes.iter().map(|op| op.name().to_owned()).collect();
    assert_eq!(listed("### 6.1 Ops"), ops);
}
