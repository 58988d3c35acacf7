//! `aibit pack`: one archive per source, complete or absent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::models::{self, Tiny, safetensors_file};
use crate::support::{
    ids, json as report, refuses, run, shelf, small_int8, succeeds, temporary_folder, text, tiny_int8,
};
use crate::torch_file;

#[test]
fn folder_and_threads_leave_no_trace_in_the_archive() {
    let (one, other) = (Tiny::new(), Tiny::new());
    succeeds(one.around(), &["pack", "tiny", "-o", "a.aibit", "-t", "1"]);
    let target = one.around().join("b.aibit");
    let target = target.to_str().expect("a UTF-8 path");
    succeeds(other.around(), &["pack", "./tiny/", "-o", target, "-t", "2"]);
    let read = |name: &str| fs::read(one.around().join(name)).expect("an archive");
    assert!(read("a.aibit") == read("b.aibit"), "the archives differ");
}

#[test]
fn the_trained_model_gives_the_same_bytes_twice() {
    let folder = temporary_folder();
    let source = models::small();
    let source = source.to_str().expect("a UTF-8 path");
    succeeds(folder.path(), &["pack", source, "-o", "a.aibit", "-t", "1"]);
    let read = |path: &Path| fs::read(path).expect("an archive");
    assert!(read(&folder.path().join("a.aibit")) == read(&shelf().join(small_int8())), "the archives differ");
}

/// Scheme of every tensor that `inspect` lists.
fn schemes(folder: &Path, archive: &str) -> BTreeMap<String, String> {
    let report = report(folder, &["inspect", archive]);
    let tensors = report["tensors"].as_array().expect("an array");
    tensors.iter().map(|t| (text(&t["name"]).to_owned(), text(&t["scheme"]).to_owned())).collect()
}

#[test]
fn the_last_matching_exception_decides_a_scheme() {
    let model = Tiny::new();
    let exceptions = [
        "--tensor-type",
        r"weight$=f32",
        "--tensor-type",
        r"h\..*\.c_.*weight=f16",
        "--tensor-type",
        r"h\.1\.mlp\.c_fc\.weight=int8",
    ];
    succeeds(model.around(), &[&["pack", "tiny", "-o", "out.aibit"], &exceptions[..]].concat());
    let schemes = schemes(model.around(), "out.aibit");
    for (name, scheme) in [
        ("transformer.wte.weight", "f32"),
        ("transformer.wpe.weight", "f32"),
        ("transformer.h.0.mlp.c_fc.weight", "f16"),
        ("transformer.h.1.mlp.c_fc.weight", "int8"),
        ("transformer.h.1.mlp.c_proj.weight", "f16"),
        ("transformer.h.1.mlp.c_proj.bias", "f32"),
    ] {
        assert_eq!(schemes[name], scheme, "{name}");
    }
    let recipe = &report(model.around(), &["inspect", "out.aibit"])["recipe"];
    assert_eq!(recipe["overrides"].as_array().expect("an array").len(), 3, "{recipe}");
    succeeds(model.around(), &["verify", "out.aibit", "--run"]);
}

/// The examples in `--help` must work.
#[test]
fn examples_of_exceptions_work() {
    let help = succeeds(shelf(), &["pack", "--help"]);
    let example = help.lines().find(|line| line.contains("aibit pack") && line.contains("--tensor-type"));
    let exceptions: Vec<_> = example
        .expect("an example with --tensor-type")
        .split("--tensor-type ")
        .skip(1)
        .flat_map(|part| ["--tensor-type".to_owned(), part.trim().trim_matches('\'').replace("11", "1")])
        .collect();
    let exceptions: Vec<_> = exceptions.iter().map(String::as_str).collect();
    let model = Tiny::new();
    succeeds(model.around(), &[&["pack", "tiny", "-o", "out.aibit"], &exceptions[..]].concat());
    assert_eq!(schemes(model.around(), "out.aibit")["transformer.h.1.mlp.c_fc.weight"], "f16");
}

#[test]
fn every_preset_verifies_and_runs() {
    let model = Tiny::new();
    for preset in ["int8", "bnb-int8", "f16", "f32"] {
        succeeds(model.around(), &["pack", "tiny", "-o", "out.aibit", "-q", preset]);
        succeeds(model.around(), &["verify", "out.aibit", "--run"]);
        for profile in ["fast", "exact"] {
            let run =
                report(model.around(), &["run", "out.aibit", "-p", "x", "-n", "4", "--profile", profile]);
            assert_eq!(ids(&run["generated_ids"]).len(), 4, "{preset}, {profile}");
        }
    }
}

