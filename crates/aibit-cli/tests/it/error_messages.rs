//! Every error has a message that says what is wrong, where, and what to do; exit code 2; nothing on standard output.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::json;

use crate::models::{Tiny, safetensors_file};
use crate::support::{
    Outcome, refuses, run, run_with, shelf, small_int8, succeeds, temporary_folder, tiny_int8,
};
use crate::torch_file;

// ---------------------------------------------------------------------------------------------
// Archives.

/// The message for opening a file with these bytes as an archive.
#[track_caller]
fn inspect(bytes: &[u8]) -> String {
    let folder = temporary_folder();
    fs::write(folder.path().join("file.aibit"), bytes).expect("write");
    let message = refuses(folder.path(), &["inspect", "file.aibit"]);
    assert_eq!(refuses(folder.path(), &["run", "file.aibit", "-p", "x"]), message);
    message
}

fn tiny_bytes() -> Vec<u8> {
    fs::read(shelf().join(tiny_int8())).expect("an archive")
}

#[test]
fn no_such_archive() {
    let folder = temporary_folder();
    let message = refuses(folder.path(), &["inspect", "missing.aibit"]);
    assert_snapshot!(message, @"error: cannot open missing.aibit: No such file or directory (os error 2)");
    for command in [&["run", "missing.aibit", "-p", "x"] as &[&str], &["verify", "missing.aibit"]] {
        assert_eq!(refuses(folder.path(), command), message);
    }
}

#[test]
fn a_folder_as_archive() {
    let folder = temporary_folder();
    fs::create_dir(folder.path().join("folder")).expect("a folder");
    assert_snapshot!(refuses(folder.path(), &["inspect", "folder"]), @"error: folder is a folder, not a regular file");
}

