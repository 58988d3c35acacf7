//! Measures aibit and its peers alternately. Each engine runs in a process of its own with the same number of
//! threads, prompt and lengths.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aibit_kernels::{Isa, limits};
use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::contest::{Contest, Engine, Kind, Scope};
use super::install::{self, Installed, TOKENIZER};
use super::llama::{IK_LLAMA, LLAMA};
use super::results::{MACHINE, Measured, READ, Results, Sample};
use super::shape::BANDWIDTH_BYTES;
use crate::python::answer;
use crate::root;

/// Repetitions of a speed or a start per round.
const REPETITIONS: usize = 3;

/// With a busy neighbour an engine can be slower by orders of magnitude; longer runs are aborted.
const NEIGHBOUR_LIMIT: Duration = Duration::from_secs(60);

/// Maximum number of attempts at an undisturbed measurement.
const TRIES: usize = 3;

/// For everything else: an engine that takes this long hangs.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// One call of an engine that measures speeds.
struct Speeds {
    threads: usize,
    prefill: &'static str,
    decode: &'static str,
    depth: usize,
    repetitions: usize,
}

/// Installs what is missing, then measures `rounds` rounds of the engines in `only`, or of all; after each round the
/// results so far are written to `keep`.
pub(super) fn measure(
    contest: &'static Contest,
    rounds: usize,
    only: &[String],
    aibit: Option<&Path>,
    keep: Option<&Path>,
) -> anyhow::Result<Results> {
    for name in only {
        ensure!(
            contest.engines.iter().any(|engine| engine.is_named(name)),
            "no engine `{name}`; there are {}",
            contest.engines.iter().map(|engine| engine.id).collect::<Vec<_>>().join(", ")
        );
    }
    let installed = install::install(contest, aibit)?;
    let engines: Vec<&Engine> = contest
        .engines
        .iter()
        .filter(|engine| only.is_empty() || only.iter().any(|name| engine.is_named(name)))
        .collect();
    let mut bench = Bench { results: describe(&installed, contest)?, installed, contest, round: 0 };
    for engine in &engines {
        bench.introduce(engine)?;
    }
    let began = Instant::now();
    for round in 0..rounds {
        bench.round = round;
        bench.round(&engines)?;
        bench.results.rounds = round + 1;
        if let Some(path) = keep {
            fs::write(path, serde_json::to_vec_pretty(&bench.results)?)?;
        }
        eprintln!("round {} of {rounds} done after {} s", round + 1, began.elapsed().as_secs());
    }
    Ok(bench.results)
}

struct Bench {
    installed: Installed,
    contest: &'static Contest,
    results: Results,
    round: usize,
}

impl Bench {
    fn round(&mut self, engines: &[&Engine]) -> anyhow::Result<()> {
        for threads in [2, 1] {
            let speeds =
                Speeds { threads, prefill: "128,512", decode: "128", depth: 0, repetitions: REPETITIONS };
            if self.contest.shape.is_some() {
                self.read_bandwidth(threads)?;
            }
            for engine in engines.iter().filter(|e| threads == 2 || !Engine::is_variant(e.id)) {
                self.speeds(engine, &speeds)?;
            }
        }
        if self.contest.scope == Scope::Speeds {
            return Ok(());
        }
        for engine in engines.iter().filter(|engine| !Engine::is_variant(engine.id)) {
            self.warm_starts(engine)?;
        }
        for engine in engines.iter().filter(|engine| engine.is_rival()) {
            self.cold_starts(engine)?;
        }
        for depth in [0, 1000] {
            let speeds = Speeds { threads: 2, prefill: "", decode: "24", depth, repetitions: REPETITIONS };
            for engine in engines.iter().filter(|engine| engine.is_rival()) {
                self.speeds(engine, &speeds)?;
            }
        }
        for engine in engines.iter().filter(|engine| engine.is_rival()) {
            self.private_memory(engine)?;
        }
        for engine in engines.iter().filter(|engine| engine.is_rival()) {
            self.one_core_held(engine)?;
        }
        Ok(())
    }

