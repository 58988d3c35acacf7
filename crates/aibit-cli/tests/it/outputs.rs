//! Output files: existing files, sources, devices, permissions, and interruption by signals.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::models::{self, Tiny};
use crate::support::{Outcome, json, refuses, run, shelf, small_f32, succeeds, temporary_folder, tiny_int8};

/// The tiny model's folder `tiny`, and `a.aibit` packed from it.
fn tiny_with_archive() -> Tiny {
    let model = Tiny::new();
    fs::copy(shelf().join(tiny_int8()), model.around().join("a.aibit")).expect("an archive");
    model
}

/// Every command that writes, with `target` as output.
fn writers(target: &str) -> Vec<Vec<&str>> {
    let export = |kind| vec!["export", "a.aibit", "--to", kind, "-o", target];
    vec![
        vec!["pack", "tiny", "-o", target],
        vec!["convert", "a.aibit", "-o", target],
        export("gguf"),
        export("safetensors"),
        export("hf"),
        export("bnb"),
    ]
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn devices_pipes_and_sockets_are_never_replaced() {
    let model = tiny_with_archive();
    let folder = model.around();
    let tool = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).current_dir(folder).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    assert!(tool("mkfifo", &["fifo"]));
    let _listener = std::os::unix::net::UnixListener::bind(folder.join("socket")).expect("a socket");
    symlink("fifo", folder.join("link")).expect("a link");
    let mut special = vec![("fifo", "pipe"), ("socket", "socket"), ("link", "pipe")];
    if tool("mknod", &["null", "c", "1", "3"]) {
        symlink("null", folder.join("to-null")).expect("a link");
        special.extend([("null", "device"), ("to-null", "device")]);
    }
    let before = names(folder);
    for (name, kind) in special {
        for mut args in writers(name) {
            for force in [false, true] {
                if force {
                    args.push("--force");
                }
                let message = refuses(folder, &args);
                assert!(
                    message.contains(&format!("cannot write {name}: it is a {kind}")),
                    "{args:?}: {message}"
                );
            }
        }
        let kind = fs::metadata(folder.join(name)).expect("it is there").file_type();
        assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device());
    }
    assert_eq!(names(folder), before);
}

