//! The archive's own tensors, one safetensors file: the bytes of `weights.safetensors`.

use std::io::{self, Write};
use std::path::Path;

use aibit_format::{Archive, Dtype, MappedFile, entry_names};
use safetensors::SafeTensors;

use crate::diff::{Count, Diff, TensorDiff};
use crate::{ExportError, ExportReport};

pub(crate) fn write(
    archive: &Archive,
    file: &mut impl Write,
    report: &mut ExportReport,
) -> Result<(), ExportError> {
    report.kept = archive.manifest().tensors.values().filter(|t| t.scheme.is_quantized()).count();
    let io = |source| ExportError::Io { action: "write", path: report.output.clone(), source };
    file.write_all(archive.entry(entry_names::WEIGHTS)?.data).map_err(io)
}

/// Reads such a file with the `safetensors` crate and compares every tensor in it with the archive's.
///
/// # Errors
/// [`ExportError`] for a file or an archive that cannot be read.
pub fn check_own_tensors(archive: &Archive, path: &Path) -> Result<Diff, ExportError> {
    let map = MappedFile::open(path)?;
    let unreadable =
        |e| ExportError::Io { action: "read", path: path.to_owned(), source: io::Error::other(e) };
    let file = SafeTensors::deserialize(&map).map_err(unreadable)?;
    let weights = archive.weights();
    let mut found = Diff::default();
    let mut unknown: Vec<_> = file.names().into_iter().map(str::to_owned).collect();
    for (name, record) in &archive.manifest().tensors {
        let Some(own) = weights.get(name) else { continue };
        let shape = record.scheme.shape(&own.info.shape);
        let parts = record.scheme.parts(name, &shape);
        // Elements that differ, all of them where the tensor is missing or of another form.
        let mut count = |name: &str, dtype: Dtype| {
            unknown.retain(|other| other != name);
            let own = weights.get(name)?;
            let size = dtype.size();
            let of = own.data.len() / size;
            let same_form = |other: &safetensors::tensor::TensorView<'_>| {
                format!("{:?}", other.dtype()) == dtype.name() && other.shape() == own.info.shape
            };
            let changed = match file.tensor(name).ok().filter(same_form) {
                Some(other) => {
                    own.data.chunks(size).zip(other.data().chunks(size)).filter(|(a, b)| a != b).count()
                }
                None => of,
            };
            Some(Count { changed, of })
        };
        let codes = count(name, own.info.dtype);
        let scales = parts
            .iter()
            .filter_map(|part| count(&part.name, part.dtype))
            .reduce(|a, b| Count { changed: a.changed + b.changed, of: a.of + b.of });
        if file.tensor(name).is_err() {
            found.removed.push(name.clone());
        } else if [codes, scales].iter().flatten().all(|count| count.changed == 0) {
            found.equal += 1;
        } else {
            found.changed.push(TensorDiff {
                name: name.clone(),
                schemes: [record.scheme; 2],
                shapes: [shape.clone(), shape],
                codes,
                scales,
                max_error: None,
                relative_error: None,
            });
        }
    }
    found.added = unknown;
    Ok(found)
}
