//! A loaded model: the graph, its tensors bound to their places in the map. Immutable and shared.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use aibit_format::{Archive, Dtype, FormatError, Manifest, Part, Scheme, TensorInfo, Weights, entry_names};
use aibit_graph::ops::{Linear, Logits, Rope};
use aibit_graph::{
    ActivationPrecision, Graph, LongFrequencies, Op, StoredTensor, TensorKind, TensorUse, ValueId,
};
use aibit_kernels::{BlockMatrix, BlockScales, Context, FloatMatrix, FourBit, Int8Rowwise, Isa, Threads};
use half::{bf16, f16};
use tracing::info_span;

use crate::LoadError;

#[cfg(target_endian = "big")]
compile_error!(
    "archives are little-endian and executed where they lie; big-endian machines are not supported"
);

/// A model ready to run: tensors stay where they lie in the map. Immutable; clones share everything.
#[derive(Debug, Clone)]
pub struct Model {
    bound: Arc<Bound>,
    context: Context,
}

/// A graph and the places of its tensors.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) graph: Graph,
    weights: Weights,
    /// The graph's nodes with their tensors bound.
    pub(crate) nodes: Vec<Op<Tensor>>,
    /// The angles of the graph's rotary embeddings, each kind once.
    pub(crate) angles: Vec<Angles>,
    /// For each node that is a rotary embedding, its index in `angles`.
    angles_of: Vec<Option<usize>>,
}

/// What the angles of a rotary embedding are made of.
#[derive(Debug)]
pub(crate) struct Angles {
    pub(crate) frequencies: Vector,
    /// Others of the same number, and the positions above which they take the place of these.
    long: Option<(Vector, usize)>,
    /// Multiplies cosines and sines.
    pub(crate) factor: f32,
}

impl Angles {
    /// The frequencies of a sequence with room for `capacity` positions.
    pub(crate) fn frequencies_for(&self, capacity: usize) -> &Vector {
        match &self.long {
            Some((long, above)) if capacity > *above => long,
            _ => &self.frequencies,
        }
    }
}

/// A tensor of a node, found in the map.
#[derive(Debug)]
pub(crate) enum Tensor {
    Matrix(Matrix),
    Vector(Vector),
}

impl Tensor {
    /// The matrix that a [`TensorUse::Table`] or [`TensorUse::Weight`] was bound to.
    pub(crate) fn matrix(&self) -> &Matrix {
        match self {
            Self::Matrix(matrix) => matrix,
            Self::Vector(_) => unreachable!("the op uses this tensor as a vector"),
        }
    }

    /// The vector that a [`TensorUse::Vector`] was bound to.
    pub(crate) fn vector(&self) -> &Vector {
        match self {
            Self::Vector(vector) => vector,
            Self::Matrix(_) => unreachable!("the op uses this tensor as a matrix"),
        }
    }
}

/// A matrix `[rows, columns]` in the map.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) name: String,
    place: Place,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    scheme: Scheme,
    scales: Scales,
}

/// What a scheme stores beside the codes.
#[derive(Debug)]
enum Scales {
    None,
    F32(Vector),
    F16(Elements<f16>),
    Nested { codes: Place, absmax: Vector, map: Vector, offset: f32 },
}

/// The elements of a tensor: in the map, or copied if they do not lie on a multiple of their size there, which archives
/// written by this project never do.
#[derive(Debug)]
pub(crate) enum Elements<T> {
    Mapped(Place),
    Copied(Vec<T>),
}

/// Where a tensor's bytes are, counted from the start of the archive's tensor data.
type Place = Range<usize>;

pub(crate) type Vector = Elements<f32>;

