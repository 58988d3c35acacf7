//! The output of `--timings`: the spans of all crates as one tree, with times since program start.
//!
//! Spans with the same name and parent are one line, with a count.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Collects spans from the call of [`Recorder::install`] on.
pub(crate) struct Recorder {
    start: Instant,
    nodes: Mutex<Vec<Node>>,
}

/// All spans of one name with the same parent.
struct Node {
    name: &'static str,
    parent: Option<usize>,
    first: Duration,
    total: Duration,
    count: u64,
}

thread_local! {
    /// The spans that this thread is in, each with the time since program start at which it was entered.
    static OPEN: RefCell<Vec<(usize, Duration)>> = const { RefCell::new(Vec::new()) };
}

impl Recorder {
    /// Records all spans from now on. Without it a span costs one load of a static variable.
    pub(crate) fn install(start: Instant) -> anyhow::Result<Arc<Self>> {
        let recorder = Arc::new(Self { start, nodes: Mutex::default() });
        tracing::subscriber::set_global_default(Arc::clone(&recorder)).context("cannot collect timings")?;
        Ok(recorder)
    }

    /// The spans collected so far.
    pub(crate) fn spans(&self) -> Spans {
        Spans(children(&self.nodes(), None))
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("aibit")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let innermost = || OPEN.with_borrow(|open| open.last().map(|(node, _)| *node));
        let parent = if span.is_contextual() { innermost() } else { span.parent().map(index_of) };
        let name = span.metadata().name();
        let mut nodes = self.nodes();
        let known = nodes.iter().position(|node| node.name == name && node.parent == parent);
        let index = known.unwrap_or_else(|| {
            nodes.push(Node { name, parent, first: Duration::MAX, total: Duration::ZERO, count: 0 });
            nodes.len() - 1
        });
        Id::from_u64(index as u64 + 1)
    }

    fn enter(&self, span: &Id) {
        OPEN.with_borrow_mut(|open| open.push((index_of(span), self.start.elapsed())));
    }

    fn exit(&self, span: &Id) {
        let now = self.start.elapsed();
        let left = OPEN.with_borrow_mut(|open| {
            let position = open.iter().rposition(|(node, _)| *node == index_of(span))?;
            Some(open.remove(position))
        });
        if let Some((index, entered)) = left {
            let node = &mut self.nodes()[index];
            node.first = node.first.min(entered);
            node.total += now - entered;
            node.count += 1;
        }
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
}

fn index_of(id: &Id) -> usize {
    id.into_u64() as usize - 1
}

fn children(nodes: &[Node], parent: Option<usize>) -> Vec<Span> {
    let milliseconds = |duration: Duration| 1e3 * duration.as_secs_f64();
    let own = nodes.iter().enumerate().filter(|(_, node)| node.parent == parent && node.count > 0);
    let mut spans: Vec<Span> = own
        .map(|(index, node)| Span {
            name: node.name,
            start_ms: milliseconds(node.first),
            ms: milliseconds(node.total),
            count: node.count,
            spans: children(nodes, Some(index)),
        })
        .collect();
    spans.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
    spans
}

/// The tree, ordered by the first entry of each span.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Spans(Vec<Span>);

/// One line of the tree.
#[derive(Serialize)]
struct Span {
    name: &'static str,
    /// Time of the first entry, since program start.
    start_ms: f64,
    /// Total time inside.
    ms: f64,
    count: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Span>,
}

impl fmt::Display for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn lines(spans: &[Span], depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for Span { name, start_ms, ms, count, spans } in spans {
                let name = format!("{:1$}{name}", "", 2 * depth);
                write!(f, "\n{name:<24} {start_ms:>10.3} {ms:>10.3} {count:>6}")?;
                lines(spans, depth + 1, f)?;
            }
            Ok(())
        }
        write!(f, "{:<24} {:>10} {:>10} {:>6}", "stage", "start ms", "ms", "times")?;
        lines(&self.0, 0, f)
    }
}

#[cfg(test)]
mod tests {
    use tracing::info_span;

    use super::*;

    #[test]
    fn spans_of_one_name_and_parent_are_one_line() {
        let recorder = Arc::new(Recorder { start: Instant::now(), nodes: Mutex::default() });
        tracing::subscriber::with_default(Arc::clone(&recorder), || {
            info_span!("first").in_scope(|| info_span!("inside").in_scope(|| ()));
            for _ in 0..3 {
                info_span!("again").in_scope(|| info_span!("inside").in_scope(|| ()));
            }
            info_span!(target: "another", "of another program").in_scope(|| ());
        });
        let text = recorder.spans().to_string();
        let names_and_counts: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| (line[..24].trim_end(), line.rsplit(' ').next().expect("a count")))
            .collect();
        assert_eq!(names_and_counts, [("first", "1"), ("  inside", "1"), ("again", "3"), ("  inside", "3")]);
    }
}
