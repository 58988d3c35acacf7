//! What differs between two archives, in numbers.

use std::fmt;

use aibit_format::{Archive, Dtype, FormatError, Scheme, entry_names};
use serde::Serialize;

use crate::parameter::{Stored, StoredIndex};

/// What to compare.
#[derive(Debug, Clone, Copy)]
pub struct DiffOptions {
    /// Codes and scales of parameters, bit by bit.
    pub codes: bool,
    /// Names, shapes, schemes and values of parameters.
    pub tensors: bool,
    /// Configuration, tokenizer and graph.
    pub metadata: bool,
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Diff {
    /// Parameters of the first that the second has not.
    pub removed: Vec<String>,
    /// Parameters of the second that the first has not.
    pub added: Vec<String>,
    /// Parameters of both that differ.
    pub changed: Vec<TensorDiff>,
    /// Parameters of both that do not.
    pub equal: usize,
    /// Small files and settings that differ.
    pub metadata: Vec<MetadataDiff>,
}

/// How one parameter differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorDiff {
    /// Its name.
    pub name: String,
    /// Its schemes.
    pub schemes: [Scheme; 2],
    /// Its shapes.
    pub shapes: [Vec<usize>; 2],
    /// Elements whose codes differ, of those that can be compared: both of one width and order.
    pub codes: Option<Count>,
    /// Scales whose bits differ, where both have scales of one kind.
    pub scales: Option<Count>,
    /// The largest difference of two values, if values were compared.
    pub max_error: Option<f32>,
    /// The same as a share of the largest magnitude of the first.
    pub relative_error: Option<f32>,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Those that differ.
    pub changed: usize,
    /// All of them.
    pub of: usize,
}

/// A small file or setting that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetadataDiff {
    /// Which: an entry, or a key of `config.json`.
    pub what: String,
    /// What the first has.
    pub first: String,
    /// What the second has.
    pub second: String,
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty()
            && self.added.is_empty()
            && self.changed.is_empty()
            && self.metadata.is_empty()
    }
}

/// Compares two archives.
///
/// # Errors
/// [`FormatError`] for an archive that contradicts itself.
pub fn diff(first: &Archive, second: &Archive, options: &DiffOptions) -> Result<Diff, FormatError> {
    let mut out = Diff::default();
    if options.codes || options.tensors {
        let [a, b] = [first, second].map(StoredIndex::new);
        out.removed = a.names().filter(|name| !b.contains(name)).map(str::to_owned).collect();
        out.added = b.names().filter(|name| !a.contains(name)).map(str::to_owned).collect();
        for name in a.names().filter(|name| b.contains(name)) {
            let change = compare(&a.find(name)?, &b.find(name)?, options);
            match change {
                Some(change) => out.changed.push(change),
                None => out.equal += 1,
            }
        }
    }
    if options.metadata {
        out.metadata = metadata(first, second);
    }
    Ok(out)
}

fn compare(a: &Stored<'_>, b: &Stored<'_>, options: &DiffOptions) -> Option<TensorDiff> {
    let (schemes, shapes) = ([a.scheme(), b.scheme()], [a.shape.clone(), b.shape.clone()]);
    let same_form = shapes[0] == shapes[1] && schemes[0] == schemes[1];
    if same_form && a.data == b.data && a.parts == b.parts {
        return None;
    }
    let comparable = shapes[0] == shapes[1] && same_codes(schemes);
    let codes = comparable.then(|| {
        let bits = if schemes[0].dtype() == Dtype::U8 { 4 } else { 8 };
        let size = schemes[0].dtype().size();
        if bits == 4 {
            let halves = |a: u8, b: u8| usize::from((a ^ b) & 15 != 0) + usize::from((a ^ b) >> 4 != 0);
            let changed = a.data.iter().zip(b.data).map(|(a, b)| halves(*a, *b)).sum();
            return Count { changed, of: 2 * a.data.len() };
        }
        let elements = a.data.chunks_exact(size).zip(b.data.chunks_exact(size));
        Count { changed: elements.filter(|(a, b)| a != b).count(), of: a.data.len() / size }
    });
    let scales = (schemes[0] == schemes[1] && !a.parts.is_empty() && shapes[0] == shapes[1]).then(|| {
        let parts = schemes[0].parts(a.name, &a.shape);
        let mut count = Count { changed: 0, of: 0 };
        for (part, (a, b)) in parts.iter().zip(a.parts.iter().zip(&b.parts)) {
            let size = part.dtype.size();
            count.changed += a.chunks_exact(size).zip(b.chunks_exact(size)).filter(|(a, b)| a != b).count();
            count.of += a.len() / size;
        }
        count
    });
    let (mut max_error, mut relative_error) = (None, None);
    if shapes[0] == shapes[1] && options.tensors {
        let (x, y) = (a.values(), b.values());
        let largest = x.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        // A NaN on either side is the largest difference there is.
        let error = x.iter().zip(&y).fold(0.0_f32, |max, (x, y)| {
            let error = (x - y).abs();
            if error > max || error.is_nan() { error } else { max }
        });
        (max_error, relative_error) =
            (Some(error), Some(if largest > 0.0 { error / largest } else { error }));
    }
    Some(TensorDiff { name: a.name.to_owned(), schemes, shapes, codes, scales, max_error, relative_error })
}

