//! The page of results and its plots.

use std::fmt::Write as _;

use super::contest::{Contest, Engine, Page, Scope, Targets};
use super::plot::{self, Bars, Point, Value};
use super::results::{Key, MACHINE, Measured, READ, Results, Summary};
use crate::shape::{Dimensions, Options};

/// A promised figure and its measurement.
struct Target {
    what: &'static str,
    limits: Limits,
    unit: Unit,
    /// What is compared, if `what` does not say.
    against: String,
    measured: Option<Summary>,
}

/// The required and the desired value.
#[derive(Clone, Copy)]
struct Limits {
    floor: f64,
    goal: Option<f64>,
    more_is_better: bool,
}

impl From<(f64, f64)> for Limits {
    fn from((floor, goal): (f64, f64)) -> Self {
        Self { floor, goal: Some(goal), more_is_better: goal > floor }
    }
}

impl Limits {
    fn at_least(floor: f64) -> Self {
        Self { floor, goal: None, more_is_better: true }
    }

    fn at_most(floor: f64) -> Self {
        Self { floor, goal: None, more_is_better: false }
    }

    fn reaches(&self, value: f64, limit: f64) -> bool {
        if self.more_is_better { value >= limit } else { value <= limit }
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Times,
    Megabytes,
    /// A fraction of one.
    Share,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.2}×"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Share => format!("{:.0} %", 100.0 * value),
        }
    }
}

impl Target {
    fn times(what: &'static str, limits: impl Into<Limits>, measured: Option<Summary>) -> Self {
        Self { what, limits: limits.into(), unit: Unit::Times, against: String::new(), measured }
    }

    fn verdict(&self) -> &'static str {
        let Some(Summary { median, .. }) = self.measured else { return "not measured" };
        let Limits { floor, goal, .. } = self.limits;
        match goal {
            Some(goal) if self.limits.reaches(median, goal) => "goal met",
            _ if self.limits.reaches(median, floor) => "floor met",
            _ => "**missed**",
        }
    }
}

const LLAMA: &str = "llama-q8_0";
const IK_LLAMA: &str = "ik_llama-q8_0";

/// aibit's own figures.
const fn own(test: &str, threads: usize) -> Key<'_> {
    Key("aibit", test, threads)
}

/// Every target of a model's page, in its order.
fn all_targets(contest: &Contest, results: &Results) -> Vec<Target> {
    match contest.page.targets {
        Targets::Gpt2 => gpt2_targets(contest, results),
        Targets::Smollm2 => smollm2_targets(results),
        Targets::Avx2 => avx2_targets(results),
        Targets::Llama1b => llama_1b_targets(contest, results),
    }
}

