//! Rotary embeddings in GGUF files, in both directions: keys of every version are read as llama.cpp does, and written
//! so that it computes the same.
//!
//! Source: llama.cpp, `src/llama-model.cpp` (`load_hparams`, `get_rope_factors`), `src/llama-context.cpp` (the attention
//! factor of YaRN) and `ggml/src/ggml-cpu/ops.cpp` (`rope_yarn`). There an angle is
//!
//! ```text
//! position * base^(-2i / head_dim) / factor[i] * blend(1 / scale, 1)
//! ```
//!
//! with factors from a tensor and a blend that is `1 / scale` for every kind of scaling except YaRN; sine and cosine
//! are multiplied by an attention factor. This is more general than any single kind of scaling in `config.json`,
//! except LongRoPE, which can express all of it.

use aibit_gguf::{GgmlType, Gguf, GgufError, Value};

use crate::{ModelType, Rope, RopeScaling};

/// Divisors of the frequencies, if they differ.
pub(crate) const FACTORS: &str = "rope_freqs.weight";
/// The same up to the original context, for LongRoPE.
pub(crate) const SHORT_FACTORS: &str = "rope_factors_short.weight";
/// The same beyond it.
pub(crate) const LONG_FACTORS: &str = "rope_factors_long.weight";

/// llama.cpp's constants for YaRN, regardless of keys in a file of this family.
const BETA_FAST: f64 = 32.0;
const BETA_SLOW: f64 = 1.0;

/// The rotary embedding described by the keys and tensors of a file of `architecture`; `context` is the model's.
///
/// # Errors
/// [`GgufError::Metadata`] for a key of another type, an invalid number or an unsupported kind.
pub(crate) fn read(
    gguf: &Gguf,
    file: &[u8],
    architecture: &str,
    context: u64,
    head_dim: usize,
) -> Result<Rope, GgufError> {
    Reader { gguf, file, architecture, pairs: head_dim / 2 }.read(context)
}

struct Reader<'a> {
    gguf: &'a Gguf,
    file: &'a [u8],
    architecture: &'a str,
    pairs: usize,
}