/// A matrix's elements, in the form its kernels take.
pub(crate) enum MatrixView<'a> {
    Float(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    Bf16(Cow<'a, [bf16]>),
    Int8(Int8Rowwise<'a>),
    Blocks(BlockMatrix<'a>),
}

impl MatrixView<'_> {
    /// The elements, if they are floating point.
    pub(crate) fn float(&self) -> Option<FloatMatrix<'_>> {
        match self {
            Self::Float(w) => Some(FloatMatrix::F32(w)),
            Self::F16(w) => Some(FloatMatrix::F16(w)),
            Self::Bf16(w) => Some(FloatMatrix::Bf16(w)),
            Self::Int8(_) | Self::Blocks(_) => None,
        }
    }
}

impl Model {
    /// Loads the model of an open archive: reads the graph, checks it against the tensors, and finds each
    /// tensor's place. No weight is waited for: those that are not in memory are read beside what follows. The instruction
    /// set is that of `AIBIT_ISA`, else the best of this CPU; the only thread is the caller's, until
    /// [`with_context`](Self::with_context) gives more.
    ///
    /// # Errors
    /// [`LoadError::Graph`] for a graph that this build cannot execute on these tensors,
    /// [`LoadError::Format`] for a missing entry or bad scales, [`LoadError::Isa`] for a bad `AIBIT_ISA`.
    pub fn load(archive: &Archive) -> Result<Self, LoadError> {
        let _span = info_span!("load model").entered();
        let graph = archive.entry(entry_names::GRAPH)?.data;
        let graph = info_span!("parse graph").in_scope(|| Graph::from_json(graph))?;
        let model = Self::new(graph, archive.weights().clone(), archive.manifest())?;
        info_span!("read ahead").in_scope(|| model.bound.read_ahead());
        Ok(model)
    }

    /// A model from its parts: a graph, and the tensors and the manifest of one archive; [`Model::load`] takes them
    /// from it.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn new(graph: Graph, weights: Weights, manifest: &Manifest) -> Result<Self, LoadError> {
        let isa = Isa::selected()?;
        let index = weights.index();
        let mut tensors: HashMap<&str, (Vec<usize>, TensorKind)> = HashMap::new();
        for tensor in index.tensors() {
            let record = manifest.tensors.get(&tensor.name);
            let kind = match record.map(|record| record.scheme) {
                Some(Scheme::F32) => TensorKind::F32,
                Some(_) => TensorKind::Encoded,
                None => TensorKind::Part,
            };
            // What the graph calls for are the parameters' shapes, not those of their codes.
            let shape = record.map_or_else(|| tensor.shape.clone(), |r| r.scheme.shape(&tensor.shape));
            tensors.insert(&tensor.name, (shape, kind));
        }
        info_span!("validate graph").in_scope(|| {
            graph.validate(|name| {
                let (shape, kind) = tensors.get(name)?;
                Some(StoredTensor { shape, kind: *kind })
            })
        })?;
        let _span = info_span!("bind tensors").entered();
        let binder = Binder { weights: &weights, manifest };
        let (mut angles, mut known) = (Vec::new(), HashMap::new());
        let mut angles_of = Vec::with_capacity(graph.nodes.len());
        for op in &graph.nodes {
            let index = AnglesKey::of(op).map(|key| {
                *known.entry(key).or_insert_with_key(|key| {
                    angles.push(binder.angles(key));
                    angles.len() - 1
                })
            });
            angles_of.push(index);
        }
        let bind = |op: &Op| op.try_map(|usage, name| binder.tensor(usage, name));
        let nodes = graph.nodes.iter().map(bind).collect::<Result<_, _>>()?;
        let context = Context { isa, threads: Threads::caller() };
        Ok(Self { bound: Arc::new(Bound { graph, weights, nodes, angles, angles_of }), context })
    }

    /// The graph that is executed.
    pub fn graph(&self) -> &Graph {
        &self.bound.graph
    }

    /// Bytes of all tensors.
    pub fn weights_bytes(&self) -> u64 {
        self.bound.weights.index().tensors().iter().map(|tensor| tensor.bytes() as u64).sum()
    }

    /// Bytes of the matrices that each token reads: those of all linear layers and the head.
    pub fn bytes_per_token(&self) -> usize {
        self.bound.matrices().map(|matrix| matrix.place.len()).sum()
    }

    /// What the kernels run on.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The same model on another instruction set, or other threads. No bit of what it computes changes.
    #[must_use]
    pub fn with_context(&self, context: Context) -> Self {
        Self { bound: Arc::clone(&self.bound), context }
    }

    /// The same model on other threads.
    #[must_use]
    pub fn with_threads(&self, threads: Threads) -> Self {
        self.with_context(Context { isa: self.context.isa, threads })
    }

    /// The same model on another instruction set.
    #[must_use]
    pub fn with_isa(&self, isa: Isa) -> Self {
        self.with_context(Context { isa, threads: self.context.threads.clone() })
    }

    pub(crate) fn bound(&self) -> &Bound {
        &self.bound
    }
}