#[test]
fn an_empty_file_as_archive() {
    assert_snapshot!(inspect(b""), @r"
    error: file.aibit is not an .aibit archive: the file is empty
    ");
}

#[test]
fn a_gguf_file_as_archive() {
    let folder = temporary_folder();
    fs::write(folder.path().join("file.aibit"), b"GGUF\x03\0\0\0\x10\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0")
        .expect("written");
    let of = |args: &[&str]| refuses(folder.path(), args);
    assert_snapshot!(of(&["run", "file.aibit", "-p", "x"]), @r"
    error: file.aibit is not an .aibit archive: it is a GGUF file; make one of it with `aibit pack`
    hint: pack it first: aibit pack file.aibit -o file-packed.aibit
    ");
    assert_snapshot!(of(&["inspect", "file.aibit"]), @"error: GGUF: 5 metadata entries at byte 24: 70 bytes or more, 0 are left: the file is truncated by 70 bytes, or a length in it is wrong");
}

#[test]
fn an_html_page_as_archive() {
    assert_snapshot!(inspect(b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"), @r"
    error: file.aibit is not an .aibit archive: it is an HTML page; the download probably returned an error page
    ");
}

#[test]
fn safetensors_as_archive() {
    assert_snapshot!(inspect(&safetensors_file(&Tiny::new().tensors())), @r"
    error: file.aibit is not an .aibit archive: it is a safetensors file; pack its model folder with `aibit pack`
    ");
}

#[test]
fn an_lfs_pointer_as_archive() {
    assert_snapshot!(inspect(LFS_POINTER), @r"
    error: file.aibit is not an .aibit archive: it is a Git LFS pointer; fetch the file itself with `git lfs pull`
    ");
}

const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n\
    oid sha256:24410ef38d0c03afcdd50c3dcd94a785fbfca3f41fd8b7517540afabd3729722\nsize 20374816\n";

#[test]
fn a_truncated_archive() {
    let bytes = tiny_bytes();
    assert_snapshot!(inspect(&bytes[..64 * 1024]), @r"
    error: container, end record at byte 65514: the last 22 bytes are not a ZIP end record: the file is truncated, or something follows the archive
    hint: the file is damaged or was changed after it was packed; copy it again or pack the model again
    ");
}

#[test]
fn a_flipped_byte_in_the_manifest() {
    let mut bytes = tiny_bytes();
    let place =
        bytes.windows(14).rposition(|w| w == b"\"architecture\"").expect("the manifest is stored as is");
    bytes[place + 1] ^= 1;
    let message = inspect(&bytes);
    let mut settings = insta::Settings::clone_current();
    settings.add_filter("[0-9a-f]{8}", "[CRC]");
    settings.bind(|| {
        assert_snapshot!(message, @r"
    error: entry `manifest.json`: CRC-32 is [CRC], expected [CRC]
    hint: the file is damaged or was changed after it was packed; copy it again or pack the model again
    ")
    });
}

// ---------------------------------------------------------------------------------------------
// Models.

/// The message for packing this model, which must leave no file.
#[track_caller]
fn pack(model: &Tiny, options: &[&str]) -> String {
    let args = [&["pack", "tiny", "-o", "out.aibit"], options].concat();
    let message = refuses(model.around(), &args);
    let left: Vec<_> =
        fs::read_dir(model.around()).expect("a folder").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left, ["tiny"], "{message}");
    message
}

#[test]
fn no_such_model() {
    let folder = temporary_folder();
    assert_snapshot!(refuses(folder.path(), &["pack", "./missing", "-o", "out.aibit"]), @r"
    error: ./missing is not a model: there is no such folder
    hint: a model folder holds config.json, tokenizer.json (or vocab.json and merges.txt) and model.safetensors; a model on the hub is named ORGANISATION/NAME
    ");
}

#[test]
fn a_file_as_model() {
    let model = Tiny::new();
    assert_snapshot!(refuses(model.around(), &["pack", "tiny/merges.txt", "-o", "out.aibit"]), @r"
    error: tiny/merges.txt is not a model: its format is unknown; folders, safetensors, torch and GGUF files can be packed
    hint: a model folder holds config.json, tokenizer.json (or vocab.json and merges.txt) and model.safetensors; a model on the hub is named ORGANISATION/NAME
    ");
}

#[test]
fn a_model_without_configuration() {
    assert_snapshot!(pack(&Tiny::new().remove("config.json"), &[]), @r"
    error: tiny is not a model: it holds no config.json
    hint: a model folder holds config.json, tokenizer.json (or vocab.json and merges.txt) and model.safetensors; a model on the hub is named ORGANISATION/NAME
    ");
}

#[test]
fn a_model_without_weights() {
    assert_snapshot!(pack(&Tiny::new().remove("model.safetensors"), &[]), @r"
    error: tiny is not a model: it holds no weights: model.safetensors, model.safetensors.index.json with its shards, pytorch_model.bin, or one file of either kind
    hint: a model folder holds config.json, tokenizer.json (or vocab.json and merges.txt) and model.safetensors; a model on the hub is named ORGANISATION/NAME
    ");
}

#[test]
fn a_model_without_tokenizer() {
    assert_snapshot!(pack(&Tiny::new().remove("tokenizer.json").remove("merges.txt"), &[]), @r"
    error: tiny is not a model: it holds no tokenizer: tokenizer.json, or vocab.json with merges.txt, or SentencePiece's tokenizer.model
    hint: a model folder holds config.json, tokenizer.json (or vocab.json and merges.txt) and model.safetensors; a model on the hub is named ORGANISATION/NAME
    ");
}

#[test]
fn an_lfs_pointer_as_weights() {
    assert_snapshot!(pack(&Tiny::new().write("model.safetensors", LFS_POINTER), &[]), @"error: tiny/model.safetensors: a Git LFS pointer and not the file itself; fetch it with `git lfs pull`");
}

#[test]
fn a_configuration_that_is_not_json() {
    assert_snapshot!(pack(&Tiny::new().write("config.json", b"{\"model_type\": gpt2}"), &[]), @"error: tiny/config.json: not JSON: expected value at line 1 column 16");
}

#[test]
fn a_tokenizer_that_is_not_one() {
    assert_snapshot!(pack(&Tiny::new().write("tokenizer.json", b"{\"version\": \"1.0\"}"), &[]), @"error: tiny/tokenizer.json: missing field `model` at line 1 column 18");
}

#[test]
fn another_architecture() {
    assert_snapshot!(pack(&Tiny::new().with_config("model_type", json!("bert")), &[]), @r#"error: the model is of the family "bert", which is not supported yet; supported are gpt2, llama, mistral, qwen2, qwen3"#);
}

#[test]
fn an_unsupported_activation() {
    assert_snapshot!(pack(&Tiny::new().with_config("activation_function", json!("mish")), &[]), @r#"error: config.json: activation_function = "mish" is not supported for GPT-2 (gelu_new, gelu_pytorch_tanh, gelu_fast, gelu, relu, silu, swish, tanh, quick_gelu and sigmoid are)"#);
}

#[test]
fn cross_attention() {
    assert_snapshot!(pack(&Tiny::new().with_config("add_cross_attention", json!(true)), &[]), @"error: config.json: add_cross_attention = true is not supported for GPT-2 (a decoder without cross-attention is)");
}

#[test]
fn heads_that_do_not_divide_the_width() {
    assert_snapshot!(pack(&Tiny::new().with_config("n_head", json!(5)), &[]), @"error: config.json: n_embd is 64, allowed is a multiple of n_head = 5");
}

#[test]
fn a_quantized_checkpoint() {
    let settings = json!({"quant_method": "gptq", "bits": 4});
    assert_snapshot!(pack(&Tiny::new().with_config("quantization_config", settings), &[]), @r#"error: config.json: quantization_config is set ("gptq"); a checkpoint quantized by this method cannot be imported; pack the original model"#);
}

#[test]
fn code_of_the_models_own() {
    let code = json!({"AutoModelForCausalLM": "modeling_own.OwnModel"});
    assert_snapshot!(pack(&Tiny::new().with_config("auto_map", code), &[]), @r#"error: config.json: auto_map is set ({"AutoModelForCausalLM":"modeling_own.OwnModel"}); the model requires custom code, which is never run; only built-in families can be packed"#);
}

#[test]
fn a_missing_tensor() {
    let model = Tiny::new().edit_tensors(|tensors| {
        tensors.remove("transformer.h.1.mlp.c_fc.weight").expect("a tensor");
    });
    assert_snapshot!(pack(&model, &[]), @"error: the checkpoint lacks 1 of the model's tensors, among them `transformer.h.1.mlp.c_fc.weight`");
}

#[test]
fn a_tensor_too_many() {
    let model = Tiny::new().edit_tensors(|tensors| {
        let extra = tensors["transformer.h.1.ln_1.bias"].clone();
        tensors.insert("transformer.h.2.ln_1.bias".into(), extra);
    });
    assert_snapshot!(pack(&model, &[]), @"error: tensor `transformer.h.2.ln_1.bias`: config.json describes no such tensor; the checkpoint is of another model");
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    let model = Tiny::new().edit_tensors(|tensors| {
        let tensor = tensors.get_mut("transformer.h.0.attn.c_attn.weight").expect("a tensor");
        tensor.shape.reverse();
    });
    assert_snapshot!(pack(&model, &[]), @"error: tensor `transformer.h.0.attn.c_attn.weight`: has shape [192, 64], config.json requires [64, 192]");
}

#[test]
fn integer_weights() {
    let model = Tiny::new().edit_tensors(|tensors| {
        let tensor = tensors.get_mut("transformer.h.0.mlp.c_fc.weight").expect("a tensor");
        tensor.dtype = safetensors::tensor::Dtype::I32;
    });
    assert_snapshot!(pack(&model, &[]), @"error: tensor `transformer.h.0.mlp.c_fc.weight`: has element type I32; F32, F16 and BF16 can be packed");
}

/// The tiny model with one element of one tensor changed.
fn with_value(name: &str, index: usize, value: f32) -> Tiny {
    Tiny::new().edit_tensors(|tensors| {
        let tensor = tensors.get_mut(name).expect("a tensor");
        tensor.data[4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    })
}

#[test]
fn a_weight_that_is_not_a_number() {
    // Element [2, 5] of a matrix stored as [in, out] = [64, 256].
    let model = with_value("transformer.h.1.mlp.c_fc.weight", 2 * 256 + 5, f32::NAN);
    assert_snapshot!(pack(&model, &[]), @"error: tensor `transformer.h.1.mlp.c_fc.weight`: row 5, column 2 holds NaN; check the source checkpoint");
    assert_snapshot!(pack(&model, &["-q", "f32"]), @"error: tensor `transformer.h.1.mlp.c_fc.weight`: row 5, column 2 holds NaN; check the source checkpoint");
}

#[test]
fn an_infinite_bias() {
    let model = with_value("transformer.h.1.mlp.c_fc.bias", 7, f32::INFINITY);
    assert_snapshot!(pack(&model, &[]), @"error: tensor `transformer.h.1.mlp.c_fc.bias`: element 7 holds inf; check the source checkpoint");
}

#[test]
fn a_weight_beyond_f16() {
    let model = with_value("transformer.wpe.weight", 70, 70_000.0);
    assert_snapshot!(pack(&model, &[]), @"error: tensor `transformer.wpe.weight`: row 1, column 6 holds 70000, which f16 rounds to infinity; keep this tensor in f32");
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary() {
    let model = Tiny::new().with_config("vocab_size", json!(500)).edit_tensors(|tensors| {
        let table = tensors.get_mut("transformer.wte.weight").expect("a tensor");
        table.shape[0] = 500;
        table.data.truncate(500 * 64 * 4);
    });
    // Ids with a row in the embedding work; a text that contains another is refused when it occurs.
    let packed = run(model.around(), &["pack", "tiny", "-o", "out.aibit"]);
    assert_eq!(packed.code, Some(0));
    assert_snapshot!(packed.stderr, @r#"note: the embedding has 500 rows and none for ");" (500), "+=" (501), ".." (502), "//" (503), "04" (504) and 7 more: texts with such a token are refused"#);
    let refused = refuses(model.around(), &["run", "out.aibit", "-p", "f(x);", "-n", "1"]);
    assert!(refused.contains("500"), "{refused}");
}

#[test]
fn shards_outside_the_folder() {
    let index = json!({"metadata": {}, "weight_map": {"transformer.wte.weight": "../../model.safetensors"}});
    let model = Tiny::new()
        .remove("model.safetensors")
        .write("model.safetensors.index.json", index.to_string().as_bytes());
    assert_snapshot!(pack(&model, &[]), @"error: tiny/model.safetensors.index.json: the shard `../../model.safetensors` is not a plain file name");
}

#[test]
fn a_missing_shard() {
    let index = json!({"weight_map": {"transformer.wte.weight": "model-00001-of-00001.safetensors"}});
    let model = Tiny::new()
        .remove("model.safetensors")
        .write("model.safetensors.index.json", index.to_string().as_bytes());
    assert_snapshot!(pack(&model, &[]), @"error: tiny/model.safetensors.index.json: it names the shard `model-00001-of-00001.safetensors`, which is not in the folder");
}

#[test]
fn a_pickle_that_runs_code() {
    let model =
        Tiny::new().remove("model.safetensors").write("pytorch_model.bin", &torch_file::running_a_command());
    assert_snapshot!(pack(&model, &[]), @"error: tiny/pytorch_model.bin: `data.pkl` byte 2: global `os.system` is not allowed and nothing was loaded; it may be an attack, so use a safetensors file of this model, or save `model.state_dict()` from a source you trust");
    assert!(!model.path().join("owned.txt").exists());
}

// ---------------------------------------------------------------------------------------------
// Options of `pack`.

#[test]
fn precisions_that_cannot_be() {
    let model = Tiny::new();
    let with = |option: &str, value: &str| pack(&model, &[option, value]).lines().next().map(str::to_owned);
    let first_line = |option, value| with(option, value).expect("a message");
    assert_snapshot!(first_line("--activations", "norm"), @"error: invalid value 'norm' for '--activations <PLACE=PRECISION>': it has no `=`: write PLACE=PRECISION");
    assert_snapshot!(first_line("--activations", "mlp=int8"), @"error: invalid value 'mlp=int8' for '--activations <PLACE=PRECISION>': unknown place `mlp`, known are norm, attention, gate, head, other");
    assert_snapshot!(first_line("--activations", "norm=f16"), @"error: invalid value 'norm=f16' for '--activations <PLACE=PRECISION>': unknown precision of activations `f16`, known are int8, int8-asym, int8x2");
    assert_snapshot!(first_line("--kv-cache", "int4"), @"error: invalid value 'int4' for '--kv-cache <PRECISION>': unknown precision of cached keys and values `int4`, known are f32, f16, int8");
}

#[test]
fn tensor_types_that_cannot_be() {
    let model = Tiny::new();
    let with = |tensor_type: &str| pack(&model, &["--tensor-type", tensor_type]);
    assert_snapshot!(with("wte"), @r"
    error: invalid value 'wte' for '--tensor-type <PATTERN=SCHEME>': it has no `=`: write PATTERN=SCHEME

    For more information, try '--help'.
    ");
    assert_snapshot!(with("wte=int3"), @r"
    error: invalid value 'wte=int3' for '--tensor-type <PATTERN=SCHEME>': unknown scheme `int3`, known are f32, f16, bf16, int8, int8-g32, int4-g32, nf4, fp4, nf4-dq, fp4-dq

    For more information, try '--help'.
    ");
    assert_snapshot!(with("h.(=f16"), @r"
    error: recipe: the pattern `h.(` is not a regular expression: regex parse error:
        h.(
          ^
    error: unclosed group
    ");
    assert_snapshot!(with("h.7=f16"), @"error: recipe: the pattern `h.7` (=f16) matches no tensor; `aibit inspect` shows the names");
    assert_snapshot!(with("ln_1=int8"), @"error: tensor `transformer.h.0.ln_1.weight` cannot be stored as int8: biases and norms are executed in place as f32; narrow the pattern to matrices");
    assert_snapshot!(with("c_fc=f16"), @"error: tensor `transformer.h.0.mlp.c_fc.bias` cannot be stored as f16: biases and norms are executed in place as f32; narrow the pattern to matrices");
}

#[test]
fn an_unknown_preset() {
    assert_snapshot!(pack(&Tiny::new(), &["-q", "int3"]), @r"
    error: invalid value 'int3' for '--quantize <PRESET>': unknown preset `int3`, known are int8, bnb-int8, nf4, nf4-dq, fp4, fp4-dq, int8-g32, int4-g32, f32, f16, keep

    For more information, try '--help'.
    ");
}

#[test]
fn a_revision_of_a_folder() {
    assert_snapshot!(pack(&Tiny::new(), &["--revision", "main"]), @"error: `tiny` is a local path; --revision and --offline are for models on the hub");
    assert_snapshot!(pack(&Tiny::new(), &["--offline"]), @"error: `tiny` is a local path; --revision and --offline are for models on the hub");
}

#[test]
fn no_threads() {
    assert_snapshot!(pack(&Tiny::new(), &["-t", "0"]), @r"
    error: invalid value '0' for '--threads <N>': 0 is not in 1..=1024

    For more information, try '--help'.
    ");
}

// ---------------------------------------------------------------------------------------------
// Options of `run`.

#[track_caller]
fn generate(options: &[&str]) -> String {
    refuses(shelf(), &[&["run", tiny_int8()], options].concat())
}

#[test]
fn numbers_out_of_range() {
    let with = |option: &str, value: &str| generate(&["-p", "x", option, value]);
    assert_snapshot!(with("-n", "-2"), @r"
    error: invalid value '-2' for '--predict <N>': -2 is not in -1..9223372036854775807

    For more information, try '--help'.
    ");
    assert_snapshot!(with("--temp", "-1"), @"error: sampler option `temperature` is -1; it must be 0 (greedy) or above and finite");
    assert_snapshot!(with("--temp", "nan"), @"error: sampler option `temperature` is NaN; it must be 0 (greedy) or above and finite");
    assert_snapshot!(with("--top-p", "-0.1"), @"error: sampler option `top_p` is -0.1; it must be from 0 to 1 (off)");
    assert_snapshot!(with("--min-p", "1.5"), @"error: sampler option `min_p` is 1.5; it must be from 0 (off) to 1");
    assert_snapshot!(with("--repeat-penalty", "0"), @"error: sampler option `repeat_penalty` is 0; it must be above 0 and finite");
    assert_snapshot!(with("--seed", "-2"), @r"
    error: invalid value '-2' for '--seed <SEED>': -2 is not in -1..9223372036854775807

    For more information, try '--help'.
    ");
    assert_snapshot!(with("--top-k", "-2"), @r"
    error: invalid value '-2' for '--top-k <K>': -2 is not in -1..9223372036854775807

    For more information, try '--help'.
    ");
}

#[test]
fn stop_strings_that_cannot_be_used() {
    let with = |stop: &str| generate(&["-p", "x", "--stop", stop]);
    assert_snapshot!(with(""), @r"
    error: invalid value '' for '--stop <TEXT>': a stop string must not be empty

    For more information, try '--help'.
    ");
    assert_snapshot!(with(r"a\q"), @r"
    error: invalid value 'a\q' for '--stop <TEXT>': \q is not an escape; write \n, \r, \t, \xNN, \u{N}, and \\ for a backslash

    For more information, try '--help'.
    ");
    assert_snapshot!(with(&"a".repeat(5000)), @"error: stop string 0 has 5000 bytes, at most 4096 are allowed");
    let many: Vec<&str> = ["-p", "x"].into_iter().chain(["--stop", "a"].repeat(10_000)).collect();
    assert_snapshot!(generate(&many), @"error: 10000 stop strings given, at most 64 are allowed");
}

#[test]
fn a_prompt_longer_than_the_context() {
    assert_snapshot!(generate(&["-p", "one two three four", "-c", "4"]), @r"
    error: 10 tokens do not fit: 0 of 4 positions of the context are taken
    hint: shorten the prompt; it is never truncated silently
    ");
    assert_snapshot!(generate(&["-p", &"one two ".repeat(200)]), @r"
    error: 602 tokens do not fit: 0 of 128 positions of the context are taken
    hint: shorten the prompt; it is never truncated silently
    ");
}

#[test]
fn an_empty_prompt() {
    assert_snapshot!(generate(&["-p", ""]), @r"
    error: the prompt has no tokens; give at least one
    hint: give a prompt with -p TEXT or -f FILE
    ");
}

#[test]
fn no_prompt() {
    assert_snapshot!(generate(&[]), @r"
    error: the following required arguments were not provided:
      --prompt <TEXT>

    Usage: aibit run --prompt <TEXT> <FILE>

    For more information, try '--help'.
    ");
}

#[test]
fn two_prompts() {
    assert_snapshot!(generate(&["-p", "x", "-f", "prompt.txt"]), @r"
    error: the argument '--prompt <TEXT>' cannot be used with '--file <FILE>'

    Usage: aibit run --prompt <TEXT> <FILE>

    For more information, try '--help'.
    ");
}

#[test]
fn a_prompt_file_that_is_missing() {
    assert_snapshot!(generate(&["-f", "missing.txt"]), @r"
    error: cannot read missing.txt
      caused by: No such file or directory (os error 2)
    ");
}

#[test]
fn a_prompt_file_that_is_not_text() {
    let folder = temporary_folder();
    fs::write(folder.path().join("prompt.txt"), b"caf\xe9").expect("write");
    let archive = shelf().join(tiny_int8());
    let archive = archive.to_str().expect("a UTF-8 path");
    assert_snapshot!(refuses(folder.path(), &["run", archive, "-f", "prompt.txt"]), @r"
    error: cannot read prompt.txt: byte 3 is 0xe9, which is not UTF-8
    hint: convert it, for instance with `iconv -f latin1 -t utf-8`
    ");
}

#[test]
fn an_unknown_profile() {
    assert_snapshot!(generate(&["-p", "x", "--profile", "quick"]), @r"
    error: invalid value 'quick' for '--profile <PROFILE>': unknown profile `quick`, known are fast, precise and exact

    For more information, try '--help'.
    ");
}

#[test]
fn an_unknown_flag() {
    assert_snapshot!(generate(&["-p", "x", "--tempo", "1"]), @r"
    error: unexpected argument '--tempo' found

      tip: a similar argument exists: '--temp'

    Usage: aibit run --prompt <TEXT> --temp <T> <FILE>

    For more information, try '--help'.
    ");
}

#[test]
fn an_unknown_command() {
    assert_snapshot!(refuses(shelf(), &["pac"]), @r"
    error: unrecognized subcommand 'pac'

      tip: a similar subcommand exists: 'pack'

    Usage: aibit [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn an_unknown_instruction_set() {
    let args = ["run", tiny_int8(), "-p", "x"];
    let Outcome { code, stdout, stderr } = run_with(shelf(), &args, "", &[("AIBIT_ISA", "bogus")]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let mut settings = insta::Settings::clone_current();
    settings.add_filter("available: [a-z0-9, ]+;", "available: [NAMES];");
    settings.bind(|| assert_snapshot!(stderr, @"error: AIBIT_ISA is `bogus`, which this CPU does not offer; available: [NAMES]; unset it to use the best of them"));
}

// ---------------------------------------------------------------------------------------------
// Options of `eval`.

/// The message for evaluating the tiny model on `text`.
#[track_caller]
fn eval(text: &str, options: &[&str]) -> String {
    let folder = temporary_folder();
    fs::write(folder.path().join("text.txt"), text).expect("write");
    let archive = shelf().join(tiny_int8());
    let archive = archive.to_str().expect("a UTF-8 path");
    refuses(folder.path(), &[&["eval", archive, "--ppl", "text.txt"], options].concat())
}

#[test]
fn windows_that_cannot_be() {
    let text = "one two three four";
    assert_snapshot!(eval(text, &["--window", "1"]), @"error: window 1, stride 1: allowed are 2 <= window <= 128 and 1 <= stride <= window");
    assert_snapshot!(eval(text, &["--window", "129"]), @"error: window 129, stride 129: allowed are 2 <= window <= 128 and 1 <= stride <= window");
    assert_snapshot!(eval(text, &["--stride", "0"]), @"error: window 128, stride 0: allowed are 2 <= window <= 128 and 1 <= stride <= window");
    assert_snapshot!(eval(text, &["--window", "8", "--stride", "9"]), @"error: window 8, stride 9: allowed are 2 <= window <= 128 and 1 <= stride <= window");
}

#[test]
fn texts_too_short_to_be_measured() {
    assert_snapshot!(eval("a", &[]), @"error: the text has 1 tokens, at least 2 are needed to predict one from another");
    assert_snapshot!(eval("", &[]), @"error: the text has 0 tokens, at least 2 are needed to predict one from another");
}

#[test]
fn a_base_of_another_vocabulary() {
    let base = shelf().join(small_int8());
    let base = base.to_str().expect("a UTF-8 path");
    assert_snapshot!(eval("The market was held on the bridge.", &["--kl-base", base]), @"error: the two packages cannot be compared: their tokenizers produce 16 and 8 ids for the text");
}

#[test]
fn a_base_of_a_shorter_context() {
    let short = Tiny::new().with_config("n_positions", json!(64)).edit_tensors(|tensors| {
        let table = tensors.get_mut("transformer.wpe.weight").expect("a tensor");
        table.shape[0] = 64;
        table.data.truncate(64 * 64 * 4);
    });
    succeeds(short.around(), &["pack", "tiny", "-o", "short.aibit"]);
    let base = short.around().join("short.aibit");
    let base = base.to_str().expect("a UTF-8 path");
    assert_snapshot!(eval("The market was held on the bridge.", &["--kl-base", base]), @"error: the two packages cannot be compared: the model has 512 token ids and windows of 128, the base 512 and a context of 64");
}

// ---------------------------------------------------------------------------------------------
// Output paths.

/// Packs the tiny model into `folder`, which is not writable.
#[track_caller]
fn pack_into(model: &Tiny, folder: &Path) -> String {
    let target = folder.join("out.aibit");
    let message = refuses(model.around(), &["pack", "tiny", "-o", target.to_str().expect("a UTF-8 path")]);
    assert!(!model.around().join(&target).exists());
    message
}

#[test]
fn a_target_in_a_folder_that_is_missing() {
    assert_snapshot!(pack_into(&Tiny::new(), Path::new("missing")), @"error: cannot create a file in missing: No such file or directory (os error 2)");
}

#[test]
fn a_target_that_is_a_folder() {
    let model = Tiny::new();
    assert_snapshot!(refuses(model.around(), &["pack", "tiny", "-o", "tiny"]), @"error: cannot write tiny: it is a folder; give the name of a file");
}

#[cfg(unix)]
#[test]
fn a_target_in_a_folder_that_is_read_only() {
    use std::os::unix::fs::PermissionsExt;

    let model = Tiny::new();
    let folder = model.around().join("read-only");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).expect("permissions");
    if crate::support::is_writable(&folder).expect("a folder") {
        // Permissions do not stop root, but nobody can create a file in /proc.
        if cfg!(target_os = "linux") {
            assert!(pack_into(&model, Path::new("/proc")).contains("cannot create a file in /proc"));
        }
        return;
    }
    assert_snapshot!(pack_into(&model, Path::new("read-only")), @"error: cannot create a file in read-only: Permission denied (os error 13)");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0);
}