/// Whether codes of the two schemes stand for the same steps, in the same order.
fn same_codes(schemes: [Scheme; 2]) -> bool {
    let kind = |scheme| match scheme {
        Scheme::Int8G32 => Scheme::Int8,
        Scheme::Nf4Dq => Scheme::Nf4,
        Scheme::Fp4Dq => Scheme::Fp4,
        other => other,
    };
    kind(schemes[0]) == kind(schemes[1])
}

fn metadata(first: &Archive, second: &Archive) -> Vec<MetadataDiff> {
    let mut out = Vec::new();
    let mut differ = |what: &str, first: String, second: String| {
        if first != second {
            out.push(MetadataDiff { what: what.to_owned(), first, second });
        }
    };
    differ("architecture", first.manifest().architecture.clone(), second.manifest().architecture.clone());
    let configs = [first, second].map(|archive| -> serde_json::Map<String, serde_json::Value> {
        let entry = archive.entry(entry_names::CONFIG).map_or(&[][..], |entry| entry.data);
        serde_json::from_slice(entry).unwrap_or_default()
    });
    let mut keys: Vec<_> = configs.iter().flat_map(|config| config.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let shown = |value: Option<&serde_json::Value>| {
        value.map_or("(absent)".to_owned(), |value| value.to_string().chars().take(60).collect())
    };
    for key in keys {
        differ(&format!("config.json: {key}"), shown(configs[0].get(key)), shown(configs[1].get(key)));
    }
    for name in [entry_names::TOKENIZER, entry_names::GRAPH, entry_names::GENERATION_CONFIG] {
        let digest = |archive: &Archive| {
            let record = archive.manifest().entries.iter().find(|entry| entry.name == name);
            record.map_or("(absent)".to_owned(), |record| format!("sha256 {}", &record.sha256[..16]))
        };
        differ(name, digest(first), digest(second));
    }
    out
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.removed {
            writeln!(f, "- {name}")?;
        }
        for name in &self.added {
            writeln!(f, "+ {name}")?;
        }
        for change in &self.changed {
            write!(f, "~ {}", change.name)?;
            let [a, b] = change.schemes;
            if a != b {
                write!(f, ", {a} and {b}")?;
            }
            if change.shapes[0] != change.shapes[1] {
                write!(f, ", shapes {:?} and {:?}", change.shapes[0], change.shapes[1])?;
            }
            for (count, what) in [(change.codes, "codes"), (change.scales, "scales")] {
                match count {
                    Some(Count { changed: 0, .. }) => write!(f, ", {what} equal")?,
                    Some(Count { changed, of }) => write!(f, ", {changed} of {of} {what} differ")?,
                    None => {}
                }
            }
            if let (Some(error), Some(relative)) = (change.max_error, change.relative_error) {
                write!(f, ", values at most {error:.3e} apart ({:.3} % of the largest)", 100.0 * relative)?;
            }
            writeln!(f)?;
        }
        for MetadataDiff { what, first, second } in &self.metadata {
            writeln!(f, "! {what}: {first} and {second}")?;
        }
        if self.is_empty() {
            return write!(f, "no difference in {} parameters", self.equal);
        }
        write!(
            f,
            "{} parameters equal, {} differ, {} only in the first, {} only in the second",
            self.equal,
            self.changed.len(),
            self.removed.len(),
            self.added.len()
        )
    }
}
