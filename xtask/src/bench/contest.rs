//! What is compared: for each model its engines, their model files, the prompt and the page of results.

use std::path::Path;

use super::install;
use super::llama::BuiltFor;
use crate::shape::Shape;

/// A comparison of engines on one model.
pub(super) struct Contest {
    /// Its name on the command line.
    pub(super) model: &'static str,
    pub(super) built_for: BuiltFor,
    pub(super) scope: Scope,
    /// The shape whose size converts a speed to a share of the read bandwidth.
    pub(super) shape: Option<Shape>,
    /// Rows of the tables, in their order.
    pub(super) engines: &'static [Engine],
    /// A prompt after which one token is clearly the most likely, so that engines that round differently agree on it.
    pub(super) prompt: &'static str,
    pub(super) prompt_tokens: usize,
    /// Folder of the engines' models in `target/peers`, and the file of the last results.
    pub(super) models: &'static str,
    pub(super) results: &'static str,
    /// Creates every engine's model in that folder.
    pub(super) make: fn(&install::Makers<'_>, &Path) -> anyhow::Result<()>,
    pub(super) page: Page,
}

/// The parts of a page that depend on the model.
pub(super) struct Page {
    /// Below `docs`: the page without its extension, and the folder of its plots.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) command: &'static str,
    pub(super) model: &'static str,
    pub(super) engines: &'static str,
    /// Heading and text of the section on aibit's variants.
    pub(super) variants: Option<(&'static str, &'static str)>,
    pub(super) targets: Targets,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Speeds, starts, memory, long contexts and a busy neighbour.
    All,
    /// Speeds only.
    Speeds,
}

/// Which targets a page compares its figures with.
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

/// How an engine is run, and the path of its model in the contest's folder.
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
        about: "aibit compared with other CPU engines that run GPT-2, on the same weights, machine and prompt.",
        command: "cargo xtask bench --peers",
        model: "GPT-2's 124M shape with seeded weights, from `cargo xtask shape`: speed does not depend on the values, and \
                no download is needed. Every engine's model is created from the same F16 weights by the scripts in \
                `benches/peers`.",
        engines: "llama.cpp is built for this processor and called from a small C program on its library \
                  (`benches/peers/llama.c`); the others are called from Python as in their documentation, which \
                  costs little at these lengths but is included in their start times. ONNX Runtime's model has one scale \
                  per output channel, an f32 embedding and an int8 head; OpenVINO's has the form that its exporter \
                  produces for a decoder, compressed by NNCF. OpenVINO computes in bfloat16 where the processor can.",
        variants: Some((
            "Profiles and outliers",
            "Profile `precise` uses two bytes per activation. In the package with outliers, 6 of the 768 channels after every \
             layer norm are 25 times as large as the others, as in trained models.",
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
        about: "aibit compared with llama.cpp and ik_llama.cpp on a current small model, on the same weights, machine and prompt.",
        command: "cargo xtask bench --peers --model smollm2",
        model: "SmolLM2-135M-Instruct (30 layers of width 576, 9 heads on 3 of keys and values, a vocabulary of 49,152), \
                as downloaded by `cargo xtask fixtures --model smollm2`: a GGUF file in Q4_1. aibit packs its values as \
                int8; the Q8_0 file is that package exported by `aibit export --to gguf`: the same codes. The Q4_1 file \
                is the unmodified original.",
        engines: LLAMA_AND_FORK,
        variants: None,
        targets: Targets::Smollm2,
    },
};

const LLAMA_AND_FORK: &str = "llama.cpp and its fork ik_llama.cpp are built here and called from a small C program on \
                              their libraries (`benches/peers/llama.c`). ik_llama.cpp repacks the weights when it loads \
                              them (`-rtr 1` in its own tools) and uses flash attention, its default.";

/// The same with the instruction set that most processors have.
const SMOLLM2_AVX2: Contest = Contest {
    built_for: BuiltFor::Avx2,
    scope: Scope::Speeds,
    results: "results-avx2.json",
    page: Page {
        name: "performance-avx2",
        title: "Performance with AVX2 only: SmolLM2-135M-Instruct",
        about: "aibit with `AIBIT_ISA=avx2` compared with llama.cpp and ik_llama.cpp built for AVX2, FMA and F16C only, on \
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
        about: "aibit compared with llama.cpp and ik_llama.cpp on the shape of Llama 3.2 1B, on the same weights, machine \
                and prompt.",
        command: "cargo xtask bench --peers --model llama-1b",
        model: "Llama 3.2 1B's shape with a vocabulary of 49,152 and seeded weights, from `cargo xtask shape llama-1b`. \
                The Q8_0 file is aibit's package exported by `aibit export --to gguf`: the same codes.",
        engines: LLAMA_AND_FORK,
        variants: Some((
            "Gains of the norms",
            "The gain of every norm is 0.05 or 8 instead of 1, and the weights of the following layers are divided by it: \
             the same function with activations of another magnitude.",
        )),
        targets: Targets::Llama1b,
    },
};

impl Contest {
    /// The contest of a model, with engines built for one kind of processor.
    pub(super) fn of(model: &str, built_for: BuiltFor) -> Option<&'static Self> {
        const ALL: &[Contest] = &CONTESTS;
        ALL.iter().find(|contest| contest.model == model && contest.built_for == built_for)
    }
}

impl Engine {
    /// Whether it is aibit in another mode, compared only with aibit.
    pub(super) fn is_variant(id: &str) -> bool {
        id.starts_with("aibit-")
    }

    /// Whether every property of it is compared, not only speed.
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