impl Reader<'_> {
    fn read(&self, context: u64) -> Result<Rope, GgufError> {
        let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
        let key = self.key("rope.scaling.type");
        let kind = self.gguf.metadata().string(&key)?.unwrap_or("linear");
        if !matches!(kind, "none" | "linear" | "yarn" | "longrope") {
            let problem = format!(
                "is `{}`, supported are none, linear, yarn and longrope",
                kind.chars().take(60).collect::<String>()
            );
            return Err(GgufError::Metadata { key, problem });
        }
        let scale = match self.float("rope.scaling.factor")? {
            Some(factor) => ("rope.scaling.factor", factor),
            None => ("rope.scale_linear", self.float("rope.scale_linear")?.unwrap_or(0.0)),
        };
        let scale = match scale {
            (_, 0.0) => 1.0,
            (_, scale) if scale > 0.0 => scale,
            (name, scale) => return Err(self.bad(name, format!("is {scale}, a factor is positive"))),
        };
        let scale = if kind == "none" { 1.0 } else { scale };
        let mut attention_factor = self.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let original = self.gguf.metadata().integer(&self.key("rope.scaling.original_context_length"))?;
        let original = original.unwrap_or(context);
        let original_context = usize::try_from(original).unwrap_or(usize::MAX);
        let [short, long] = self.factors(kind)?;

        let yarn = (kind == "yarn").then(|| RopeScaling::Yarn {
            factor: scale,
            beta_fast: BETA_FAST,
            beta_slow: BETA_SLOW,
            truncate: true,
            original_context: original as f64,
            attention_factor: attention_factor * yarn_attention_factor(scale),
        });
        if let Some(yarn) = yarn {
            self.check_yarn()?;
            if original == 0 {
                return Err(self.bad("rope.scaling.original_context_length", "is 0".into()));
            }
            if short.is_none() {
                return Ok(Rope { theta, scaling: yarn });
            }
            let rope = Rope { theta, scaling: yarn };
            attention_factor *= yarn_attention_factor(scale);
            let table = short.map(|factors| product(&factors, &rope.divisors(2 * self.pairs)));
            return Ok(Rope {
                theta,
                scaling: tables(table.clone(), table, original_context, attention_factor),
            });
        }
        let scaling = match (short, long) {
            (None, None) if attention_factor == 1.0 => match scale {
                1.0 => RopeScaling::Default,
                factor => RopeScaling::Linear { factor },
            },
            (Some(factors), None) if attention_factor == 1.0 && scale == 1.0 => {
                match llama3_settings(theta, &factors) {
                    Some(scaling) => scaling,
                    None => {
                        let table = Some(product(&factors, &vec![1.0; self.pairs]));
                        tables(table.clone(), table, original_context, attention_factor)
                    }
                }
            }
            (short, long) => {
                let scaled = |factors: Option<Vec<f32>>| {
                    let factors = factors.unwrap_or_else(|| vec![1.0; self.pairs]);
                    Some(factors.into_iter().map(|factor| decimal(factor) * scale).collect())
                };
                // Only with LongRoPE does llama.cpp use a second table, where an absent one divides by 1.
                let long = if kind == "longrope" { scaled(long) } else { scaled(short.clone()) };
                tables(scaled(short), long, original_context, attention_factor)
            }
        };
        Ok(Rope { theta, scaling })
    }

    /// The factors for short and for long contexts. Without LongRoPE the first apply to both.
    fn factors(&self, kind: &str) -> Result<[Option<Vec<f32>>; 2], GgufError> {
        let is_llama = self.architecture == ModelType::Llama.name();
        let used: &[&str] = match kind {
            _ if !is_llama => &[],
            "longrope" => &[SHORT_FACTORS, LONG_FACTORS],
            _ => &[FACTORS],
        };
        for name in [FACTORS, SHORT_FACTORS, LONG_FACTORS] {
            if self.gguf.tensor(name).is_some() && !used.contains(&name) {
                let problem = match is_llama {
                    true => format!("is not used with `{kind}`, the kind of scaling that the file names"),
                    false => format!("is not used in models of the architecture `{}`", self.architecture),
                };
                return Err(GgufError::Metadata { key: name.into(), problem });
            }
        }
        let mut factors = [None, None];
        for (name, place) in used.iter().zip(&mut factors) {
            *place = self.table(name)?;
        }
        Ok(factors)
    }

    fn table(&self, name: &str) -> Result<Option<Vec<f32>>, GgufError> {
        let bad = |problem: String| GgufError::Metadata { key: name.to_owned(), problem };
        let Some(tensor) = self.gguf.tensor(name) else { return Ok(None) };
        if tensor.dtype != GgmlType::F32 {
            return Err(bad("must be F32".into()));
        }
        let bytes = tensor.bytes(self.file).as_chunks().0;
        if bytes.len() != self.pairs {
            let problem = format!("has {} factors, heads have {} pairs", bytes.len(), self.pairs);
            return Err(bad(problem));
        }
        let factors: Vec<f32> = bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match factors.iter().find(|factor| !(factor.is_finite() && **factor >= f32::MIN_POSITIVE)) {
            Some(factor) => Err(bad(format!("has the factor {factor}, factors are positive"))),
            None => Ok(Some(factors)),
        }
    }

    /// Refuses YaRN settings that llama.cpp reads for other architectures only: it is unknown which of the two
    /// behaviours the file was made for.
    fn check_yarn(&self) -> Result<(), GgufError> {
        for (name, usual) in [
            ("rope.scaling.yarn_ext_factor", 1.0),
            ("rope.scaling.yarn_attn_factor", 1.0),
            ("rope.scaling.yarn_beta_fast", BETA_FAST),
            ("rope.scaling.yarn_beta_slow", BETA_SLOW),
        ] {
            if let Some(found) = self.float(name)?.filter(|found| *found != usual) {
                let problem = format!(
                    "is {found}; llama.cpp computes with {usual} for `{}`, and only that is supported",
                    self.architecture
                );
                return Err(self.bad(name, problem));
            }
        }
        Ok(())
    }

    fn float(&self, name: &str) -> Result<Option<f64>, GgufError> {
        float(self.gguf.metadata(), &self.key(name))
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn bad(&self, name: &str, problem: String) -> GgufError {
        GgufError::Metadata { key: self.key(name), problem }
    }
}