    /// Adds an engine's row; fails early if the engine does not run.
    fn introduce(&mut self, engine: &Engine) -> anyhow::Result<()> {
        let mut file_bytes = 0;
        for file in self.files(engine) {
            file_bytes += fs::metadata(&file).with_context(|| file.display().to_string())?.len();
        }
        let starts = self.start(engine, 1, &[])?;
        let first_token = starts[0]["output"].as_str().context("output")?.trim_end_matches('\n').to_owned();
        eprintln!("{}: {}\u{2026}{first_token}", engine.label, self.contest.prompt);
        let (id, label) = (engine.id.to_owned(), engine.label.to_owned());
        self.results.engines.push(Measured { id, label, file_bytes, first_token });
        Ok(())
    }

    fn speeds(&mut self, engine: &Engine, speeds: &Speeds) -> anyhow::Result<()> {
        let (finished, disturbed) =
            self.undisturbed(|bench| run(&mut bench.speed_command(engine, speeds), RUN_LIMIT, false))?;
        ensure!(finished.in_time, "{}: not done after {} s", engine.label, RUN_LIMIT.as_secs());
        for (test, values) in speeds_of(&finished.stdout)? {
            self.add(engine.id, &test, speeds.threads, values, disturbed);
        }
        Ok(())
    }

    /// Read bandwidth of memory in this round, in bytes per second.
    fn read_bandwidth(&mut self, threads: usize) -> anyhow::Result<()> {
        let isa = Isa::selected()?;
        let (bandwidth, disturbed) = self.undisturbed(|_| {
            Ok(1e9 * limits::read_bandwidth(isa, threads, BANDWIDTH_BYTES, limits::PASSES))
        })?;
        self.add(MACHINE, READ, threads, vec![bandwidth], disturbed);
        Ok(())
    }

    fn warm_starts(&mut self, engine: &Engine) -> anyhow::Result<()> {
        // One more, which loads program and model into the page cache.
        let (starts, disturbed) = self.undisturbed(|bench| bench.start(engine, REPETITIONS + 1, &[]))?;
        for (test, field) in
            [("first token", "first_ms"), ("process end", "end_ms"), ("peak memory", "peak_rss_bytes")]
        {
            self.add(engine.id, test, 2, column(&starts[1..], field)?, disturbed);
        }
        Ok(())
    }

    /// Starts with the model not in the page cache, alternating with a program that only reads the same file.
    fn cold_starts(&mut self, engine: &Engine) -> anyhow::Result<()> {
        let files = self.files(engine);
        let mut read = vec!["cat".to_owned()];
        read.extend(files.iter().map(|file| text(file)));
        let ((starts, reads), disturbed) = self.undisturbed(|bench| {
            let (mut starts, mut reads) = (Vec::new(), Vec::new());
            for _ in 0..REPETITIONS {
                starts.extend(bench.start(engine, 1, &files)?);
                reads.extend(bench.start_command(&read, 1, &files, true)?);
            }
            Ok((starts, reads))
        })?;
        self.add(engine.id, "first token, cold", 2, column(&starts, "first_ms")?, disturbed);
        self.add(engine.id, "reading the file, cold", 2, column(&reads, "end_ms")?, disturbed);
        Ok(())
    }

    /// Peak private memory of the process with the whole context in use.
    fn private_memory(&mut self, engine: &Engine) -> anyhow::Result<()> {
        let speeds = Speeds { threads: 2, prefill: "", decode: "1", depth: 1023, repetitions: 1 };
        // Load from other processes does not change memory usage.
        let finished = run(&mut self.speed_command(engine, &speeds), RUN_LIMIT, true)?;
        self.add(engine.id, "private memory", 2, vec![finished.private_bytes as f64], false);
        Ok(())
    }

