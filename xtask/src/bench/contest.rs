//! What is compared: for each model its engines, their models and the prompt, and the page that tells of it.

use std::path::Path;

use super::install;
use super::llama::BuiltFor;
use crate::shape::Shape;

/// A model's contest.
pub(super) struct Contest {
    /// Its name on the command line.
    pub(super) model: &'static str,
    pub(super) built_for: BuiltFor,
    pub(super) scope: Scope,
    /// The shape whose sizes tell what share of the machine's bandwidth a speed is.
    pub(super) shape: Option<Shape>,
    /// Rows of the tables, in their order.
    pub(super) engines: &'static [Engine],
    /// A few tokens after which the weights clearly prefer one: engines that round differently still agree on it.
    pub(super) prompt: &'static str,
    pub(super) prompt_tokens: usize,
    /// Folder below `target/peers` of the engines' models, and the file of the last results.
    pub(super) models: &'static str,
    pub(super) results: &'static str,
    /// Brings every engine's model there.
    pub(super) make: fn(&install::Makers<'_>, &Path) -> anyhow::Result<()>,
    pub(super) page: Page,
}

/// What a page says of its model alone; the rest is one text for all.
pub(super) struct Page {
    /// Below `docs`: the page without its extension, and the folder of its plots.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) command: &'static str,
    pub(super) model: &'static str,
    pub(super) engines: &'static str,
    /// What aibit's other rows are: heading and text of their section.
    pub(super) variants: Option<(&'static str, &'static str)>,
    pub(super) targets: Targets,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Speeds, starts, memory, long contexts and a busy neighbour.
    All,
    /// Speeds alone.
    Speeds,
}

/// Which promises a page holds its figures against.
#[derive(Clone, Copy)]
pub(super) enum Targets {
    Gpt2,
    Smollm2,
    Avx2,
    Llama1b,
}

/// A row of the tables.
pub(super) struct Engine {
    pub(super) id: &'static str,
    pub(super) label: &'static str,
    pub(super) kind: Kind,
}

/// How an engine is run, and where its model lies in the contest's folder.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Aibit { profile: &'static str, model: &'static str },
    Llama { model: &'static str },
    IkLlama { model: &'static str },
    Python { script: &'static str, model: &'static str, options: &'static [&'static str] },
}

const fn aibit(profile: &'static str, model: &'static str) -> Kind {
    Kind::Aibit { profile, model }
}

pub(super) const CONTESTS: [Contest; 4] = [GPT2, SMOLLM2, SMOLLM2_AVX2, LLAMA_1B];

const AIBIT: Engine = Engine { id: "aibit", label: "aibit int8", kind: aibit("fast", "int8.aibit") };
const LLAMA_Q8_0: Engine =
    Engine { id: "llama-q8_0", label: "llama.cpp Q8_0", kind: Kind::Llama { model: "q8_0.gguf" } };
const IK_LLAMA_Q8_0: Engine = Engine {
    id: "ik_llama-q8_0",
    label: "ik_llama.cpp Q8_0, repacked",
    kind: Kind::IkLlama { model: "q8_0.gguf" },
};

const GPT2: Contest = Contest {
    model: "gpt2",
    built_for: BuiltFor::Native,
    scope: Scope::All,
    shape: Some(Shape::Gpt2),
    engines: &[
        AIBIT,
        Engine {
            id: "aibit-precise",
            label: "aibit int8, profile precise",
            kind: aibit("precise", "int8.aibit"),
        },
        Engine {
            id: "aibit-outliers",
            label: "aibit int8, six outlier channels",
            kind: aibit("fast", "int8-outliers.aibit"),
        },
        LLAMA_Q8_0,
        Engine {
            id: "llama-q4_0",
            label: "llama.cpp Q4_0 (4-bit)",
            kind: Kind::Llama { model: "q4_0.gguf" },
        },
        Engine {
            id: "onnxruntime",
            label: "ONNX Runtime dynamic int8",
            kind: Kind::Python { script: "onnxruntime_engine.py", model: "int8.onnx", options: &[] },
        },
        Engine {
            id: "openvino",
            label: "OpenVINO GenAI int8, paged attention",
            kind: Kind::Python {
                script: "openvino_engine.py",
                model: "openvino",
                options: &["--backend", "PA"],
            },
        },
        Engine {
            id: "openvino-sdpa",
            label: "OpenVINO GenAI int8, SDPA",
            kind: Kind::Python {
                script: "openvino_engine.py",
                model: "openvino",
                options: &["--backend", "SDPA"],
            },
        },
        Engine {
            id: "ctranslate2",
            label: "CTranslate2 int8",
            kind: Kind::Python { script: "ctranslate2_engine.py", model: "ctranslate2", options: &[] },
        },
    ],
    prompt: "Once upon a time there was the",
    prompt_tokens: 8,
    models: "models",
    results: "results.json",
    make: install::gpt2,
    page: Page {
        name: "performance",
        title: "Performance",
        about: "aibit against the engines that people run GPT-2 with today, all on the same weights, machine and prompt.",
        command: "cargo xtask bench --peers",
        model: "GPT-2's 124M shape with seeded weights, as `cargo xtask shape` makes it: speed does not depend on the \
                values, and no download is needed. Every engine's model is made of the same F16 weights by the scripts \
                in `benches/peers`.",
        engines: "llama.cpp is built for this processor and called from a small C program on its library \
                  (`benches/peers/llama.c`); the others are called from Python as their documentation shows, which \
                  costs little at these lengths but is part of their starts. ONNX Runtime's model has one scale per \
                  output channel and keeps the embedding in f32 beside the int8 head; OpenVINO's has the form that its \
                  exporter gives a decoder, compressed by NNCF. OpenVINO computes in bfloat16 where the processor can.",
        variants: Some((
            "Profiles and outliers",
            "Profile `precise` gives activations two bytes; 6 of the 768 channels behind every layer norm are 25 \
             times the others in the package with outliers, as trained models have them.",
        )),
        targets: Targets::Gpt2,
    },
};

const SMOLLM2: Contest = Contest {
    model: "smollm2",
    built_for: BuiltFor::Native,
    scope: Scope::All,
    shape: None,
    engines: &[
        AIBIT,
        LLAMA_Q8_0,
        Engine {
            id: "llama-q4_1",
            label: "llama.cpp Q4_1 (4-bit)",
            kind: Kind::Llama { model: "q4_1.gguf" },
        },
        IK_LLAMA_Q8_0,
    ],
    prompt: "The capital of France is the city of",
    prompt_tokens: 8,
    models: "models-smollm2",
    results: "results-smollm2.json",
    make: install::smollm2,
    page: Page {
        name: "performance-smollm2",
        title: "Performance: SmolLM2-135M-Instruct",
        about: "aibit against llama.cpp and ik_llama.cpp on a model of today's kind, on the same weights, machine and prompt.",
        command: "cargo xtask bench --peers --model smollm2",
        model: "SmolLM2-135M-Instruct (30 layers of width 576, 9 heads on 3 of keys and values, a vocabulary of 49,152), \
                as `cargo xtask fixtures --model smollm2` brings it: a GGUF file in Q4_1. aibit packs its values as \
                int8; the Q8_0 file is that package, exported by `aibit export --to gguf`: the same codes. The Q4_1 \
                file is the original, as it came.",
        engines: LLAMA_AND_FORK,
        variants: None,
        targets: Targets::Smollm2,
    },
};

const LLAMA_AND_FORK: &str = "llama.cpp and its fork ik_llama.cpp are built here and called from a small C program on \
                              their libraries (`benches/peers/llama.c`). ik_llama.cpp repacks the weights when it loads \
                              them (`-rtr 1` of its own tools) and has flash attention on, its default.";

/// Both with the instructions that most people's processors have.
const SMOLLM2_AVX2: Contest = Contest {
    built_for: BuiltFor::Avx2,
    scope: Scope::Speeds,
    results: "results-avx2.json",
    page: Page {
        name: "performance-avx2",
        title: "Performance with AVX2 alone: SmolLM2-135M-Instruct",
        about: "aibit with `AIBIT_ISA=avx2` against llama.cpp and ik_llama.cpp built for AVX2, FMA and F16C alone, on \
                the same weights, machine and prompt.",
        command: "cargo xtask bench --peers --isa avx2",
        targets: Targets::Avx2,
        ..SMOLLM2.page
    },
    ..SMOLLM2
};

const LLAMA_1B: Contest = Contest {
    model: "llama-1b",
    built_for: BuiltFor::Native,
    scope: Scope::Speeds,
    shape: Some(Shape::Llama1b),
    engines: &[
        AIBIT,
        Engine {
            id: "aibit-norms0.05",
            label: "aibit int8, gain 0.05",
            kind: aibit("fast", "int8-norms0.05.aibit"),
        },
        Engine { id: "aibit-norms8", label: "aibit int8, gain 8", kind: aibit("fast", "int8-norms8.aibit") },
        LLAMA_Q8_0,
        IK_LLAMA_Q8_0,
    ],
    prompt: "Once upon a time there was the",
    prompt_tokens: 8,
    models: "models-llama-1b",
    results: "results-llama-1b.json",
    make: install::llama_1b,
    page: Page {
        name: "performance-llama-1b",
        title: "Performance: a Llama of 1.07 billion parameters",
        about: "aibit against llama.cpp and ik_llama.cpp on the shape of Llama 3.2 1B, on the same weights, machine and \
                prompt.",
        command: "cargo xtask bench --peers --model llama-1b",
        model: "Llama 3.2 1B's shape with a vocabulary of 49,152 and seeded weights, as `cargo xtask shape llama-1b` makes \
                it. The Q8_0 file is aibit's package, exported by `aibit export --to gguf`: the same codes.",
        engines: LLAMA_AND_FORK,
        variants: Some((
            "Gains of the norms",
            "The gain of every norm is 0.05 or 8 instead of 1, the layers behind are divided by it: the same function \
             of activations of another size.",
        )),
        targets: Targets::Llama1b,
    },
};

impl Contest {
    /// The contest of a model among engines built for one kind of processor.
    pub(super) fn of(model: &str, built_for: BuiltFor) -> Option<&'static Self> {
        const ALL: &[Contest] = &CONTESTS;
        ALL.iter().find(|contest| contest.model == model && contest.built_for == built_for)
    }
}

impl Engine {
    /// aibit in another mode: measured against aibit alone.
    pub(super) fn is_variant(id: &str) -> bool {
        id.starts_with("aibit-")
    }

    /// Those whose every property is measured against each other.
    pub(super) fn is_rival(&self) -> bool {
        ["aibit", "llama-q8_0"].contains(&self.id)
    }

    /// Whether `name` is this engine or the family that it belongs to.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.id.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_names_its_members_alone() {
        let names = |model: &str, name: &str| {
            let engines = Contest::of(model, BuiltFor::Native).unwrap().engines;
            engines.iter().filter(|engine| engine.is_named(name)).map(|e| e.id).collect::<Vec<_>>()
        };
        assert_eq!(names("gpt2", "llama"), ["llama-q8_0", "llama-q4_0"]);
        assert_eq!(names("smollm2", "llama"), ["llama-q8_0", "llama-q4_1"]);
        assert_eq!(names("gpt2", "openvino-sdpa"), ["openvino-sdpa"]);
        assert!(names("gpt2", "open").is_empty());
    }
}