/// A number from a file's metadata: an F32 there, converted to the shortest decimal that rounds to it.
pub(crate) fn float(metadata: &aibit_gguf::Metadata, key: &str) -> Result<Option<f64>, GgufError> {
    let Some(value) = metadata.float(key)? else { return Ok(None) };
    // JSON has no such numbers; the key would appear to be missing.
    if !(value as f32).is_finite() {
        let problem = format!("is {value}, it must be a finite F32");
        return Err(GgufError::Metadata { key: key.to_owned(), problem });
    }
    Ok(Some(decimal(value as f32)))
}

/// The shortest decimal that rounds to a finite F32.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn product(a: &[f32], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| decimal(*a) * decimal(*b)).collect()
}

fn tables(
    short: Option<Vec<f64>>,
    long: Option<Vec<f64>>,
    original_context: usize,
    attention_factor: f64,
) -> RopeScaling {
    RopeScaling::LongRope {
        short_factor: short.unwrap_or_default(),
        long_factor: long.unwrap_or_default(),
        original_context,
        attention_factor,
    }
}

/// YaRN's default factor on cosines and sines for `scale`.
fn yarn_attention_factor(scale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 1.0 + 0.1 * scale.ln() }
}

/// The settings of Llama 3.1 and later that give these factors. Files have only the factors; the largest is one of
/// the settings, the original context follows from any intermediate factor, and the rest is the same in every model
/// so far.
fn llama3_settings(theta: f64, factors: &[f32]) -> Option<RopeScaling> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    if factors.iter().any(|factor| *factor < 1.0) {
        return None;
    }
    // The original context follows from blended frequencies; if there are none, every context without blending is
    // equivalent.
    let plain = Rope { theta, scaling: RopeScaling::Default }.frequencies(2 * factors.len());
    let blended = factors.iter().zip(plain).find(|(divisor, _)| **divisor > 1.0 && **divisor < factor);
    let solved = blended.map(|(divisor, frequency)| {
        let [divisor, factor, frequency] = [*divisor, factor, frequency].map(f64::from);
        let smooth = (divisor.recip() - factor.recip()) / (1.0 - factor.recip());
        ((1.0 + 3.0 * smooth) * std::f64::consts::TAU / frequency).round() as u32
    });
    let known = [8192, 4096, 2048, 16_384, 32_768, 131_072];
    solved.into_iter().chain(known).find_map(|original: u32| {
        let scaling = RopeScaling::Llama3 {
            factor: decimal(factor),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: original.into(),
        };
        let rope = Rope { theta, scaling };
        let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
        rope.divisors(2 * factors.len()).iter().zip(factors).all(is_near).then_some(rope.scaling)
    })
}

/// Keys and tensors that only GGUF files have.
pub(crate) struct Written {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) constants: Vec<(&'static str, Vec<f32>)>,
}

