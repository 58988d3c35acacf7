//! The mapping of checkpoint tensors to the archive's parameters, and of these to tensors of the archive.

use std::collections::HashMap;

use aibit_families::Family;
use aibit_format::{JoinedRows, Scheme, TensorRecord, WeightsLayout};
use aibit_graph::{CheckpointName, ModelDescription, Origin, Parameter, Role};

use crate::checkpoint::{Checkpoint, CheckpointTensor, SourceDtype};
use crate::encoding::{Elements, Encoding, encoding_of};
use crate::{PackError, bnb, foreign};

/// A parameter of the plain graph and the checkpoint's tensor for it.
pub(crate) struct Matched<'a> {
    pub(crate) parameter: &'a Parameter,
    /// `None` for a constant.
    pub(crate) tensor: Option<&'a CheckpointTensor>,
    pub(crate) encoding: Encoding<'a>,
}

impl Matched<'_> {
    /// Quantized weights are `[out, in]` regardless of their layer's orientation.
    pub(crate) fn is_transposed(&self) -> bool {
        self.parameter.origin == Origin::Transposed
            && matches!(self.encoding, Encoding::Float(_))
            && self.tensor.is_some_and(|tensor| !tensor.is_canonical)
    }

    /// The parameter as a matrix; a vector is one row.
    pub(crate) fn matrix_shape(&self) -> [usize; 2] {
        match *self.parameter.shape {
            [rows, columns] => [rows, columns],
            _ => [1, self.parameter.shape.iter().product()],
        }
    }

    pub(crate) fn elements<'c>(&'c self, checkpoint: &'c Checkpoint) -> Result<Elements<'c>, PackError> {
        match (self.tensor, &self.parameter.origin) {
            (Some(tensor), _) => {
                let shape = self.matrix_shape();
                Elements::open(checkpoint, tensor, &self.encoding, shape, self.is_transposed())
            }
            (None, Origin::Constant(values)) => Ok(Elements::constant(values)),
            (None, _) => unreachable!("only constants are matched with no tensor"),
        }
    }
}

/// A parameter of the archive, and the checkpoint tensors whose rows it concatenates.
pub(crate) struct Planned<'a> {
    pub(crate) parameter: Parameter,
    pub(crate) sources: Vec<Matched<'a>>,
    pub(crate) scheme: Scheme,
}

impl Planned<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.parameter.name
    }

    pub(crate) fn record(&self) -> TensorRecord {
        let first = &self.sources[0];
        let part = |source: &Matched<'_>| JoinedRows {
            name: source.parameter.name.clone(),
            rows: source.parameter.shape[0],
        };
        TensorRecord {
            scheme: self.scheme,
            source_dtype: first.encoding.name().into(),
            transposed: first.is_transposed(),
            joined: if self.sources.len() > 1 { self.sources.iter().map(part).collect() } else { Vec::new() },
        }
    }
}