#[test]
fn names_of_other_tools_mean_the_same() {
    let model = Tiny::new();
    let reference = succeeds(model.around(), &["pack", "tiny", "-o", "out.aibit"]);
    for name in ["create", "quantize"] {
        assert_eq!(succeeds(model.around(), &[name, "tiny", "--output", "out.aibit"]), reference);
    }
    let inspected = succeeds(model.around(), &["inspect", "out.aibit"]);
    assert_eq!(succeeds(model.around(), &["show", "-m", "out.aibit"]), inspected);
}

// ---------------------------------------------------------------------------------------------
// The same model in other files.

/// Packs the model and returns the digest of the archive's weights and the names of the source's files.
fn weights_digest(model: &Tiny) -> (String, Vec<String>) {
    succeeds(model.around(), &["pack", "tiny", "-o", "out.aibit"]);
    succeeds(model.around(), &["verify", "out.aibit", "--run"]);
    let report = report(model.around(), &["inspect", "out.aibit"]);
    let entries = report["entries"].as_array().expect("an array");
    let weights = entries.iter().find(|e| e["name"] == "weights.safetensors").expect("an entry");
    let files = report["provenance"]["source"]["files"].as_array().expect("an array");
    (text(&weights["sha256"]).to_owned(), files.iter().map(|f| text(&f["name"]).to_owned()).collect())
}

#[test]
fn shards_give_the_weights_of_the_single_file() {
    let model = Tiny::new();
    let (expected, _) = weights_digest(&model);
    let (first, second): (BTreeMap<_, _>, BTreeMap<_, _>) =
        model.tensors().into_iter().partition(|(name, _)| name.contains(".h.0.") || name.contains("wpe"));
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let map: BTreeMap<_, _> =
        first.keys().map(|name| (name, names[0])).chain(second.keys().map(|name| (name, names[1]))).collect();
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map}).to_string();
    let model = model
        .remove("model.safetensors")
        .write(names[0], &safetensors_file(&first))
        .write(names[1], &safetensors_file(&second))
        .write("model.safetensors.index.json", index.as_bytes());
    let (found, files) = weights_digest(&model);
    assert_eq!(found, expected);
    assert!(names.iter().all(|name| files.iter().any(|file| file == name)), "{files:?}");
}

#[test]
fn a_torch_checkpoint_gives_the_weights_of_safetensors() {
    let model = Tiny::new();
    let (expected, _) = weights_digest(&model);
    let torch = torch_file::state_dict(&model.tensors());
    let model = model.remove("model.safetensors").write("pytorch_model.bin", &torch);
    let (found, files) = weights_digest(&model);
    assert_eq!(found, expected);
    assert!(files.iter().any(|file| file == "pytorch_model.bin"), "{files:?}");
}

#[test]
fn names_without_prefix_and_mask_buffers_give_the_same_weights() {
    let model = Tiny::new();
    let (expected, _) = weights_digest(&model);
    let model = model.edit_tensors(|tensors| {
        let mask = tensors["transformer.ln_f.bias"].clone();
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, tensor)| (name.trim_start_matches("transformer.").to_owned(), tensor))
            .collect();
        tensors.insert("h.0.attn.bias".into(), mask);
        let head = tensors["wte.weight"].clone();
        tensors.insert("lm_head.weight".into(), head); // tied, and equal
    });
    assert_eq!(weights_digest(&model).0, expected);
}

#[test]
fn vocabulary_and_merges_give_the_ids_of_the_tokenizer_file() {
    let folder = temporary_folder();
    let (source, copy) = (models::small(), folder.path().join("small"));
    fs::create_dir(&copy).expect("a folder");
    for name in ["config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt"] {
        fs::write(copy.join(name), fs::read(source.join(name)).expect("a fixture")).expect("write");
    }
    succeeds(folder.path(), &["pack", "small", "-o", "pair.aibit"]);
    succeeds(folder.path(), &["verify", "pair.aibit", "--run"]);
    for prompt in [
        "The history of the city begins",
        "It's 3.14159, they'll say; we've counted 1,234,567!",
        "  inner   spaces\n\n\tand tabs  ",
        "Zażółć gęślą jaźń, naïve café, 漢字, 👩\u{200d}🚀",
        "<|endoftext|>Once upon <|endoftext|> a time<|endoftext|",
        "e\u{301}\u{feff}\u{1}",
    ] {
        let run = |folder: &Path, archive: &str| report(folder, &["run", archive, "-p", prompt, "-n", "4"]);
        let (pair, single) = (run(folder.path(), "pair.aibit"), run(shelf(), small_int8()));
        assert_eq!(pair["prompt_ids"], single["prompt_ids"], "{prompt:?}");
        assert_eq!(pair["text"], single["text"], "{prompt:?}");
    }
}

// ---------------------------------------------------------------------------------------------
// Complete or absent.