#[test]
fn a_file_of_the_source_is_never_the_target() {
    let model = tiny_with_archive();
    let folder = model.around();
    let source = folder.join("tiny");
    succeeds(folder, &["export", "a.aibit", "--to", "gguf", "-o", "g.gguf"]);
    fs::hard_link(source.join("model.safetensors"), folder.join("hard")).expect("a link");
    symlink("tiny/tokenizer.json", folder.join("soft")).expect("a link");
    fs::hard_link(folder.join("a.aibit"), folder.join("hard.aibit")).expect("a link");
    symlink("g.gguf", folder.join("soft.gguf")).expect("a link");
    symlink("tiny", folder.join("linked")).expect("a link");
    fs::create_dir(source.join("additional_chat_templates")).expect("a folder");
    fs::write(source.join("additional_chat_templates/rag.jinja"), "{{ messages }}").expect("written");
    fs::write(source.join("chat_template.jinja"), "{{ messages }}").expect("written");
    let everything = || {
        let mut files: Vec<_> = ["a.aibit", "g.gguf"].map(|name| folder.join(name)).into();
        files.extend(fs::read_dir(&source).expect("a folder").map(|e| e.expect("an entry").path()));
        files.retain(|path| path.is_file());
        files.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file"))).collect::<Vec<_>>()
    };
    let before = everything();
    let mut attempts: Vec<[&str; 4]> = Vec::new();
    for target in [
        "tiny/model.safetensors",
        "tiny/config.json",
        "tiny/tokenizer.json",
        "tiny/tokenizer_config.json",
        "tiny/generation_config.json",
        "tiny/additional_chat_templates/rag.jinja",
        "linked/../tiny/./model.safetensors",
        "hard",
        "soft",
    ] {
        attempts.push(["pack", "tiny", "-o", target]);
        attempts.push(["pack", "tiny/model.safetensors", "-o", target]);
        attempts.push(["pack", "linked", "-o", target]);
    }
    attempts.extend([["pack", "g.gguf", "-o", "g.gguf"], ["pack", "g.gguf", "-o", "soft.gguf"]]);
    attempts.extend([["pack", "soft.gguf", "-o", "g.gguf"], ["pack", "soft.gguf", "-o", "soft.gguf"]]);
    for args in attempts {
        let message = refuses(folder, &[&args[..], &["--force"]].concat());
        assert!(message.contains("is the same file as the source"), "{args:?}: {message}");
        refuses(folder, &args);
    }
    for target in ["a.aibit", "./a.aibit", "hard.aibit", "linked/../a.aibit"] {
        for kind in ["gguf", "safetensors"] {
            let message = refuses(folder, &["export", "a.aibit", "--to", kind, "-o", target, "--force"]);
            assert!(message.contains("is the same file as the source a.aibit"), "{target}: {message}");
        }
    }
    assert!(everything() == before, "a source has changed");
    // A folder that contains the source.
    fs::create_dir(folder.join("out")).expect("a folder");
    fs::write(folder.join("out/config.json"), "{}").expect("written");
    fs::rename(folder.join("a.aibit"), folder.join("out/a.aibit")).expect("moved");
    let message = refuses(folder, &["export", "out/a.aibit", "--to", "hf", "-o", "out", "--force"]);
    assert!(message.contains("it contains the source out/a.aibit"), "{message}");
    assert_eq!(names(&folder.join("out")), ["a.aibit", "config.json"]);
    // An archive next to the files it was made from is not a source, and is replaced.
    for _ in 0..2 {
        let outcome = run(folder, &["pack", "tiny", "-o", "tiny/packed.aibit"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    }
}

#[test]
fn shards_and_their_index_are_files_of_the_source() {
    let model = Tiny::new();
    let (mut first, mut second) = (model.tensors(), model.tensors());
    let is_first = |name: &str| name < "transformer.h.1";
    first.retain(|name, _| is_first(name));
    second.retain(|name, _| !is_first(name));
    let shard = |name: &String| if is_first(name) { "one.safetensors" } else { "two.safetensors" };
    let map: serde_json::Map<_, _> =
        model.tensors().keys().map(|name| (name.clone(), shard(name).into())).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    let model = model
        .write("one.safetensors", &models::safetensors_file(&first))
        .write("two.safetensors", &models::safetensors_file(&second))
        .write("model.safetensors.index.json", index.as_bytes())
        .remove("model.safetensors");
    for target in ["tiny/one.safetensors", "tiny/two.safetensors", "tiny/model.safetensors.index.json"] {
        let before = fs::read(model.around().join(target)).expect("a file");
        let message = refuses(model.around(), &["pack", "tiny", "-o", target, "--force"]);
        assert!(message.contains("is the same file as the source"), "{message}");
        assert!(fs::read(model.around().join(target)).expect("a file") == before);
    }
    succeeds(model.around(), &["pack", "tiny", "-o", "a.aibit"]);
}

/// The map keeps its bytes while another file takes its name.
#[test]
fn an_archive_is_converted_in_place() {
    let model = tiny_with_archive();
    let before = fs::read(model.around().join("a.aibit")).expect("an archive");
    succeeds(model.around(), &["convert", "a.aibit", "-o", "a.aibit"]);
    assert!(fs::read(model.around().join("a.aibit")).expect("an archive") == before);
}

#[test]
fn existing_files_and_folders_are_replaced_by_one_rule() {
    let model = tiny_with_archive();
    let folder = model.around();
    for args in writers("out") {
        let is_archive = args[0] != "export";
        let is_folder = args.contains(&"hf") || args.contains(&"bnb");
        let forced = [&args[..], &["--force"]].concat();
        let out = folder.join("out");
        let clear = || _ = fs::remove_file(&out).or_else(|_| fs::remove_dir_all(&out));

        // A file.
        clear();
        fs::write(&out, "a letter").expect("written");
        let message = refuses(folder, &args);
        assert_eq!(fs::read_to_string(&out).expect("a file"), "a letter", "{args:?}");
        if is_folder {
            assert!(message.contains("cannot write out: it is a file"), "{message}");
            refuses(folder, &forced);
            assert_eq!(fs::read_to_string(&out).expect("a file"), "a letter", "{args:?}");
        } else {
            assert!(message.contains("it exists and is") && message.contains("--force"), "{message}");
            succeeds(folder, &forced);
            assert_ne!(fs::read(&out).expect("a file"), b"a letter", "{args:?}");
            // An archive can be made again, an export may be the only copy.
            clear();
            fs::copy(folder.join("a.aibit"), &out).expect("an archive");
            if is_archive {
                succeeds(folder, &args);
            } else {
                refuses(folder, &args);
            }
            clear();
            fs::write(&out, "").expect("an empty file");
            succeeds(folder, &args);
        }

        // A folder.
        clear();
        fs::create_dir(&out).expect("a folder");
        if !is_folder {
            for args in [&args, &forced] {
                let message = refuses(folder, args);
                assert!(message.contains("cannot write out: it is a folder"), "{message}");
            }
            continue;
        }
        succeeds(folder, &args); // it is empty
        let files = names(&out);
        assert!(files.contains(&"config.json".to_owned()), "{files:?}");
        let message = refuses(folder, &args);
        assert!(message.contains("it exists and is not empty"), "{message}");
        fs::write(out.join("chat_template.jinja"), "of another model").expect("written");
        succeeds(folder, &forced);
        assert_eq!(names(&out), files, "nothing of the model before is left");
        fs::create_dir(out.join("photos")).expect("a folder");
        let message = refuses(folder, &forced);
        assert!(message.contains("`photos`, which is no regular file"), "{message}");
        fs::remove_dir(out.join("photos")).expect("an empty folder");
        fs::remove_file(out.join("config.json")).expect("a file");
        let message = refuses(folder, &forced);
        assert!(message.contains("files but no config.json"), "{message}");
    }
}

#[test]
fn links_are_followed_and_stay() {
    let model = tiny_with_archive();
    let folder = model.around();
    fs::create_dir(folder.join("disk")).expect("a folder");
    for args in writers("link") {
        let is_folder = args.contains(&"hf") || args.contains(&"bnb");
        let _ = fs::remove_file(folder.join("link"));
        let _ = fs::remove_dir_all(folder.join("disk"));
        fs::create_dir(folder.join("disk")).expect("a folder");
        // A dangling link, then an existing target.
        symlink("disk/real", folder.join("link")).expect("a link");
        succeeds(folder, &args);
        assert_eq!(names(&folder.join("disk")), ["real"]);
        assert_eq!(folder.join("disk/real").is_dir(), is_folder);
        succeeds(folder, &[&args[..], &["--force"]].concat());
        assert!(fs::symlink_metadata(folder.join("link")).expect("a link").is_symlink(), "{args:?}");
        assert_eq!(names(&folder.join("disk")), ["real"]);
    }
    let before = names(folder);
    symlink("round", folder.join("round")).expect("a link");
    for args in writers("round") {
        refuses(folder, &args);
    }
    fs::remove_file(folder.join("round")).expect("a link");
    assert_eq!(names(folder), before);
}

#[test]
fn a_target_that_cannot_be_is_refused_before_any_work() {
    let model = tiny_with_archive();
    let folder = model.around();
    let before = names(folder);
    let long = "x".repeat(256);
    for (target, reason) in
        [(long.as_str(), "name too long"), ("a.aibit/b", "Not a directory"), ("no/b", "in no")]
    {
        for args in writers(target) {
            // The source would be refused as well: the target is checked first.
            fs::write(folder.join("tiny/config.json"), "[").expect("written");
            let message = refuses(folder, &args);
            assert!(message.contains(reason), "{args:?}: {message}");
        }
    }
    assert_eq!(names(folder), before);
    // The longest possible name.
    let name = "y".repeat(255);
    succeeds(folder, &["convert", "a.aibit", "-o", &name]);
}

#[test]
fn results_have_the_permissions_that_the_mask_gives_or_those_of_what_they_replace() {
    let model = tiny_with_archive();
    let folder = model.around();
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    for (mask, file_mode, folder_mode) in
        [("022", 0o644, 0o755), ("027", 0o640, 0o750), ("000", 0o666, 0o777)]
    {
        for args in writers("out") {
            let out = folder.join("out");
            let _ = fs::remove_file(&out).or_else(|_| fs::remove_dir_all(&out));
            let script = format!("umask {mask} && exec \"$0\" \"$@\"");
            let status = Command::new("sh")
                .current_dir(folder)
                .args(["-c", &script, env!("CARGO_BIN_EXE_aibit")])
                .args(&args)
                .stdout(Stdio::null())
                .status();
            assert!(status.expect("a shell").success());
            if out.is_dir() {
                assert_eq!(format!("{:o}", mode(&out)), format!("{folder_mode:o}"), "{args:?}");
                for name in names(&out) {
                    assert_eq!(format!("{:o}", mode(&out.join(&name))), format!("{file_mode:o}"), "{name}");
                }
            } else {
                assert_eq!(format!("{:o}", mode(&out)), format!("{file_mode:o}"), "{args:?}");
                fs::set_permissions(&out, fs::Permissions::from_mode(0o604)).expect("permissions");
                succeeds(folder, &[&args[..], &["--force"]].concat());
                assert_eq!(format!("{:o}", mode(&out)), "604", "{args:?}");
            }
        }
    }
}

#[test]
fn the_archives_own_tensors_are_exported_and_checked() {
    let model = tiny_with_archive();
    let args = ["export", "a.aibit", "--to", "safetensors", "-o", "own.safetensors", "--check"];
    let report = json(model.around(), &args);
    assert_eq!(report["written"], true);
    assert_eq!(report["check"]["equal"], 28);
    let own = fs::read(model.around().join("own.safetensors")).expect("a file");
    let zip = fs::File::open(model.around().join("a.aibit")).expect("an archive");
    let mut entry = Vec::new();
    std::io::copy(
        &mut zip::ZipArchive::new(zip).expect("a ZIP file").by_name("weights.safetensors").expect("an entry"),
        &mut entry,
    )
    .expect("read");
    assert!(own == entry);
}

// ---------------------------------------------------------------------------------------------
// Signals.

fn start(folder: &Path, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_aibit"))
        .current_dir(folder)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.expect("kill starts").success());
}

/// Runs `args`, which write `target`, and interrupts 20 runs at different times, each with one of the signals.
#[track_caller]
fn check_interrupted(folder: &Path, args: &[&str], target: &str) {
    let begun = Instant::now();
    assert!(start(folder, args).wait().expect("it ends").success());
    let mut whole = begun.elapsed();
    let remove = || {
        let target = folder.join(target);
        fs::remove_file(&target).or_else(|_| fs::remove_dir_all(&target))
    };
    remove().expect("it was written");
    let before = names(folder);
    let mut interrupted = 0;
    for moment in 0..200 {
        let (signal, number) = [("-INT", 2), ("-TERM", 15), ("-HUP", 1)][moment % 3];
        let begun = Instant::now();
        let mut child = start(folder, args);
        let until = begun + whole * (moment % 20) as u32 / 20;
        while Instant::now() < until && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(1)); // the delay is what the test varies
        }
        if child.try_wait().expect("a child").is_none() {
            send(signal, &child);
        }
        let status = child.wait().expect("it ends");
        assert!(status.success() || status.signal() == Some(number), "{args:?}, {signal}: {status}");
        if status.success() {
            whole = whole.min(begun.elapsed()); // load from other processes may have ended meanwhile
            remove().expect("it was written");
        } else {
            interrupted += 1;
            let _ = remove(); // complete, but the exit was interrupted
        }
        assert_eq!(names(folder), before, "{args:?}, {signal} at moment {moment} of {whole:?}");
        if interrupted == 20 {
            return;
        }
    }
    panic!("{interrupted} of 200 runs were interrupted");
}