impl Bound {
    /// The matrices that each token reads.
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.nodes.iter().filter_map(|op| match op {
            Op::Linear(Linear { weight, .. }) | Op::Logits(Logits { weight, .. }) => Some(weight.matrix()),
            _ => None,
        })
    }

    /// Reads the matrices into memory in the order in which a pass needs them. A table of embeddings is left out, of which
    /// a pass needs some rows.
    fn read_ahead(&self) {
        self.weights.read_ahead(self.matrices().map(|matrix| matrix.name.as_str()));
    }

    /// The elements of a tensor that is used as a vector.
    pub(crate) fn vector<'a>(&'a self, tensor: &'a Tensor) -> &'a [f32] {
        self.elements(tensor.vector())
    }

    /// The index in [`angles`](Self::angles) of a node that is a rotary embedding.
    pub(crate) fn angles_of(&self, node: usize) -> usize {
        self.angles_of[node].expect("the node is a rotary embedding")
    }

    pub(crate) fn elements<'a, T: bytemuck::AnyBitPattern>(&'a self, elements: &'a Elements<T>) -> &'a [T] {
        match elements {
            Elements::Copied(values) => values,
            Elements::Mapped(place) => bytemuck::cast_slice(self.data(place)),
        }
    }

    pub(crate) fn matrix<'a>(&'a self, matrix: &'a Matrix) -> MatrixView<'a> {
        let data = self.data(&matrix.place);
        let (n, k) = (matrix.rows, matrix.columns);
        match (matrix.scheme, &matrix.scales) {
            (Scheme::F32, _) => MatrixView::Float(elements(data)),
            (Scheme::F16, _) => MatrixView::F16(elements(data)),
            (Scheme::Bf16, _) => MatrixView::Bf16(elements(data)),
            (Scheme::Int8, Scales::F32(scales)) => {
                MatrixView::Int8(Int8Rowwise::new(bytemuck::cast_slice(data), self.elements(scales), n, k))
            }
            (Scheme::Int8G32, Scales::F16(scales)) => MatrixView::Blocks(BlockMatrix::int8_groups(
                bytemuck::cast_slice(data),
                self.elements(scales),
                n,
                k,
            )),
            (Scheme::Int4G32, Scales::F16(scales)) => {
                MatrixView::Blocks(BlockMatrix::int4_groups(data, self.elements(scales), n, k))
            }
            (scheme, scales) => {
                let kind = match scheme {
                    Scheme::Nf4 | Scheme::Nf4Dq => FourBit::Nf4,
                    _ => FourBit::Fp4,
                };
                let scales = match scales {
                    Scales::F32(absmax) => BlockScales::F32(self.elements(absmax)),
                    Scales::Nested { codes, absmax, map, offset } => BlockScales::Nested {
                        codes: self.data(codes),
                        map: self.elements(map).try_into().expect("bound with 256 values"),
                        absmax: self.elements(absmax),
                        offset: *offset,
                    },
                    _ => unreachable!("bound with the scales of its scheme"),
                };
                MatrixView::Blocks(BlockMatrix::four_bit(kind, data, scales, n, k))
            }
        }
    }

    fn data(&self, place: &Place) -> &[u8] {
        self.weights.data(place.clone())
    }

    pub(crate) fn arena_range(&self, value: ValueId, tokens: usize) -> Range<usize> {
        let start = self.graph.plan.offsets[value] * tokens;
        start..start + self.graph.values[value].width * tokens
    }
}

/// The elements in place, or a copy where their address does not suit the type.
fn elements<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(data: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(data) {
        Ok(elements) => Cow::Borrowed(elements),
        Err(_) => Cow::Owned(data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
    }
}

struct Binder<'a> {
    weights: &'a Weights,
    manifest: &'a Manifest,
}

/// What tells the angles of one rotary embedding from those of another.
#[derive(PartialEq, Eq, Hash)]
struct AnglesKey<'a> {
    frequencies: &'a str,
    long: Option<&'a LongFrequencies>,
    /// The bits of an F32.
    factor: u32,
}

impl<'a> AnglesKey<'a> {
    fn of(op: &'a Op) -> Option<Self> {
        let Op::Rope(Rope { frequencies, long, attention_factor, .. }) = op else { return None };
        let factor = attention_factor.unwrap_or(1.0).to_bits();
        Some(Self { frequencies, long: long.as_ref(), factor })
    }
}