/// Starts packing the trained model to `out.aibit` in `folder`.
fn start_packing(folder: &Path) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_aibit"))
        .current_dir(folder)
        .arg("pack")
        .arg(models::small())
        .args(["-o", "out.aibit"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

#[test]
fn a_killed_pack_leaves_nothing_or_a_whole_archive() {
    let folder = temporary_folder();
    let target = folder.path().join("out.aibit");
    let start = Instant::now();
    assert!(start_packing(folder.path()).wait().expect("it ends").success());
    let whole = start.elapsed();
    let expected = fs::read(&target).expect("an archive");
    let earlier_archive = fs::read(shelf().join(tiny_int8())).expect("an archive");

    for tenths in 0..=11 {
        let earlier = (tenths % 2 == 1).then_some(&earlier_archive);
        let _ = fs::remove_file(&target);
        if let Some(content) = earlier {
            fs::write(&target, content).expect("write");
        }
        let mut child = start_packing(folder.path());
        let until = Instant::now() + whole * tenths / 10;
        while Instant::now() < until && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(1)); // the delay is what the test varies
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        match fs::read(&target) {
            Ok(found) if found == expected => {
                succeeds(folder.path(), &["verify", "out.aibit"]);
            }
            found => {
                assert!(found.ok().as_ref() == earlier, "killed after {tenths} tenths of {whole:?}");
            }
        }
    }
}

#[test]
fn an_earlier_file_stays_until_the_archive_is_complete() {
    let folder = temporary_folder();
    let target = folder.path().join("out.aibit");
    let earlier = fs::read(shelf().join(tiny_int8())).expect("an archive");
    fs::write(&target, &earlier).expect("write");
    let mut child = start_packing(folder.path());
    let partial = || {
        let mut entries =
            fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry"));
        entries.any(|e| e.file_name().to_string_lossy().ends_with(".partial"))
    };
    while !partial() {
        assert!(child.try_wait().expect("a child").is_none(), "it ended without writing a partial file");
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");
    assert!(fs::read(&target).expect("an archive") == earlier);
    // Leftovers do not disturb later runs.
    succeeds(folder.path(), &["pack", models::small().to_str().expect("UTF-8"), "-o", "out.aibit"]);
    succeeds(folder.path(), &["verify", "out.aibit"]);
}

#[test]
fn a_failed_pack_leaves_the_earlier_archive() {
    let model = Tiny::new();
    succeeds(model.around(), &["pack", "tiny", "-o", "out.aibit"]);
    let before = fs::read(model.around().join("out.aibit")).expect("an archive");
    let model = model.edit_tensors(|tensors| {
        let tensor = tensors.get_mut("transformer.h.1.mlp.c_fc.weight").expect("a tensor");
        tensor.data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    refuses(model.around(), &["pack", "tiny", "-o", "out.aibit"]); // detected while weights are being written
    assert!(fs::read(model.around().join("out.aibit")).expect("an archive") == before);
    let mut left: Vec<_> =
        fs::read_dir(model.around()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["out.aibit", "tiny"]);
}

#[cfg(unix)]
#[test]
fn an_archive_has_the_permissions_of_an_ordinary_file() {
    use std::os::unix::fs::PermissionsExt;

    let model = Tiny::new();
    succeeds(model.around(), &["pack", "tiny", "-o", "out.aibit"]);
    fs::write(model.around().join("ordinary"), "").expect("write");
    let mode = |name: &str| fs::metadata(model.around().join(name)).expect("a file").permissions().mode();
    assert_eq!(mode("out.aibit"), mode("ordinary"));
}

#[test]
fn provenance_names_files_and_no_folders() {
    let inspected = report(shelf(), &["inspect", small_int8()]);
    let files = inspected["provenance"]["source"]["files"].as_array().expect("an array");
    let of = |name: &str| files.iter().find(|f| f["name"] == name).map(|f| &f["sha256"]);
    let recorded = of("model.safetensors").expect("the weights are listed");
    assert_eq!(recorded, &models::small_expected()["model_safetensors_sha256"]);
    assert!(files.iter().all(|file| !text(&file["name"]).contains(['/', '\\'])), "{files:?}");
    assert_eq!(inspected["provenance"]["source"].get("repository"), None::<&Value>);
}

#[test]
fn an_archive_is_a_zip_file_for_other_tools() {
    let file = fs::File::open(shelf().join(small_int8())).expect("an archive");
    let mut zip = zip::ZipArchive::new(file).expect("a ZIP file");
    let mut config = Vec::new();
    std::io::copy(&mut zip.by_name("config.json").expect("an entry"), &mut config).expect("read");
    assert_eq!(config, fs::read(models::small().join("config.json")).expect("a fixture"));
    assert_eq!(run(shelf(), &["inspect", small_int8()]).code, Some(0));
}