#[test]
fn a_signal_leaves_nothing_of_an_archive() {
    let folder = temporary_folder();
    let small = models::small();
    check_interrupted(folder.path(), &["pack", small.to_str().expect("UTF-8"), "-o", "out"], "out");
}

#[test]
fn a_signal_leaves_nothing_of_an_export() {
    let folder = temporary_folder();
    let archive = shelf().join(small_f32());
    let archive = archive.to_str().expect("UTF-8");
    for kind in ["hf", "gguf"] {
        check_interrupted(folder.path(), &["export", archive, "--to", kind, "-o", "out"], "out");
    }
    check_interrupted(folder.path(), &["convert", archive, "-o", "out"], "out");
    // Inside an existing folder.
    fs::create_dir(folder.path().join("there")).expect("a folder");
    let args = ["export", archive, "--to", "hf", "-o", "there/out"];
    check_interrupted(folder.path(), &args, "there/out");
    assert_eq!(names(&folder.path().join("there")), [""; 0]);
}

/// `nohup` and shells start programs with ignored signals.
#[test]
fn a_hang_up_that_is_ignored_stays_so() {
    let folder = temporary_folder();
    let script = "trap '' HUP INT; exec \"$0\" \"$@\"";
    let mut child = Command::new("sh")
        .current_dir(folder.path())
        .args(["-c", script, env!("CARGO_BIN_EXE_aibit"), "pack"])
        .arg(models::small())
        .args(["-o", "out.aibit"])
        .stdout(Stdio::null())
        .spawn()
        .expect("a shell");
    while names(folder.path()).is_empty() {
        assert!(child.try_wait().expect("a child").is_none(), "it ended without writing");
    }
    send("-HUP", &child);
    send("-INT", &child);
    assert!(child.wait().expect("it ends").success());
    assert_eq!(names(folder.path()), ["out.aibit"]);
}