impl Binder<'_> {
    fn tensor(&self, usage: TensorUse, name: &str) -> Result<Tensor, LoadError> {
        Ok(match usage {
            TensorUse::Table => Tensor::Matrix(self.matrix(name)?),
            TensorUse::Weight(precision) => Tensor::Matrix(self.weight(name, precision)?),
            TensorUse::Vector => Tensor::Vector(self.vector(name)),
        })
    }

    fn angles(&self, key: &AnglesKey<'_>) -> Angles {
        Angles {
            frequencies: self.vector(key.frequencies),
            long: key.long.map(|long| (self.vector(&long.frequencies), long.above)),
            factor: f32::from_bits(key.factor),
        }
    }

    fn matrix(&self, name: &str) -> Result<Matrix, LoadError> {
        let scheme = self.manifest.tensors.get(name).expect("validated as a parameter").scheme;
        let tensor = self.weights.get(name).expect("the graph was validated against the index");
        let shape = scheme.shape(&tensor.info.shape);
        let &[rows, columns] = shape.as_slice() else { unreachable!("validated as a matrix") };
        if scheme == Scheme::Int8 && columns > MAX_INT8_COLUMNS {
            let problem = "which has at most 65535 columns: longer integer sums could overflow";
            return Err(LoadError::Scheme { name: name.to_owned(), scheme, problem });
        }
        let scales = self.scales(scheme, &scheme.parts(name, &shape))?;
        let place = tensor.info.begin..tensor.info.end;
        Ok(Matrix { name: name.to_owned(), place, rows, columns, scheme, scales })
    }

    /// The matrix of a product with activations in `precision`.
    fn weight(&self, name: &str, precision: ActivationPrecision) -> Result<Matrix, LoadError> {
        let matrix = self.matrix(name)?;
        let is_asym = precision == ActivationPrecision::Int8Asym;
        if matrix.scheme == Scheme::Int8 && is_asym && matrix.columns > MAX_INT8_ASYM_COLUMNS {
            let problem = "which has at most 32767 columns where activations have a zero point (int8-asym): longer integer \
                           sums could overflow";
            return Err(LoadError::Scheme { name: name.to_owned(), scheme: matrix.scheme, problem });
        }
        Ok(matrix)
    }

    /// Finds a scheme's parts, whose types and shapes were checked when the archive was opened. Scales take part in every
    /// result, so a bad one is refused before anything is computed.
    fn scales(&self, scheme: Scheme, parts: &[Part]) -> Result<Scales, LoadError> {
        Ok(match parts {
            [] => Scales::None,
            [scales] if scales.dtype == Dtype::F16 => {
                Scales::F16(self.elements(&scales.name, |scale: f16| scale.is_finite(), "finite")?)
            }
            [scales] => {
                let is_scale = |scale: f32| scale.is_finite() && scale >= 0.0;
                Scales::F32(self.elements(&scales.name, is_scale, "finite and not negative")?)
            }
            [codes, absmax, map, offset] => {
                let finite = |name: &str| self.elements(name, f32::is_finite, "finite");
                let (absmax, map) = (finite(&absmax.name)?, finite(&map.name)?);
                finite(&offset.name)?;
                let offset = elements(self.weights.get(&offset.name).expect("found above").data)[0];
                let codes = self.weights.get(&codes.name).expect("checked when it was opened").info;
                Scales::Nested { codes: codes.begin..codes.end, absmax, map, offset }
            }
            _ => unreachable!("no scheme has {} parts, {scheme} least of all", parts.len()),
        })
    }

    /// The elements of a part, each of which must satisfy `is_allowed`.
    fn elements<T>(
        &self,
        name: &str,
        is_allowed: impl Fn(T) -> bool,
        allowed: &str,
    ) -> Result<Elements<T>, LoadError>
    where
        T: bytemuck::AnyBitPattern + bytemuck::NoUninit + std::fmt::Display,
    {
        let tensor = self.weights.get(name).expect("checked when it was opened");
        let found: Cow<'_, [T]> = elements(tensor.data);
        if let Some(index) = found.iter().position(|scale| !is_allowed(*scale)) {
            let problem = format!("the scale {}, it must be {allowed}", found[index]);
            return Err(FormatError::Value { name: name.to_owned(), index, problem }.into());
        }
        Ok(Elements::of(tensor.info, found))
    }

    fn vector(&self, name: &str) -> Vector {
        let tensor = self.weights.get(name).expect("the graph was validated against the index");
        Elements::of(tensor.info, elements(tensor.data))
    }
}

impl<T: Clone> Elements<T> {
    fn of(info: &TensorInfo, found: Cow<'_, [T]>) -> Self {
        match found {
            Cow::Borrowed(_) => Self::Mapped(info.begin..info.end),
            Cow::Owned(values) => Self::Copied(values),
        }
    }
}

/// Longest row whose integer products cannot leave i32 in any precision of the activations.
const MAX_INT8_COLUMNS: usize = 65_535;

/// The same with a zero point.
pub(crate) const MAX_INT8_ASYM_COLUMNS: usize = 32_767;