    /// Speeds on two cores while another process keeps one of them busy.
    fn one_core_held(&mut self, engine: &Engine) -> anyhow::Result<()> {
        for threads in [2, 1] {
            for (prefill, decode) in [("", "32"), ("512", "")] {
                let speeds = Speeds { threads, prefill, decode, depth: 0, repetitions: 1 };
                let (finished, disturbed) = self.undisturbed(|bench| {
                    let command = bench.speed_command(engine, &speeds);
                    let mut pinned = Command::new("taskset");
                    pinned.args(["-c", "0,1"]).arg(command.get_program()).args(command.get_args());
                    // It ends before the times are read, so that its time counts as this process's.
                    let _neighbour = Neighbour::start(&bench.installed.python)?;
                    run(&mut pinned, NEIGHBOUR_LIMIT, false)
                })?;
                if !finished.in_time {
                    eprintln!("{}, {threads} threads, one core held: not done in time", engine.label);
                    continue;
                }
                for (test, values) in speeds_of(&finished.stdout)? {
                    self.add(engine.id, &format!("{test}, one core held"), threads, values, disturbed);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, engine: &str, test: &str, threads: usize, values: Vec<f64>, disturbed: bool) {
        let shown: Vec<String> = values.iter().map(|value| format!("{value:.1}")).collect();
        let mark = if disturbed { " (disturbed)" } else { "" };
        eprintln!("  {engine}, {threads} threads, {test}: {}{mark}", shown.join(" "));
        let (engine, test) = (engine.to_owned(), test.to_owned());
        self.results.samples.push(Sample { round: self.round, engine, test, threads, values, disturbed });
    }

    /// The model files that an engine reads.
    fn files(&self, engine: &Engine) -> Vec<PathBuf> {
        let model = self.model(engine);
        match engine.kind {
            Kind::Python { model: "openvino", .. } => {
                vec![model.join("openvino_model.xml"), model.join("openvino_model.bin")]
            }
            Kind::Python { model: "ctranslate2", .. } => {
                vec![model.join("model.bin"), model.join("vocabulary.json")]
            }
            Kind::Aibit { .. } | Kind::Llama { .. } | Kind::IkLlama { .. } | Kind::Python { .. } => {
                vec![model]
            }
        }
    }

    fn model(&self, engine: &Engine) -> PathBuf {
        let (Kind::Aibit { model, .. }
        | Kind::Llama { model }
        | Kind::IkLlama { model }
        | Kind::Python { model, .. }) = engine.kind;
        self.installed.models.join(model)
    }

    /// The driver program of llama.cpp or of its fork.
    fn llama(&self, engine: &Engine) -> &Path {
        match (engine.kind, &self.installed.ik_llama) {
            (Kind::IkLlama { .. }, Some(program)) => program,
            _ => &self.installed.llama,
        }
    }

    /// `program` with aibit's instruction set for the contest.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.contest.built_for.aibit_isa().map(|isa| ("AIBIT_ISA", isa)));
        command
    }

    fn speed_command(&self, engine: &Engine, speeds: &Speeds) -> Command {
        let Speeds { threads, prefill, decode, depth, repetitions } = speeds;
        let (threads, depth, repetitions) = (threads.to_string(), depth.to_string(), repetitions.to_string());
        let or_none = |lengths: &'static str| if lengths.is_empty() { "0" } else { lengths };
        let model = self.model(engine);
        match engine.kind {
            Kind::Aibit { profile, .. } => {
                let mut command = self.command(&self.installed.aibit);
                command.arg("bench").arg(model).args(["-p", or_none(prefill), "-n", or_none(decode)]);
                command.args(["-d", &depth, "-r", &repetitions, "-t", &threads]);
                command.args(["--profile", profile, "-o", "json"]);
                command
            }
            Kind::Llama { .. } | Kind::IkLlama { .. } => {
                let mut command = Command::new(self.llama(engine));
                command.arg("speed").arg(model);
                command.args([&threads, or_none(prefill), or_none(decode), &depth, &repetitions]);
                command
            }
            Kind::Python { script, options, .. } => {
                let mut command = Command::new(&self.installed.python);
                command.arg("-B").arg(install::scripts().join(script)).arg("--model").arg(model);
                command.args(["--threads", &threads, "--prefill", prefill, "--decode", decode]);
                command.args(["--depth", &depth, "--repetitions", &repetitions]).args(options);
                command
            }
        }
    }

    /// Runs the program that prints the token after the prompt, `repetitions` times in new processes.
    fn start(&self, engine: &Engine, repetitions: usize, cold: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
        let model = text(&self.model(engine));
        let prompt = self.contest.prompt;
        let command = match engine.kind {
            Kind::Aibit { profile, .. } => {
                let mut command = vec![text(&self.installed.aibit), "run".into(), model];
                let options = ["-p", prompt, "-n", "1", "-t", "2", "--temp", "0", "--profile", profile];
                command.extend(options.map(String::from));
                command
            }
            Kind::Llama { .. } | Kind::IkLlama { .. } => {
                vec![text(self.llama(engine)), "start".into(), model, "2".into(), prompt.into()]
            }
            Kind::Python { script, options, .. } => {
                let script = text(&install::scripts().join(script));
                let tokenizer = text(&self.installed.models.join(TOKENIZER));
                let mut command = vec![text(&self.installed.python), "-B".into(), script];
                let arguments =
                    ["--model", &model, "--tokenizer", &tokenizer, "--threads", "2", "--prompt", prompt];
                command.extend(arguments.map(String::from));
                command.extend(options.iter().map(|&option| option.into()));
                command
            }
        };
        self.start_command(&command, repetitions, cold, false)
    }

    fn start_command(
        &self,
        program: &[String],
        repetitions: usize,
        cold: &[PathBuf],
        discard: bool,
    ) -> anyhow::Result<Vec<Value>> {
        let mut command = self.command(&self.installed.python);
        // Without site packages the measuring process is small, and so is what a child inherits of it.
        command.args(["-I", "-S"]).arg(install::scripts().join("start.py"));
        for file in cold {
            command.arg("--cold").arg(file);
        }
        if discard {
            command.arg("--discard");
        }
        let lines = answer(command.arg(repetitions.to_string()).args(program))?;
        let starts: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(starts.len() == repetitions, "{}: {lines}", program.join(" "));
        Ok(starts)
    }

    /// Measures on an idle machine, and again if other processes computed meanwhile: waiting beforehand does not help
    /// against a job that starts later. Also returns whether the last attempt was disturbed.
    fn undisturbed<T>(&mut self, measure: impl Fn(&Self) -> anyhow::Result<T>) -> anyhow::Result<(T, bool)> {
        self.results.measurements += 1;
        let mut tries = 1;
        loop {
            let idle = wait_until_idle()?;
            let before = Times::now()?;
            let value = measure(self)?;
            let disturbed = !idle || Times::now()?.others_since(&before);
            // A machine that did not become idle will not become idle for the next attempt.
            if !disturbed || !idle || tries == TRIES {
                self.results.disturbed += usize::from(disturbed);
                return Ok((value, disturbed));
            }
            tries += 1;
        }
    }
}

/// Waits at most half a minute until the processor is otherwise idle; returns whether it is.
fn wait_until_idle() -> anyhow::Result<bool> {
    for _ in 0..60 {
        let before = Times::now()?;
        sleep(Duration::from_millis(500));
        let after = Times::now()?;
        if ((after.busy - before.busy) as f64) < 0.05 * (after.all - before.all) as f64 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Times of all cores since boot, and of this process and its ended children, in kernel ticks.
struct Times {
    busy: u64,
    all: u64,
    own: u64,
}

impl Times {
    fn now() -> anyhow::Result<Self> {
        let numbers =
            |text: &str| -> Vec<u64> { text.split_whitespace().filter_map(|n| n.parse().ok()).collect() };
        let stat = fs::read_to_string("/proc/stat")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is included in the first two.
        let times = numbers(stat.lines().next().context("/proc/stat is empty")?);
        let all: u64 = times.iter().take(8).sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        // After the program's name, which may contain spaces: user and system time, then those of children.
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields: Vec<&str> = stat.rsplit(") ").next().context("/proc/self/stat")?.split(' ').collect();
        let own = numbers(&fields.get(11..15).context("/proc/self/stat")?.join(" ")).iter().sum();
        Ok(Self { busy: all - idle, all, own })
    }

    /// Whether other processes, or other guests of the host, used more than 3 % of the time since `before`.
    fn others_since(&self, before: &Self) -> bool {
        let others = (self.busy - before.busy).saturating_sub(self.own - before.own);
        // The two clocks round to ticks independently.
        others as f64 > 0.03 * (self.all - before.all) as f64 + 3.0
    }
}

/// Speeds by test, from `aibit bench -o json` or the other engines' output.
fn speeds_of(stdout: &str) -> anyhow::Result<Vec<(String, Vec<f64>)>> {
    let mut tests: Vec<(String, Vec<f64>)> = Vec::new();
    if let Ok(report) = serde_json::from_str::<Value>(stdout)
        && let Some(rows) = report["rows"].as_array()
    {
        for row in rows.iter().filter(|row| row["unit"] == "t/s") {
            let samples = row["samples"].as_array().context("samples")?;
            tests.push((
                row["test"].as_str().context("test")?.to_owned(),
                samples.iter().filter_map(Value::as_f64).collect(),
            ));
        }
        return Ok(tests);
    }
    for line in stdout.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let test = line["test"].as_str().context("test")?;
        let speed = line["tokens_per_s"].as_f64().context("tokens_per_s")?;
        match tests.iter_mut().find(|(known, _)| known == test) {
            Some((_, speeds)) => speeds.push(speed),
            None => tests.push((test.to_owned(), vec![speed])),
        }
    }
    Ok(tests)
}

fn column(starts: &[Value], name: &str) -> anyhow::Result<Vec<f64>> {
    starts.iter().map(|start| start[name].as_f64().with_context(|| format!("no {name}: {start}"))).collect()
}

struct Finished {
    stdout: String,
    private_bytes: u64,
    in_time: bool,
}

/// Runs a program to its end or to the limit; `watch` samples its private memory.
fn run(command: &mut Command, limit: Duration, watch: bool) -> anyhow::Result<Finished> {
    let [stdout, stderr] = ["stdout.txt", "stderr.txt"].map(|name| install::folder().join(name));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let end = Instant::now() + limit;
    let (mut private_bytes, mut in_time) = (0, true);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if watch {
            private_bytes = private_bytes.max(private_memory(child.id()));
        }
        if Instant::now() > end {
            in_time = false;
            child.kill()?;
            child.wait()?;
            break None;
        }
        // Rare enough not to affect the measurement.
        sleep(Duration::from_millis(10));
    };
    if status.is_some_and(|status| !status.success()) {
        bail!("{}: {}", command.get_program().display(), fs::read_to_string(&stderr)?.trim());
    }
    Ok(Finished { stdout: fs::read_to_string(&stdout)?, private_bytes, in_time })
}

/// Private memory: anonymous pages, or private dirty pages if they are more.
fn private_memory(process: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    1024 * field("Private_Dirty:").max(field("Anonymous:")).unwrap_or(0)
}

/// Another process that keeps core 0 busy.
struct Neighbour(Child);

impl Neighbour {
    fn start(python: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(python).args(["-c", "while True: pass"]);
        let neighbour = Self(command.spawn().context("cannot run `taskset`\nhint: install util-linux")?);
        sleep(Duration::from_millis(200));
        Ok(neighbour)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Normally it only ends here; if it ended early, that is an error of its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Results without figures: date, versions and machine.
fn describe(installed: &Installed, contest: &Contest) -> anyhow::Result<Results> {
    let git = |args: &[&str]| answer(Command::new("git").args(args).current_dir(root()));
    let mut commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|_| "unknown".into());
    if git(&["status", "--porcelain", "--", "crates", "Cargo.lock"]).is_ok_and(|changes| !changes.is_empty())
    {
        commit.push_str(" with uncommitted changes");
    }
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib: f64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("MemTotal")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let isa: Vec<&str> = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp"]
        .into_iter()
        .filter(|flag| cpu.split_whitespace().any(|word| word == *flag))
        .collect();
    let first_line = |mut command: Command| -> anyhow::Result<String> {
        Ok(answer(command.arg("--version"))?.lines().next().unwrap_or_default().to_owned())
    };
    let version = |package: &str| {
        let script = format!("import importlib.metadata as m; print(m.version('{package}'))");
        answer(Command::new(&installed.python).args(["-c", &script]))
    };
    let llama = answer(Command::new(&installed.llama).arg("version"))?;
    let mut rows = vec![
        ("processor", model.trim_start_matches([' ', '\t', ':']).to_owned()),
        ("cores", format!("{cores}, with {}", isa.join(", "))),
        ("memory", format!("{:.1} GiB", kib / 1024.0 / 1024.0)),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()),
        ("compilers", format!("{}; {}", first_line(Command::new("rustc"))?, first_line(Command::new("cc"))?)),
        ("aibit", format!("{}, commit {commit}", first_line(Command::new(&installed.aibit))?)),
        (LLAMA.name, format!("of {} {}, {llama}", LLAMA.package, LLAMA.version)),
    ];
    if installed.ik_llama.is_some() {
        rows.push((IK_LLAMA.name, format!("of {} {}", IK_LLAMA.package, IK_LLAMA.version)));
    }
    if contest.built_for.aibit_isa().is_some() {
        rows.push(("used of the processor", "AVX2, FMA and F16C, by all".to_owned()));
    }
    for (name, package, script) in [
        ("ONNX Runtime", "onnxruntime", "onnxruntime_engine.py"),
        ("OpenVINO GenAI", "openvino-genai", "openvino_engine.py"),
        ("CTranslate2", "ctranslate2", "ctranslate2_engine.py"),
    ] {
        let runs = |engine: &Engine| matches!(engine.kind, Kind::Python { script: its, .. } if its == script);
        if contest.engines.iter().any(runs) {
            rows.push((name, version(package)?));
        }
    }
    rows.push(("Python", first_line(Command::new(&installed.python))?));
    Ok(Results {
        date: answer(Command::new("date").args(["-u", "+%F"]))?,
        commit,
        machine: rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        engines: Vec::new(),
        rounds: 0,
        measurements: 0,
        disturbed: 0,
        samples: Vec::new(),
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_output_give_speeds() {
        let lines = "{\"test\": \"pp8\", \"tokens_per_s\": 1.5}\n{\"test\": \"pp8\", \"tokens_per_s\": 2}\n";
        let aibit = r#"{"rows": [{"test": "pp8", "unit": "t/s", "samples": [1.5, 2]},
            {"test": "load", "unit": "ms", "samples": [1]}]}"#;
        for output in [lines, aibit] {
            assert_eq!(speeds_of(output).unwrap(), [("pp8".to_owned(), vec![1.5, 2.0])], "{output}");
        }
        let one = "{\"test\": \"tg1\", \"tokens_per_s\": 3.0}";
        assert_eq!(speeds_of(one).unwrap(), [("tg1".to_owned(), vec![3.0])]);
    }

    #[test]
    fn what_others_compute_is_what_is_left_of_the_busy_time() {
        let before = Times { busy: 100, all: 1000, own: 50 };
        assert!(!Times { busy: 290, all: 1200, own: 240 }.others_since(&before));
        assert!(Times { busy: 290, all: 1200, own: 220 }.others_since(&before));
    }
}
