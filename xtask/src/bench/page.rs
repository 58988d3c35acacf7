//! `docs/performance.md` and its plots, from the results alone.

use std::fmt::Write as _;

use super::install::OUTLIERS;
use super::peers::{Engine, PROMPT};
use super::plot::{self, Bars, Point, Value};
use super::results::{Key, Measured, Results, Summary};

/// What the project promises, and what was measured.
struct Target {
    what: &'static str,
    floor: f64,
    /// Above the floor if more is better, else below it.
    goal: f64,
    unit: Unit,
    /// What the figure compares, where the name leaves it open.
    against: String,
    measured: Option<Summary>,
}

#[derive(Clone, Copy)]
enum Unit {
    Times,
    Megabytes,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.2}×"),
            Self::Megabytes => format!("{value:.1} MB"),
        }
    }
}

impl Target {
    fn verdict(&self) -> &'static str {
        let sign = (self.goal - self.floor).signum();
        match self.measured {
            None => "not measured",
            Some(summary) if sign * summary.median >= sign * self.goal => "goal met",
            Some(summary) if sign * summary.median >= sign * self.floor => "floor met",
            Some(_) => "**missed**",
        }
    }
}

/// Every target in the order of the page.
fn all_targets(results: &Results) -> Vec<Target> {
    let ratio = |a: Key<'_>, b: Key<'_>| results.ratio(a, b);
    let llama = "llama-q8_0";
    let own = |test, threads| Key("aibit", test, threads);
    let times = |what, (floor, goal), measured| Target {
        what,
        floor,
        goal,
        unit: Unit::Times,
        against: String::new(),
        measured,
    };
    let fastest = |what, test, bounds| {
        let peers = || results.engines.iter().filter(|engine| !engine.id.starts_with("aibit"));
        let median = |peer: &Measured| results.summary(Key(&peer.id, test, 2)).map(|summary| summary.median);
        // The fastest of those that happen to have a figure would flatter.
        if let Some(missing) = peers().find(|peer| median(peer).is_none()) {
            let against = format!("no figure for {}", missing.label);
            return Target { against, ..times(what, bounds, None) };
        }
        let peer = peers().max_by(|a, b| median(a).unwrap_or(0.0).total_cmp(&median(b).unwrap_or(0.0)));
        let against = peer.map(|peer| peer.label.clone()).unwrap_or_default();
        let measured = peer.and_then(|peer| ratio(own(test, 2), Key(&peer.id, test, 2)));
        Target { against, ..times(what, bounds, measured) }
    };
    // Of several tests the one that does worst counts.
    let worst = |what, bounds, of: &[(&str, Key<'_>, Key<'_>)]| {
        let measured: Option<Vec<_>> = of.iter().map(|(name, a, b)| Some((*name, ratio(*a, *b)?))).collect();
        let least = measured.and_then(|all| all.into_iter().min_by(|a, b| a.1.median.total_cmp(&b.1.median)));
        Target {
            against: least.map(|(name, _)| format!("least: {name}")).unwrap_or_default(),
            ..times(what, bounds, least.map(|(_, summary)| summary))
        }
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
    let outliers = |test| (test, Key("aibit-outliers", test, 2), own(test, 2));
    let held = |name, test| (name, own(test, 2), own(test, 1));
    vec![
        times(
            "decode, 2 threads, against llama.cpp Q8_0",
            (1.25, 1.45),
            ratio(own("tg128", 2), Key(llama, "tg128", 2)),
        ),
        times(
            "decode, 1 thread, against llama.cpp Q8_0",
            (1.4, 1.6),
            ratio(own("tg128", 1), Key(llama, "tg128", 1)),
        ),
        fastest("prefill of 128 tokens against the fastest peer", "pp128", (1.1, 1.3)),
        fastest("prefill of 512 tokens against the fastest peer", "pp512", (1.15, 1.4)),
        times(
            "prefill of 512 tokens against llama.cpp Q8_0",
            (3.0, 3.7),
            ratio(own("pp512", 2), Key(llama, "pp512", 2)),
        ),
        times(
            "time to the first token against llama.cpp's library",
            (0.35, 0.2),
            ratio(own("first token", 2), Key(llama, "first token", 2)),
        ),
        times(
            "the same, model not in the page cache, against reading its file once",
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
            &[outliers("pp128"), outliers("pp512"), outliers("tg128")],
        ),
        worst(
            "one core held by another process: 2 threads against 1",
            (0.8, 1.0),
            &[held("decode", "tg32, one core held"), held("prefill", "pp512, one core held")],
        ),
        times(
            "decode, profile precise against fast",
            (0.93, 0.98),
            ratio(Key("aibit-precise", "tg128", 2), own("tg128", 2)),
        ),
    ]
}

/// The table of targets.
pub(super) fn targets(results: &Results) -> String {
    let mut rows = String::from(
        "| | floor | goal | measured | over rounds | rounds | |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for target in all_targets(results) {
        let sign = if target.goal > target.floor { '≥' } else { '≤' };
        let unit = target.unit;
        let against =
            if target.against.is_empty() { String::new() } else { format!(" ({})", target.against) };
        let (measured, range, rounds) = target.measured.map_or_else(
            || ("–".to_owned(), "–".to_owned(), 0),
            |s| (unit.show(s.median), format!("{} to {}", unit.show(s.min), unit.show(s.max)), s.rounds),
        );
        let _ = writeln!(
            rows,
            "| {}{against} | {sign} {} | {sign} {} | {measured} | {range} | {rounds} | {} |",
            target.what,
            unit.show(target.floor),
            unit.show(target.goal),
            target.verdict()
        );
    }
    rows
}

/// The whole page.
pub(super) fn text(results: &Results) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "# Performance\n\n\
         aibit against the engines that people run GPT-2 with today, all on the same weights, machine and prompt. \
         Measured on {} by `cargo xtask bench --peers`, which installs the engines, makes their models, measures and \
         writes this page. Where a peer is faster, the tables say so.\n\n\
         ## Targets\n\n\
         Ratios are of speeds, or of times where a time is named; each is the median of {} rounds, within which both \
         sides ran in turns. Speeds are of 2 threads where nothing else is said.\n\n{}\n",
        results.date,
        results.rounds,
        targets(results)
    );
    page.push_str(&method(results));
    page.push_str(&speeds(results));
    page.push_str(&starts(results));
    page.push_str(&rest(results));
    page
}

