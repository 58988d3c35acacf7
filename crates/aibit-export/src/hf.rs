//! A folder of floating-point weights in the Hugging Face layout.

use aibit_format::OutputFolder;
use aibit_graph::{Origin, Parameter};
use safetensors::Dtype;

use crate::export::{Tensor, encode, write_model};
use crate::parameter::{Model, Stored};
use crate::portable;
use crate::{ExportError, ExportOptions, ExportReport, Target};

pub(crate) fn write(
    model: &Model<'_>,
    folder: &OutputFolder,
    options: &ExportOptions,
    report: &mut ExportReport,
) -> Result<(), ExportError> {
    let (dtype, name) = options.dtype.unwrap_or_default().tensors();
    let mut tensors = Vec::new();
    for (parameter, stored) in model.parameters()? {
        report.dequantized += usize::from(stored.scheme().is_quantized());
        tensors.push(tensor(parameter, &stored, dtype)?);
    }
    let config = portable::config(model, Some(name))?;
    write_model(folder, &tensors, &config, report)
}

/// A parameter as its family's floating-point checkpoints store it.
fn tensor(parameter: &Parameter, stored: &Stored<'_>, dtype: Dtype) -> Result<Tensor, ExportError> {
    let mut values = stored.values();
    let mut shape = stored.shape.clone();
    if parameter.origin == Origin::Transposed {
        let [rows, columns] = stored.matrix_shape();
        values =
            (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| values[i]).collect();
        shape.reverse();
    }
    let data = encode(&values, dtype).ok_or_else(|| ExportError::Parameter {
        target: Target::Hf,
        name: stored.name.to_owned(),
        scheme: stored.scheme(),
        problem: format!("it has values that {dtype} cannot hold; use `--dtype f32`"),
    })?;
    Ok(Tensor { name: stored.name.to_owned(), dtype, shape, data })
}