/// Fuses the graph and joins parameters that it has joined and that have the same scheme.
pub(crate) fn join<'a>(
    description: &mut ModelDescription,
    tensors: Vec<Matched<'a>>,
    schemes: Vec<Scheme>,
) -> Vec<Planned<'a>> {
    let mut by_name: HashMap<&str, (Matched<'a>, Scheme)> = tensors
        .into_iter()
        .zip(schemes)
        .map(|(t, scheme)| (t.parameter.name.as_str(), (t, scheme)))
        .collect();
    description.fuse(|parameters| {
        let stored = |parameter: &Parameter| {
            let (source, scheme) = &by_name[parameter.name.as_str()];
            (*scheme, source.encoding.name(), source.is_transposed())
        };
        let first = stored(parameters[0]);
        !first.0.has_nested_scales() && parameters.iter().all(|parameter| stored(parameter) == first)
    });
    let planned = |parameter: &Parameter| {
        let parts = match &parameter.origin {
            Origin::Joined(parts) => parts.as_slice(),
            _ => std::slice::from_ref(parameter),
        };
        let parts =
            parts.iter().map(|part| by_name.remove(part.name.as_str()).expect("matched, and used once"));
        let (sources, schemes): (Vec<_>, Vec<_>) = parts.unzip();
        Planned { parameter: parameter.clone(), sources, scheme: schemes[0] }
    };
    description.parameters.iter().map(planned).collect()
}
/// Finds the checkpoint tensor of every parameter, and the parameter of every tensor.
pub(crate) fn match_tensors<'a>(
    checkpoint: &'a Checkpoint,
    family: Family,
    description: &'a ModelDescription,
) -> Result<Vec<Matched<'a>>, PackError> {
    let parameters: HashMap<&str, &Parameter> =
        description.parameters.iter().map(|p| (p.name.as_str(), p)).collect();
    let wrong = |name: &str, problem: String| PackError::Tensor { name: name.to_owned(), problem };
    let mut found: HashMap<&str, (&String, &CheckpointTensor)> = HashMap::new();
    let mut aliases = Vec::new();
    for (source_name, tensor) in checkpoint.tensors() {
        if let Some(problem) = foreign::told_by(source_name, &tensor.dtype) {
            return Err(wrong(source_name, problem));
        }
        if bnb::weight_of(source_name).is_some_and(|weight| checkpoint.tensors().contains_key(&weight)) {
            continue; // read with its weight
        }
        let CheckpointName::Parameter(name) = family.checkpoint_name(source_name) else { continue };
        if let Some((_, target)) = description.tied.iter().find(|(alias, _)| *alias == name) {
            aliases.push((source_name, tensor, target));
            continue;
        }
        let Some(parameter) = parameters.get(name.as_str()) else {
            return Err(wrong(
                source_name,
                "config.json describes no such tensor; the checkpoint is of another model".into(),
            ));
        };
        if let Some((twin, _)) = found.insert(&parameter.name, (source_name, tensor)) {
            return Err(wrong(source_name, format!("is the same parameter as `{twin}`")));
        }
    }
    // Of a tied pair, the checkpoint may have kept only the head.
    for (alias, tensor, target) in aliases {
        if let Some(parameter) = parameters.get(target.as_str()) {
            found.entry(&parameter.name).or_insert((alias, tensor));
        }
    }
    let is_missing =
        |p: &&Parameter| !matches!(p.origin, Origin::Constant(_)) && !found.contains_key(p.name.as_str());
    let missing: Vec<_> = description.parameters.iter().filter(is_missing).collect();
    if let [Parameter { name, role: Role::Head, .. }] = missing.as_slice() {
        let problem = "is not in the checkpoint, and config.json does not tie it to the embedding (tie_word_embeddings): \
                       the model gives no probabilities of tokens, as embedding models do not, or a part of the \
                       checkpoint is missing";
        return Err(wrong(name, problem.into()));
    }
    if !missing.is_empty() {
        let examples = missing.iter().take(3).map(|p| format!("`{}`", p.name)).collect::<Vec<_>>().join(", ");
        return Err(PackError::MissingTensors { count: missing.len(), examples });
    }
    description
        .parameters
        .iter()
        .map(|parameter| {
            if let Origin::Constant(_) = parameter.origin {
                return Ok(Matched { parameter, tensor: None, encoding: Encoding::Float(SourceDtype::F32) });
            }
            let (source_name, tensor) = found[parameter.name.as_str()];
            let encoding = encoding_of(checkpoint, source_name, tensor, &parameter.shape)?;
            if let Encoding::Float(_) | Encoding::Ggml(_) = encoding {
                let mut expected = parameter.shape.clone();
                if parameter.origin == Origin::Transposed && !tensor.is_canonical {
                    expected.reverse();
                }
                if tensor.shape != expected {
                    return Err(wrong(
                        source_name,
                        format!("has shape {:?}, config.json requires {expected:?}", tensor.shape),
                    ));
                }
            }
            Ok(Matched { parameter, tensor: Some(tensor), encoding })
        })
        .collect()
}

pub(crate) fn weights_layout(plan: &[Planned<'_>]) -> Result<WeightsLayout, PackError> {
    let mut tensors = Vec::new();
    for planned in plan {
        let (scheme, shape) = (planned.scheme, &planned.parameter.shape);
        if scheme.is_quantized() && shape.len() != 2 {
            let (name, problem) = (planned.name().to_owned(), "quantization takes matrices".into());
            return Err(PackError::Scheme { name, scheme, problem });
        }
        tensors.push((planned.name().to_owned(), scheme.dtype(), scheme.stored_shape(shape)));
        tensors.extend(scheme.parts(planned.name(), shape).into_iter().map(|p| (p.name, p.dtype, p.shape)));
    }
    Ok(WeightsLayout::new(&tensors)?)
}