/// A target for the worst of several ratios.
fn worst(
    what: &'static str,
    limits: impl Into<Limits>,
    of: impl IntoIterator<Item = (&'static str, Option<Summary>)>,
) -> Target {
    let measured: Option<Vec<_>> = of.into_iter().map(|(name, summary)| Some((name, summary?))).collect();
    let least = measured.and_then(|all| all.into_iter().min_by(|a, b| a.1.median.total_cmp(&b.1.median)));
    Target {
        against: least.map(|(name, _)| format!("least: {name}")).unwrap_or_default(),
        ..Target::times(what, limits, least.map(|(_, summary)| summary))
    }
}

/// The bandwidth at which an engine reads weights in decode, as a share of the machine's read bandwidth in the same round.
fn read_share(contest: &Contest, results: &Results, engine: &str, threads: usize) -> Option<Summary> {
    let dimensions = Dimensions::of(contest.shape?, &Options::default()).ok()?;
    let bytes = dimensions.bytes_per_token() as f64;
    let summary = results.ratio(Key(engine, "tg128", threads), Key(MACHINE, READ, threads))?;
    let Summary { min, median, max, rounds } = summary;
    Some(Summary { min: bytes * min, median: bytes * median, max: bytes * max, rounds })
}

fn smollm2_targets(results: &Results) -> Vec<Target> {
    let against_llama = |test, threads| results.ratio(own(test, threads), Key(LLAMA, test, threads));
    vec![
        Target::times(
            "decode, 2 threads, against llama.cpp Q8_0",
            Limits::at_least(1.3),
            against_llama("tg128", 2),
        ),
        Target::times(
            "prefill of 512 tokens against llama.cpp Q8_0",
            Limits::at_least(2.5),
            against_llama("pp512", 2),
        ),
        Target::times(
            "time to the first token against llama.cpp's library",
            Limits::at_most(0.5),
            against_llama("first token", 2),
        ),
    ]
}

fn avx2_targets(results: &Results) -> Vec<Target> {
    let prefill = |peer| results.ratio(own("pp512", 2), Key(peer, "pp512", 2));
    vec![
        Target::times(
            "prefill of 512 tokens against ik_llama.cpp Q8_0",
            Limits::at_least(1.5),
            prefill(IK_LLAMA),
        ),
        Target::times("prefill of 512 tokens against llama.cpp Q8_0", Limits::at_least(1.8), prefill(LLAMA)),
    ]
}

fn llama_1b_targets(contest: &Contest, results: &Results) -> Vec<Target> {
    let gains = [("gain 0.05", "aibit-norms0.05"), ("gain 1", "aibit"), ("gain 8", "aibit-norms8")];
    let share = gains.map(|(name, id)| (name, read_share(contest, results, id, 2)));
    let against = |test: &'static str, peer: &'static str| {
        gains.map(|(name, id)| (name, results.ratio(Key(id, test, 2), Key(peer, test, 2))))
    };
    vec![
        Target {
            unit: Unit::Share,
            ..worst("decode, 2 threads, share of the read bandwidth", Limits::at_least(0.88), share)
        },
        worst("decode against llama.cpp Q8_0", Limits::at_least(1.2), against("tg128", LLAMA)),
        worst("decode against ik_llama.cpp Q8_0", Limits::at_least(1.1), against("tg128", IK_LLAMA)),
        worst("prefill of 512 tokens against llama.cpp Q8_0", Limits::at_least(2.5), against("pp512", LLAMA)),
    ]
}

fn gpt2_targets(contest: &Contest, results: &Results) -> Vec<Target> {
    let ratio = |a: Key<'_>, b: Key<'_>| results.ratio(a, b);
    let times = |what, bounds: (f64, f64), measured| Target::times(what, bounds, measured);
    let fastest = |what, test, bounds| {
        let peers = || results.engines.iter().filter(|engine| !engine.id.starts_with("aibit"));
        let median = |peer: &Measured| results.summary(Key(&peer.id, test, 2)).map(|summary| summary.median);
        // Without every peer's figure, the fastest of the rest could be too easy a target.
        if let Some(missing) = peers().find(|peer| median(peer).is_none()) {
            let against = format!("no figure for {}", missing.label);
            return Target { against, ..times(what, bounds, None) };
        }
        let peer = peers().max_by(|a, b| median(a).unwrap_or(0.0).total_cmp(&median(b).unwrap_or(0.0)));
        let against = peer.map(|peer| peer.label.clone()).unwrap_or_default();
        let measured = peer.and_then(|peer| ratio(own(test, 2), Key(&peer.id, test, 2)));
        Target { against, ..times(what, bounds, measured) }
    };
    let megabytes = |what, (floor, goal), test, minus: f64| {
        let of = |value: f64| (value - minus) / 1e6;
        let measured = results.summary(own(test, 2)).map(|s| Summary {
            min: of(s.min),
            median: of(s.median),
            max: of(s.max),
            rounds: s.rounds,
        });
        Target { unit: Unit::Megabytes, ..times(what, (floor, goal), measured) }
    };
    let file_bytes = results.engine("aibit").map_or(0.0, |engine| engine.file_bytes as f64);
    let outliers = |test| (test, ratio(Key("aibit-outliers", test, 2), own(test, 2)));
    let held = |name, test| (name, ratio(own(test, 2), own(test, 1)));
    vec![
        times(
            "decode, 2 threads, against llama.cpp Q8_0",
            (1.25, 1.45),
            ratio(own("tg128", 2), Key(LLAMA, "tg128", 2)),
        ),
        times(
            "decode, 1 thread, against llama.cpp Q8_0",
            (1.4, 1.6),
            ratio(own("tg128", 1), Key(LLAMA, "tg128", 1)),
        ),
        Target {
            unit: Unit::Share,
            ..Target::times(
                "decode, 1 thread, share of the read bandwidth",
                Limits::at_least(0.9),
                read_share(contest, results, "aibit", 1),
            )
        },
        fastest("prefill of 128 tokens against the fastest peer", "pp128", (1.1, 1.3)),
        fastest("prefill of 512 tokens against the fastest peer", "pp512", (1.15, 1.4)),
        times(
            "prefill of 512 tokens against llama.cpp Q8_0",
            (3.0, 3.7),
            ratio(own("pp512", 2), Key(LLAMA, "pp512", 2)),
        ),
        times(
            "time to the first token against llama.cpp's library",
            (0.35, 0.2),
            ratio(own("first token", 2), Key(LLAMA, "first token", 2)),
        ),
        times(
            "the same with a cold page cache, against reading the file once",
            (1.1, 1.0),
            ratio(own("first token, cold", 2), own("reading the file, cold", 2)),
        ),
        times(
            "decode after 1000 tokens against an empty context",
            (0.75, 0.85),
            ratio(own("tg24 @ d1000", 2), own("tg24", 2)),
        ),
        megabytes("peak memory above the file", (30.0, 15.0), "peak memory", file_bytes),
        megabytes("private memory with 1024 tokens of context", (40.0, 25.0), "private memory", 0.0),
        worst(
            "six outlier channels against none",
            (0.9, 0.97),
            [outliers("pp128"), outliers("pp512"), outliers("tg128")],
        ),
        worst(
            "one core busy with another process: 2 threads against 1",
            (0.8, 1.0),
            [held("decode", "tg32, one core held"), held("prefill", "pp512, one core held")],
        ),
        times(
            "decode, profile precise against fast",
            (0.93, 0.98),
            ratio(Key("aibit-precise", "tg128", 2), own("tg128", 2)),
        ),
    ]
}

/// The table of targets.
pub(super) fn targets(contest: &Contest, results: &Results) -> String {
    let mut rows = String::from(
        "| | floor | goal | measured | over rounds | rounds | |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for target in all_targets(contest, results) {
        let Limits { floor, goal, more_is_better } = target.limits;
        let unit = target.unit;
        let limit = |value| format!("{} {}", if more_is_better { '≥' } else { '≤' }, unit.show(value));
        let against =
            if target.against.is_empty() { String::new() } else { format!(" ({})", target.against) };
        let (measured, range, rounds) = target.measured.map_or_else(
            || ("–".to_owned(), "–".to_owned(), 0),
            |s| (unit.show(s.median), format!("{} to {}", unit.show(s.min), unit.show(s.max)), s.rounds),
        );
        let _ = writeln!(
            rows,
            "| {}{against} | {} | {} | {measured} | {range} | {rounds} | {} |",
            target.what,
            limit(floor),
            goal.map_or_else(|| "–".to_owned(), limit),
            target.verdict()
        );
    }
    rows
}

/// The complete page.
pub(super) fn text(contest: &Contest, results: &Results) -> String {
    let Page { title, about, command, .. } = contest.page;
    let mut page = String::new();
    let _ = write!(
        page,
        "# {title}\n\n\
         {about} Measured on {} by `{command}`, which installs the engines, creates their models, measures and \
         writes this page.\n\n\
         ## Targets\n\n\
         Ratios are of speeds, or of times where the row names a time; each is the median over {} rounds, in which both \
         engines ran alternately. Speeds are with 2 threads unless stated otherwise.\n\n{}\n",
        results.date,
        results.rounds,
        targets(contest, results)
    );
    page.push_str(&method(contest, results));
    page.push_str(&speeds(contest, results));
    if contest.scope == Scope::All {
        page.push_str(&starts(contest, results));
        page.push_str(&long_context(results));
    }
    if let Some((heading, about)) = contest.page.variants
        && results.engines.iter().any(|engine| Engine::is_variant(&engine.id))
    {
        page.push_str(&variants(heading, about, results));
    }
    if contest.scope == Scope::All {
        page.push_str(&neighbour(results));
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn method(contest: &Contest, results: &Results) -> String {
    let Contest { prompt, prompt_tokens, page: Page { model, engines, .. }, .. } = contest;
    let mut text = String::from("## Method\n\n| | |\n| --- | --- |\n");
    for (name, value) in &results.machine {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    let Results { measurements, disturbed, .. } = results;
    let waited = if *disturbed == 0 {
        format!("All {measurements} measurements are undisturbed.")
    } else {
        format!(
            "**{disturbed} of {measurements} measurements were disturbed at every attempt and are excluded from all figures.**"
        )
    };
    let (answers, cold) = match contest.scope {
        Scope::All => (
            "each engine generates the token shown in the table of start times".to_owned(),
            "- **Cold**: the file is dropped from the page cache, then more free memory than the file needs is touched, \
             because a virtual machine may have returned free memory to its host (about 40 ms for 130 MB here, and only \
             for engines that read in large pages).\n",
        ),
        Scope::Speeds => {
            let says = |engine: &Measured| format!("{} \"{}\"", engine.label, engine.first_token);
            let all: Vec<String> = results.engines.iter().map(says).collect();
            (format!("they generate: {}", all.join(", ")), "")
        }
    };
    let _ = write!(
        text,
        "\n- **Model**: {model} After \"{prompt}\" ({prompt_tokens} tokens) {answers}.\n\
         - **Rounds**: {}; in each round every engine runs every test, so that all are subject to the same conditions. A \
         speed is measured in three repetitions after a warm-up. Tables give the median of the rounds' medians, and in \
         parentheses the minimum and maximum of all repetitions.\n\
         - **Idle**: a measurement waits until the processor has been less than 5 % busy for half a second, and is \
         repeated, at most twice, if other processes or guests used more than 3 % meanwhile. {waited}\n\
         {cold}\
         - **Cores**: on this kind of virtual machine the two cores sometimes share a last-level cache and sometimes do \
         not (a cache line takes 35 ns or 170 ns from one to the other), for minutes at a time. Prefill is faster in the \
         first case, decode in the second; the ranges include both.\n\
         - **Tests**: `pp128` and `pp512` compute a prompt of that many tokens, with logits for the last one only. `tg128` \
         generates 128 tokens one by one from an empty context. These are the tests of llama.cpp's own benchmark.\n\
         - **Engines**: {engines}\n\n",
        results.rounds
    );
    text
}

fn main_engines(results: &Results) -> impl Iterator<Item = &Measured> {
    results.engines.iter().filter(|engine| !Engine::is_variant(&engine.id))
}

fn cell(results: &Results, key: Key<'_>, divisor: f64) -> String {
    results.summary(key).map_or_else(
        || "–".to_owned(),
        |s| format!("{:.0} ({:.0}–{:.0})", s.median / divisor, s.min / divisor, s.max / divisor),
    )
}

fn megabytes(engine: &Measured) -> f64 {
    engine.file_bytes as f64 / 1e6
}

fn speeds(contest: &Contest, results: &Results) -> String {
    let plots = contest.page.name;
    let mut text = format!(
        "## Speed\n\n\
         ![Decode speed against file size]({plots}/decode.svg)\n\n\
         ![Prefill speed]({plots}/prefill.svg)\n\n\
         Tokens per second.\n\n",
    );
    for (threads, name) in [(2, "2 threads"), (1, "1 thread")] {
        let _ =
            writeln!(text, "| {name} | file | pp128 | pp512 | tg128 |\n| --- | ---: | ---: | ---: | ---: |");
        for engine in main_engines(results) {
            let _ = write!(text, "| {} | {:.1} MB |", engine.label, megabytes(engine));
            for test in ["pp128", "pp512", "tg128"] {
                let _ = write!(text, " {} |", cell(results, Key(&engine.id, test, threads), 1.0));
            }
            text.push('\n');
        }
        if let Some(bandwidth) = results.summary(Key(MACHINE, READ, threads)) {
            let _ = writeln!(
                text,
                "\nRead bandwidth of the machine with the same number of threads: {:.1} GB/s ({:.1} to {:.1}; `limits::read_bandwidth` of 512 MiB).",
                bandwidth.median / 1e9,
                bandwidth.min / 1e9,
                bandwidth.max / 1e9
            );
            for engine in results.engines.iter().filter(|engine| engine.id.starts_with("aibit")) {
                if let Some(share) = read_share(contest, results, &engine.id, threads) {
                    let _ = writeln!(
                        text,
                        "In decode, {} reads weights at {:.0} % of that.",
                        engine.label,
                        100.0 * share.median
                    );
                }
            }
        }
        text.push('\n');
    }
    text
}

fn starts(contest: &Contest, results: &Results) -> String {
    let (plots, prompt) = (contest.page.name, contest.prompt);
    let mut text = format!(
        "## Start and memory\n\n\
         ![Time to the first token]({plots}/start.svg)\n\n\
         ![Peak memory]({plots}/memory.svg)\n\n\
         Time from the start of a new process to the first byte of the first token, and to the end of the process, for \
         \"{prompt}\" with 2 threads and all files in the page cache; peak resident memory of that process, including \
         mapped weights.\n\n\
         | | first token, ms | process end, ms | peak memory, MB | above the file, MB | output |\n\
         | --- | ---: | ---: | ---: | ---: | --- |\n"
    );
    for engine in main_engines(results) {
        let above = results
            .summary(Key(&engine.id, "peak memory", 2))
            .map_or_else(|| "–".to_owned(), |s| format!("{:.1}", s.median / 1e6 - megabytes(engine)));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {above} | \"{}\" |",
            engine.label,
            cell(results, Key(&engine.id, "first token", 2), 1.0),
            cell(results, Key(&engine.id, "process end", 2), 1.0),
            cell(results, Key(&engine.id, "peak memory", 2), 1e6),
            engine.first_token.replace('|', "\\|").replace('\n', "\\n")
        );
    }
    text.push_str(
        "\nThe same with the model file dropped from the page cache before each start, compared with the time that `cat` \
         takes to read the file, also dropped before; in ms.\n\n\
         | | first token | reading the file |\n| --- | ---: | ---: |\n",
    );
    for engine in main_engines(results) {
        let cold = Key(&engine.id, "first token, cold", 2);
        if results.summary(cold).is_some() {
            let read = cell(results, Key(&engine.id, "reading the file, cold", 2), 1.0);
            let _ = writeln!(text, "| {} | {} | {read} |", engine.label, cell(results, cold, 1.0));
        }
    }
    text.push_str(
        "\nPeak private memory of the process (anonymous pages) while it computes 1024 tokens of context: KV cache, \
         activations and copies of weights.\n\n| | private memory, MB |\n| --- | ---: |\n",
    );
    for engine in main_engines(results) {
        let private = Key(&engine.id, "private memory", 2);
        if results.summary(private).is_some() {
            let _ = writeln!(text, "| {} | {} |", engine.label, cell(results, private, 1e6));
        }
    }
    text.push('\n');
    text
}

fn long_context(results: &Results) -> String {
    let mut text = String::from(
        "## Long context\n\nGeneration of 24 tokens from an empty context and after 1000 tokens, 2 threads, tokens per second.\n\n\
         | | empty context | after 1000 tokens |\n| --- | ---: | ---: |\n",
    );
    for engine in main_engines(results) {
        let after = Key(&engine.id, "tg24 @ d1000", 2);
        if results.summary(after).is_some() {
            let empty = cell(results, Key(&engine.id, "tg24", 2), 1.0);
            let _ = writeln!(text, "| {} | {empty} | {} |", engine.label, cell(results, after, 1.0));
        }
    }
    text.push('\n');
    text
}

fn variants(heading: &str, about: &str, results: &Results) -> String {
    let mut text = format!(
        "## {heading}\n\n{about} 2 threads, tokens per second.\n\n\
         | | pp128 | pp512 | tg128 |\n| --- | ---: | ---: | ---: |\n"
    );
    for engine in results.engines.iter().filter(|e| e.id == "aibit" || Engine::is_variant(&e.id)) {
        let _ = write!(text, "| {} |", engine.label);
        for test in ["pp128", "pp512", "tg128"] {
            let _ = write!(text, " {} |", cell(results, Key(&engine.id, test, 2), 1.0));
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

fn neighbour(results: &Results) -> String {
    let mut text = String::from(
        "## A busy neighbour\n\n\
         Another process keeps one of the two cores busy; tokens per second. A dash: not finished within a minute, or disturbed by other processes.\n\n\
         | | decode, 2 threads | decode, 1 thread | pp512, 2 threads | pp512, 1 thread |\n\
         | --- | ---: | ---: | ---: | ---: |\n",
    );
    for engine in main_engines(results) {
        let tests = ["tg32, one core held", "pp512, one core held"];
        let keys = tests.map(|test| [2, 1].map(|threads| Key(&engine.id, test, threads)));
        if keys.iter().flatten().any(|key| results.summary(*key).is_some()) {
            let _ = write!(text, "| {} |", engine.label);
            for key in keys.into_iter().flatten() {
                let _ = write!(text, " {} |", cell(results, key, 1.0));
            }
            text.push('\n');
        }
    }
    text
}

/// The page's plots: file names and contents.
pub(super) fn plots(contest: &Contest, results: &Results) -> Vec<(&'static str, String)> {
    let start =
        format!("From process start to the first token, {}-token prompt, 2 threads", contest.prompt_tokens);
    let value = |id: &str, test, divisor: f64| -> Option<Value> {
        let Summary { min, median, max, .. } = results.summary(Key(id, test, 2))?;
        Some(Value { median: median / divisor, range: Some((min / divisor, max / divisor)) })
    };
    let rows = |of: &dyn Fn(&Measured) -> Vec<Option<Value>>| -> Vec<Bars> {
        main_engines(results).map(|e| Bars { label: e.label.clone(), values: of(e) }).collect()
    };
    let points: Vec<Point> = main_engines(results)
        .filter_map(|engine| {
            Some(Point {
                label: engine.label.clone(),
                x: megabytes(engine),
                y: value(&engine.id, "tg128", 1.0)?,
            })
        })
        .collect();
    let mut plots = vec![
        (
            "decode.svg",
            plot::scatter(
                "Decode speed against file size, 2 threads",
                "file size, MB (left is smaller)",
                "tokens per second (up is faster)",
                &points,
            ),
        ),
        (
            "prefill.svg",
            plot::bars(
                "Prefill, 2 threads",
                "tokens per second (longer is faster)",
                &["128 tokens", "512 tokens"],
                &rows(&|e| vec![value(&e.id, "pp128", 1.0), value(&e.id, "pp512", 1.0)]),
            ),
        ),
    ];
    if contest.scope == Scope::All {
        plots.extend([
            (
                "start.svg",
                plot::bars(
                    &start,
                    "milliseconds (shorter is faster)",
                    &[""],
                    &rows(&|e| vec![value(&e.id, "first token", 1.0)]),
                ),
            ),
            (
                "memory.svg",
                plot::bars(
                    "Peak memory of that process, and the size of the model's files",
                    "MB (shorter is less)",
                    &["peak memory", "files"],
                    &rows(&|e| {
                        let files = Value { median: megabytes(e), range: None };
                        vec![value(&e.id, "peak memory", 1e6), Some(files)]
                    }),
                ),
            ),
        ]);
    }
    plots
}

#[cfg(test)]
mod tests {
    use super::super::contest::CONTESTS;
    use super::super::llama::BuiltFor;
    use super::*;

    fn gpt2() -> &'static Contest {
        Contest::of("gpt2", BuiltFor::Native).unwrap()
    }

    #[test]
    fn verdicts_follow_the_direction_of_the_goal() {
        let verdict = |limits: Limits, median| {
            let measured = Some(Summary { min: median, median, max: median, rounds: 1 });
            Target::times("", limits, measured).verdict()
        };
        assert_eq!(verdict((1.2, 1.4).into(), 1.4), "goal met");
        assert_eq!(verdict((1.2, 1.4).into(), 1.3), "floor met");
        assert_eq!(verdict((1.2, 1.4).into(), 1.1), "**missed**");
        assert_eq!(verdict((0.35, 0.2).into(), 0.2), "goal met");
        assert_eq!(verdict((0.35, 0.2).into(), 0.3), "floor met");
        assert_eq!(verdict((0.35, 0.2).into(), 0.4), "**missed**");
        assert_eq!(verdict(Limits::at_least(1.3), 1.3), "floor met");
        assert_eq!(verdict(Limits::at_least(1.3), 1.2), "**missed**");
        assert_eq!(verdict(Limits::at_most(0.5), 0.4), "floor met");
        assert_eq!(verdict(Limits::at_most(0.5), 0.6), "**missed**");
    }

    #[test]
    fn the_fastest_peer_is_compared_and_what_is_missing_is_named_so() {
        let table = targets(gpt2(), &Results::example());
        let row = table.lines().find(|line| line.contains("prefill of 128")).unwrap();
        assert!(row.contains("(peer)") && row.contains("| 1.50× | 1.00× to 2.00× | 2 | goal met |"), "{row}");
        assert!(
            table
                .lines()
                .any(|line| line.contains("precise") && line.ends_with("| – | – | 0 | not measured |"))
        );
    }

    #[test]
    fn the_fastest_is_not_chosen_among_a_part_of_the_peers() {
        let mut results = Results::example();
        results.engines.push(Measured {
            id: "other".into(),
            label: "Other".into(),
            ..results.engines[1].clone()
        });
        let table = targets(gpt2(), &results);
        let row = table.lines().find(|line| line.contains("prefill of 128")).unwrap();
        assert!(row.contains("(no figure for Other)") && row.ends_with("not measured |"), "{row}");
    }

    #[test]
    fn a_target_without_a_goal_states_its_floor_alone() {
        let mut results = Results::example();
        for sample in &mut results.samples {
            sample.test = "first token".into();
        }
        for (engine, sample) in ["aibit", LLAMA, "aibit", LLAMA].into_iter().zip(&mut results.samples) {
            sample.engine = engine.into();
        }
        let table = targets(Contest::of("smollm2", BuiltFor::Native).unwrap(), &results);
        let row = table.lines().find(|line| line.contains("first token")).unwrap();
        assert!(row.ends_with("| ≤ 0.50× | – | 1.50× | 1.00× to 2.00× | 2 | **missed** |"), "{row}");
    }

    #[test]
    fn every_plot_of_a_page_is_made() {
        let results = Results::example();
        for contest in &CONTESTS {
            let page = text(contest, &results);
            for (name, svg) in plots(contest, &results) {
                assert!(page.contains(&format!("]({}/{name})", contest.page.name)), "{name}");
                assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{name}");
            }
        }
    }

    #[test]
    fn a_page_has_a_section_on_variants_only_where_there_are_some() {
        let mut results = Results::example();
        let has_section = |results: &Results| text(gpt2(), results).contains("\n## Profiles and outliers\n");
        assert!(!has_section(&results));
        results.engines[1].id = "aibit-precise".into();
        assert!(has_section(&results));
    }
}
