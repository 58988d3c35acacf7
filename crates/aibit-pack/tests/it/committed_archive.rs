//! The package in `fixtures/golden/tiny-llama`, which `aibit-runtime` runs without knowing its family.

use std::fs;

use aibit_format::{Archive, entry_names};
use aibit_pack::Preset;

use crate::support::{fixture, gathered, packed};

/// Makes it anew, from the repository's root, in one line. It is to be run when what is packed has changed on purpose:
/// another graph, other golden outputs, another version of the arithmetic.
const COMMAND: &str = "d=$(mktemp -d) && cp fixtures/golden/tiny-llama/qwen3/* fixtures/golden/tiny-gpt2/tokenizer/* $d && \
                       cargo run -p aibit-cli -- pack $d -q int8 -o fixtures/golden/tiny-llama/qwen3.aibit";

#[test]
fn it_is_what_packing_gives() {
    let folder = gathered(&["tiny-llama/qwen3", "tiny-gpt2/tokenizer"]);
    let (_out, now) = packed(folder.path(), Preset::Int8);
    let committed = Archive::open(fixture("golden/tiny-llama/qwen3.aibit")).expect("the committed package");
    for entry in [entry_names::WEIGHTS, entry_names::GRAPH] {
        let [now, committed] = [&now, &committed].map(|archive| archive.entry(entry).expect("an entry").data);
        assert!(
            now == committed,
            "{entry} has {} bytes now, {} in the committed package, and differs; if that is meant, make it anew:\n\
             {COMMAND}",
            now.len(),
            committed.len()
        );
    }
    // Where golden outputs change but the graph does not, the arithmetic has: `NUMERICS` of aibit-runtime counts that.
    let [now, committed] =
        [&now, &committed].map(|archive| archive.entry(entry_names::GOLDEN).expect("golden").data);
    assert!(
        now == committed,
        "the golden outputs have changed; if that is meant, make the package anew:\n{COMMAND}"
    );
}

#[test]
fn the_readme_says_how_it_is_made() {
    let readme = fs::read_to_string(fixture("golden/README.md")).expect("README");
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(plain(&readme).contains(&plain(COMMAND)), "{COMMAND}");
}