/// The keys and tensors by which llama.cpp computes `rope` in a model of `architecture` with heads of `head_dim`
/// elements.
///
/// # Errors
/// Why it cannot be expressed.
pub(crate) fn write(rope: &Rope, architecture: &str, head_dim: usize) -> Result<Written, String> {
    let mut written = Written { metadata: Vec::new(), constants: Vec::new() };
    let mut set = |name: &str, value| written.metadata.push((format!("{architecture}.rope.{name}"), value));
    set("freq_base", Value::F32(rope.theta as f32));
    let tensors = match &rope.scaling {
        // The two are the same up to the context of the file.
        RopeScaling::Default | RopeScaling::Dynamic { .. } => Vec::new(),
        RopeScaling::Linear { factor } => {
            set("scaling.type", Value::String("linear".into()));
            set("scaling.factor", Value::F32(*factor as f32));
            Vec::new()
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            truncate: true,
            original_context,
            attention_factor,
        } if (*beta_fast, *beta_slow) == (BETA_FAST, BETA_SLOW) && original_context.fract() == 0.0 => {
            set("scaling.type", Value::String("yarn".into()));
            set("scaling.factor", Value::F32(*factor as f32));
            set("scaling.original_context_length", Value::U32(*original_context as u32));
            let of_its_own = attention_factor / yarn_attention_factor(*factor);
            if of_its_own as f32 != 1.0 {
                set("scaling.attn_factor", Value::F32(of_its_own as f32));
            }
            Vec::new()
        }
        RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor }
            if short_factor != long_factor =>
        {
            let floats = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect::<Vec<_>>();
            let original =
                u32::try_from(*original_context).map_err(|_| "its original context is too long")?;
            set("scaling.type", Value::String("longrope".into()));
            set("scaling.original_context_length", Value::U32(original));
            set("scaling.attn_factor", Value::F32(*attention_factor as f32));
            vec![(LONG_FACTORS, floats(long_factor)), (SHORT_FACTORS, floats(short_factor))]
        }
        RopeScaling::Llama3 { .. } | RopeScaling::Yarn { .. } | RopeScaling::LongRope { .. } => {
            if rope.attention_factor() != 1.0 {
                set("scaling.attn_factor", Value::F32(rope.attention_factor()));
            }
            let factors = rope.divisors(head_dim);
            match factors.first() {
                // One factor for all, for which every architecture has a key.
                Some(first) if factors.iter().all(|factor| factor == first) => {
                    set("scaling.type", Value::String("linear".into()));
                    set("scaling.factor", Value::F32(*first));
                    Vec::new()
                }
                _ => vec![(FACTORS, factors)],
            }
        }
    };
    if !tensors.is_empty() && architecture != ModelType::Llama.name() {
        let kind = match rope.scaling {
            RopeScaling::Llama3 { .. } => "llama3",
            RopeScaling::Yarn { .. } => "yarn with settings of its own",
            _ => "longrope",
        };
        return Err(format!(
            "its architecture `{architecture}` does not have rope scaling of the kind {kind}"
        ));
    }
    written.constants = tensors;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use aibit_gguf::{GgufLayout, Metadata};

    use super::*;

    #[test]
    fn the_settings_of_llama_3_are_found_in_its_factors() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let rope = Rope { theta: 5e5, scaling };
        assert_eq!(llama3_settings(5e5, &rope.divisors(64)), Some(rope.scaling));
        assert_eq!(llama3_settings(5e5, &[1.0, 3.0, 2.0, 7.0]), None);
    }

    const HEAD_DIM: usize = 16;
    const CONTEXT: u64 = 4096;

    /// The rotary embedding of a file with these keys of `architecture` and these factors.
    fn of(
        architecture: &str,
        keys: &[(&str, Value)],
        factors: &[(&str, Vec<f32>)],
    ) -> Result<Rope, GgufError> {
        let mut metadata = Metadata::default();
        for (key, value) in keys {
            metadata.set(format!("{architecture}.rope.{key}"), value.clone());
        }
        let list: Vec<_> =
            factors.iter().map(|(name, f)| ((*name).to_owned(), GgmlType::F32, vec![f.len()])).collect();
        let layout = GgufLayout::new(&metadata, &list)?;
        let mut file = layout.header().to_vec();
        for (info, (_, factors)) in layout.tensors().iter().zip(factors) {
            file.resize(info.range.start, 0);
            file.extend(factors.iter().flat_map(|factor| factor.to_le_bytes()));
        }
        file.resize(layout.file_bytes(), 0);
        read(&Gguf::parse(&file)?, &file, architecture, CONTEXT, HEAD_DIM)
    }

    /// `ggml_rope_cache_init` and `rope_yarn` of llama.cpp with its context's parameters: the angle of each pair at
    /// position 1, and the factor on its sine and cosine.
    fn llama_cpp(
        base: f64,
        scale: f64,
        is_yarn: bool,
        original: f64,
        attn_factor: f64,
        factors: &[f32],
    ) -> (Vec<f64>, f64) {
        let freq_scale = 1.0 / scale;
        let d = HEAD_DIM as f64;
        let corr_dim = |rotations: f64| {
            d * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * base.ln())
        };
        let (start, end) = (corr_dim(32.0).floor().max(0.0), corr_dim(1.0).ceil().min(d - 1.0));
        let angle = |pair: usize| {
            let extrapolated = base.powf(-2.0 * pair as f64 / d) / f64::from(factors[pair]);
            let interpolated = freq_scale * extrapolated;
            if !is_yarn {
                return interpolated;
            }
            let y = (pair as f64 - start) / (end - start).max(0.001);
            let mix = 1.0 - y.clamp(0.0, 1.0);
            interpolated * (1.0 - mix) + extrapolated * mix
        };
        let grown = 1.0 + 0.1 * (1.0 / freq_scale).ln();
        let mscale = match is_yarn {
            // The context cancels the kernel's factor.
            true => attn_factor * if scale <= 1.0 { 1.0 } else { grown } / grown * grown,
            false => attn_factor,
        };
        ((0..HEAD_DIM / 2).map(angle).collect(), mscale)
    }

    #[track_caller]
    fn check(rope: &Rope, (angles, mscale): (Vec<f64>, f64)) {
        for (found, want) in rope.frequencies(HEAD_DIM).iter().zip(angles) {
            assert!((f64::from(*found) / want - 1.0).abs() < 1e-6, "{found}, want {want}: {rope:?}");
        }
        assert!((f64::from(rope.attention_factor()) / mscale - 1.0).abs() < 1e-6, "want {mscale}: {rope:?}");
    }

    fn text(value: &str) -> Value {
        Value::String(value.to_owned())
    }

    #[test]
    fn linear_scaling_is_read_in_every_spelling() {
        let ones = [1.0; HEAD_DIM / 2];
        for architecture in ["llama", "qwen2", "qwen3"] {
            let linear = |keys: &[(&str, Value)]| of(architecture, keys, &[]).expect("read");
            let factor = || ("scaling.factor", Value::F32(2.5));
            let old = || ("scale_linear", Value::F32(2.5));
            for keys in [
                vec![factor()],
                vec![old()],
                vec![("scaling.type", text("linear")), factor()],
                vec![("scaling.type", text("linear")), old()],
                vec![factor(), ("scale_linear", Value::F32(8.0))],
                // Without tables, LongRoPE divides only by its factor.
                vec![("scaling.type", text("longrope")), factor()],
            ] {
                let rope = linear(&keys);
                assert_eq!(rope.scaling, RopeScaling::Linear { factor: 2.5 }, "{keys:?}");
                check(&rope, llama_cpp(10_000.0, 2.5, false, 4096.0, 1.0, &ones));
            }
            for keys in [
                vec![],
                vec![("scaling.type", text("none")), factor()],
                vec![("scaling.type", text("none")), old()],
                vec![("scaling.type", text("linear"))],
                vec![("scaling.factor", Value::F32(0.0))],
                vec![("scaling.factor", Value::F32(1.0))],
                vec![("scaling.factor", Value::F32(0.0)), old()],
                vec![("scaling.type", text("longrope"))],
            ] {
                assert_eq!(linear(&keys).scaling, RopeScaling::Default, "{keys:?}");
            }
            let rope = linear(&[
                ("freq_base", Value::F32(5e5)),
                ("scaling.attn_factor", Value::F32(1.25)),
                factor(),
            ]);
            check(&rope, llama_cpp(5e5, 2.5, false, 4096.0, 1.25, &ones));
        }
    }

    #[test]
    fn yarn_and_factors_are_what_llama_cpp_computes() {
        let ones = vec![1.0_f32; HEAD_DIM / 2];
        let factors: Vec<f32> = (0..HEAD_DIM / 2).map(|i| 1.0 + i as f32 * 0.75).collect();
        let yarn = |more: &[(&'static str, Value)]| {
            let mut keys = vec![("scaling.type", text("yarn")), ("scaling.factor", Value::F32(4.0))];
            keys.extend_from_slice(more);
            keys
        };
        for architecture in ["llama", "qwen2", "qwen3"] {
            let rope = of(architecture, &yarn(&[]), &[]).expect("read");
            check(&rope, llama_cpp(10_000.0, 4.0, true, CONTEXT as f64, 1.0, &ones));
            let keys = yarn(&[
                ("freq_base", Value::F32(1e6)),
                ("scaling.original_context_length", Value::U32(1024)),
                ("scaling.attn_factor", Value::F32(0.75)),
                ("scaling.yarn_beta_fast", Value::F32(32.0)),
                ("scaling.yarn_ext_factor", Value::F32(1.0)),
            ]);
            let rope = of(architecture, &keys, &[]).expect("read");
            check(&rope, llama_cpp(1e6, 4.0, true, 1024.0, 0.75, &ones));
        }
        // The default factor is 1.
        let rope = of("llama", &[("scaling.type", text("yarn"))], &[]).expect("read");
        check(&rope, llama_cpp(10_000.0, 1.0, true, CONTEXT as f64, 1.0, &ones));

        let tables = [(FACTORS, factors.clone())];
        check(&of("llama", &[], &tables).expect("read"), llama_cpp(10_000.0, 1.0, false, 0.0, 1.0, &factors));
        let scaled = [("scaling.factor", Value::F32(2.0)), ("scaling.attn_factor", Value::F32(1.5))];
        check(
            &of("llama", &scaled, &tables).expect("read"),
            llama_cpp(10_000.0, 2.0, false, 0.0, 1.5, &factors),
        );
        let both = yarn(&[("scaling.original_context_length", Value::U32(512))]);
        check(
            &of("llama", &both, &tables).expect("read"),
            llama_cpp(10_000.0, 4.0, true, 512.0, 1.0, &factors),
        );
    }

    #[test]
    fn longrope_is_read_with_its_two_tables() {
        let short: Vec<f32> = (0..HEAD_DIM / 2).map(|i| 1.0 + i as f32 * 0.1).collect();
        let long: Vec<f32> = (0..HEAD_DIM / 2).map(|i| 1.5 + i as f32).collect();
        let keys = [
            ("scaling.type", text("longrope")),
            ("scaling.original_context_length", Value::U32(1024)),
            ("scaling.attn_factor", Value::F32(1.19)),
        ];
        let tables = [(LONG_FACTORS, long.clone()), (SHORT_FACTORS, short.clone())];
        let rope = of("llama", &keys, &tables).expect("read");
        check(&rope, llama_cpp(10_000.0, 1.0, false, 0.0, 1.19, &short));
        let (frequencies, above) = rope.long_frequencies(HEAD_DIM).expect("two tables");
        assert_eq!(above, 1024);
        for (found, want) in frequencies.iter().zip(llama_cpp(10_000.0, 1.0, false, 0.0, 1.19, &long).0) {
            assert!((f64::from(*found) / want - 1.0).abs() < 1e-6, "{found}, want {want}");
        }
        // With one table, the other divides by 1; a factor applies as well.
        let one = of("llama", &keys, &tables[..1]).expect("read");
        check(&one, llama_cpp(10_000.0, 1.0, false, 0.0, 1.19, &[1.0; HEAD_DIM / 2]));
        let scaled = [keys[0].clone(), ("scaling.factor", Value::F32(2.0))];
        check(
            &of("llama", &scaled, &tables).expect("read"),
            llama_cpp(10_000.0, 2.0, false, 0.0, 1.0, &short),
        );
    }

    #[test]
    fn factors_that_a_file_does_not_use_are_refused() {
        let ones = vec![1.0_f32; HEAD_DIM / 2];
        for (architecture, kind, name) in [
            ("llama", "linear", LONG_FACTORS),
            ("llama", "linear", SHORT_FACTORS),
            ("llama", "yarn", SHORT_FACTORS),
            ("llama", "longrope", FACTORS),
            ("qwen2", "linear", FACTORS),
            ("qwen2", "longrope", LONG_FACTORS),
            ("qwen3", "longrope", SHORT_FACTORS),
        ] {
            let error = of(architecture, &[("scaling.type", text(kind))], &[(name, ones.clone())]);
            let error = error.expect_err("not used").to_string();
            assert!(error.contains(name) && error.contains("is not used"), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 1024.0,
        };
        let yarn = |beta_fast, truncate, attention_factor| RopeScaling::Yarn {
            factor: 4.0,
            beta_fast,
            beta_slow: 1.0,
            truncate,
            original_context: 512.0,
            attention_factor,
        };
        let usual = yarn_attention_factor(4.0);
        let longrope = |long: f64| RopeScaling::LongRope {
            short_factor: (0..HEAD_DIM / 2).map(|i| 1.0 + i as f64 * 0.125).collect(),
            long_factor: (0..HEAD_DIM / 2).map(|i| 1.0 + i as f64 * long).collect(),
            original_context: 2048,
            attention_factor: 1.25,
        };
        let uniform = RopeScaling::LongRope {
            short_factor: vec![2.0; HEAD_DIM / 2],
            long_factor: vec![2.0; HEAD_DIM / 2],
            original_context: 2048,
            attention_factor: 1.25,
        };
        for (scaling, is_for_llama_only) in [
            (RopeScaling::Default, false),
            (RopeScaling::Linear { factor: 2.5 }, false),
            (RopeScaling::Dynamic { factor: 2.5 }, false),
            (llama3, true),
            (yarn(32.0, true, usual), false),
            (yarn(32.0, true, 0.75), false),
            (yarn(16.0, true, usual), true),
            (yarn(32.0, false, 0.75), true),
            (longrope(1.5), true),
            (longrope(0.125), true),
            (uniform, false),
        ] {
            let rope = Rope { theta: 10_000.0, scaling };
            for architecture in ["llama", "qwen2", "qwen3"] {
                let written = write(&rope, architecture, HEAD_DIM);
                if is_for_llama_only && architecture != "llama" {
                    let problem = written.err().expect("no key says it");
                    assert!(problem.contains(architecture), "{problem}");
                    continue;
                }
                let written = written.expect("written");
                let prefix = format!("{architecture}.rope.");
                let keys: Vec<_> = written
                    .metadata
                    .iter()
                    .map(|(key, value)| (key.strip_prefix(&prefix).expect("a key"), value.clone()))
                    .collect();
                let again = of(architecture, &keys, &written.constants).expect("read");
                let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a / b - 1.0).abs() < 1e-6);
                assert!(
                    near(&again.frequencies(HEAD_DIM), &rope.frequencies(HEAD_DIM)),
                    "{rope:?}: {again:?}"
                );
                assert!((again.attention_factor() / rope.attention_factor() - 1.0).abs() < 1e-6, "{again:?}");
                let long = |rope: &Rope| rope.long_frequencies(HEAD_DIM);
                match (long(&rope), long(&again)) {
                    (Some(a), Some(b)) => assert!(near(&a.0, &b.0) && a.1 == b.1),
                    (a, b) => assert_eq!(a, b),
                }
            }
        }
    }
}