fn method(results: &Results) -> String {
    let mut text = String::from("## What was measured, and how\n\n| | |\n| --- | --- |\n");
    for (name, value) in &results.machine {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    let Results { measurements, disturbed, .. } = results;
    let waited = if *disturbed == 0 {
        format!("All {measurements} measurements are undisturbed.")
    } else {
        format!(
            "**{disturbed} of {measurements} measurements were disturbed at every try and are left out of every figure.**"
        )
    };
    let _ = write!(
        text,
        "\n- **Model**: GPT-2's 124M shape with seeded weights, as `cargo xtask shape` makes it: speed does not depend \
         on the values, and no download is needed. Every engine's model is made of the same F16 weights by the scripts \
         in `benches/peers`. After \"{PROMPT}\" (8 tokens) each engine gives the token that the table of starts shows.\n\
         - **Rounds**: {} of them; in each one every engine takes its turn at every test, so that all see the same \
         moods of the machine. A speed is three repetitions after one that does not count. Tables give the median of \
         the rounds' medians, and in brackets the least and the largest of all repetitions.\n\
         - **Idle**: a measurement waits until less than 5 % of the processor was busy for half a second, and is made \
         again, at most twice, if other processes or guests took more than 3 % meanwhile. {waited}\n\
         - **Cold**: a file is dropped from the page cache, then free memory is touched, more than the file needs: a \
         virtual machine that has given free memory back to its host would otherwise be what is measured (about 40 ms \
         for 130 MB here, and only of those that read in large pages).\n\
         - **Cores**: on this kind of virtual machine the two cores sometimes share a last-level cache and sometimes do \
         not (a cache line takes 35 ns or 170 ns from one to the other), for minutes at a time. In the first case \
         prefill is faster, in the second decode; ranges show both.\n\
         - **Tests**: `pp128` and `pp512` compute a prompt of that many tokens, logits for the last one only. `tg128` \
         generates 128 tokens one by one from an empty context. As in llama.cpp's own benchmark.\n\
         - **Engines**: llama.cpp is built for this processor and called from a small C program on its library \
         (`benches/peers/llama.c`); the others are called from Python as their documentation shows, which costs little \
         at these lengths but is part of their starts. ONNX Runtime's model has one scale per output channel and keeps \
         the embedding in f32 beside the int8 head; OpenVINO's has the form that its exporter gives a decoder, \
         compressed by NNCF. OpenVINO computes in bfloat16 where the processor can.\n\n",
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

fn speeds(results: &Results) -> String {
    let mut text = String::from(
        "## Speed\n\n\
         ![Decode speed against file size](performance/decode.svg)\n\n\
         ![Prefill speed](performance/prefill.svg)\n\n\
         In tokens per second.\n\n",
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
        text.push('\n');
    }
    text
}

fn starts(results: &Results) -> String {
    let mut text = format!(
        "## Start and memory\n\n\
         ![Time to the first token](performance/start.svg)\n\n\
         ![Peak memory](performance/memory.svg)\n\n\
         From the start of a new process to the first byte of the first token, and to the process's end, for \
         \"{PROMPT}\" with 2 threads and all files in the page cache; peak resident memory of that process, mapped \
         weights included.\n\n\
         | | first token, ms | process end, ms | peak memory, MB | above the file, MB | it says |\n\
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
        "\nWith the model's file dropped from the page cache before each start, beside the time in which `cat` reads \
         the same file, dropped likewise; in ms.\n\n\
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
        "\nMemory of the process alone (anonymous pages, at their most) while it computes 1024 tokens of context: cache, \
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

fn rest(results: &Results) -> String {
    let mut text = String::from(
        "## Long context\n\n24 tokens generated after none and after 1000, 2 threads, tokens per second.\n\n\
         | | empty context | after 1000 tokens |\n| --- | ---: | ---: |\n",
    );
    for engine in main_engines(results) {
        let after = Key(&engine.id, "tg24 @ d1000", 2);
        if results.summary(after).is_some() {
            let empty = cell(results, Key(&engine.id, "tg24", 2), 1.0);
            let _ = writeln!(text, "| {} | {empty} | {} |", engine.label, cell(results, after, 1.0));
        }
    }
    let _ = write!(
        text,
        "\n## Profiles and outliers\n\n\
         Profile `precise` gives activations two bytes; {OUTLIERS} of the 768 channels behind every layer norm are 25 \
         times the others in the package with outliers, as trained models have them. 2 threads, tokens per second.\n\n\
         | | pp128 | pp512 | tg128 |\n| --- | ---: | ---: | ---: |\n"
    );
    for engine in results.engines.iter().filter(|e| e.id == "aibit" || Engine::is_variant(&e.id)) {
        let _ = write!(text, "| {} |", engine.label);
        for test in ["pp128", "pp512", "tg128"] {
            let _ = write!(text, " {} |", cell(results, Key(&engine.id, test, 2), 1.0));
        }
        text.push('\n');
    }
    text.push_str(
        "\n## A busy neighbour\n\n\
         Another process never leaves one of the two cores; tokens per second. A dash: not done within a minute, or disturbed by more than that process.\n\n\
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
pub(super) fn plots(results: &Results) -> Vec<(&'static str, String)> {
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
    vec![
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
        (
            "start.svg",
            plot::bars(
                "From process start to the first token, 8-token prompt, 2 threads",
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
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_direction_of_the_goal() {
        let verdict = |floor, goal, median| {
            let measured = Some(Summary { min: median, median, max: median, rounds: 1 });
            Target { what: "", floor, goal, unit: Unit::Times, against: String::new(), measured }.verdict()
        };
        assert_eq!(verdict(1.2, 1.4, 1.4), "goal met");
        assert_eq!(verdict(1.2, 1.4, 1.3), "floor met");
        assert_eq!(verdict(1.2, 1.4, 1.1), "**missed**");
        assert_eq!(verdict(0.35, 0.2, 0.2), "goal met");
        assert_eq!(verdict(0.35, 0.2, 0.3), "floor met");
        assert_eq!(verdict(0.35, 0.2, 0.4), "**missed**");
    }

    #[test]
    fn the_fastest_peer_is_compared_and_what_is_missing_is_named_so() {
        let table = targets(&Results::example());
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
        let table = targets(&results);
        let row = table.lines().find(|line| line.contains("prefill of 128")).unwrap();
        assert!(row.contains("(no figure for Other)") && row.ends_with("not measured |"), "{row}");
    }

    #[test]
    fn every_plot_of_the_page_is_made() {
        let results = Results::example();
        let page = text(&results);
        for (name, svg) in plots(&results) {
            assert!(page.contains(&format!("](performance/{name})")), "{name}");
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{name}");
        }
    }
}