#[test]
fn what_a_kill_leaves_is_named_and_removed_by_the_next_run() {
    let folder = temporary_folder();
    let small = models::small();
    let partials = |folder: &Path| -> Vec<String> {
        names(folder).into_iter().filter(|name| name.starts_with(".aibit-out")).collect()
    };
    let pack = ["pack", small.to_str().expect("UTF-8"), "-o", "out"];
    let archive = shelf().join(small_f32());
    let export = ["export", archive.to_str().expect("UTF-8"), "--to", "hf", "-o", "out"];
    for args in [&pack[..], &export] {
        let mut child = start(folder.path(), args);
        while partials(folder.path()).is_empty() {
            assert!(child.try_wait().expect("a child").is_none(), "it ended without a partial file");
        }
        // Another run does not touch files that a living process is writing.
        fs::write(folder.path().join(".aibit-letters.partial.txt"), "mine").expect("written");
        let living = partials(folder.path());
        succeeds(
            folder.path(),
            &["convert", shelf().join(tiny_int8()).to_str().expect("UTF-8"), "-o", "other"],
        );
        let is_alive = child.try_wait().expect("a child").is_none();
        assert!(!is_alive || partials(folder.path()) == living, "{:?}", partials(folder.path()));
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        let left = partials(folder.path());
        assert!(!is_alive || left.len() == 1, "{left:?}");
        assert!(left.iter().all(|name| name.starts_with(".aibit-out-") && name.ends_with(".partial")));
        succeeds(
            folder.path(),
            &["convert", shelf().join(tiny_int8()).to_str().expect("UTF-8"), "-o", "other"],
        );
        assert_eq!(partials(folder.path()), [""; 0]);
        assert!(folder.path().join(".aibit-letters.partial.txt").exists());
        let out = folder.path().join("out");
        let _ = fs::remove_file(&out).or_else(|_| fs::remove_dir_all(&out));
    }
}

#[test]
fn a_link_named_like_a_partial_file_is_left_alone() {
    let model = tiny_with_archive();
    let folder = model.around();
    fs::write(folder.join("letter"), "mine").expect("written");
    symlink("letter", folder.join(".aibit-x-1-0.partial")).expect("a link");
    assert!(
        Command::new("mkfifo").arg(folder.join(".aibit-y-1-0.partial")).status().expect("mkfifo").success()
    );
    let id = |name: &str| fs::symlink_metadata(folder.join(name)).expect("it is there").ino();
    let before = [id("letter"), id(".aibit-x-1-0.partial"), id(".aibit-y-1-0.partial")];
    let Outcome { code, .. } = run(folder, &["convert", "a.aibit", "-o", "b.aibit"]);
    assert_eq!(code, Some(0));
    assert_eq!([id("letter"), id(".aibit-x-1-0.partial"), id(".aibit-y-1-0.partial")], before);
}
