//! RoPE settings in `config.json`: read as by transformers 5, written so that transformers 4 and 5 read them alike.

use aibit_graph::{ConfigError, ConfigFields};
use serde_json::{Map, Value, json};

use crate::{Rope, RopeScaling, config::FAMILY};

/// Base of the frequencies if a configuration has none.
const DEFAULT_THETA: f64 = 10_000.0;

/// The largest original context.
const MAX_CONTEXT: f64 = (1_u32 << 24) as f64;

/// The RoPE settings of a configuration with a context of `context` and heads of `head_dim` elements.
///
/// `rope_scaling` replaces `rope_parameters` as a whole unless it is empty, and `rope_type` takes precedence over
/// `type`. The base and the rotated part are inside it or else at the top level; the original context is at the top
/// level or else inside.
///
/// Source: transformers 5.24, `RotaryEmbeddingConfigMixin` in `modeling_rope_utils.py`.
pub(crate) fn read(fields: &ConfigFields, context: usize, head_dim: usize) -> Result<Rope, ConfigError> {
    let scaling = fields.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let parameters = fields.object("rope_parameters")?;
    let settings = scaling.or(parameters).unwrap_or_default();
    if let Some((name, value)) = settings.iter().find(|(_, value)| value.is_object()) {
        let supported = "one setting for all layers is";
        return Err(ConfigError::unsupported(FAMILY, settings.path(name), value, supported));
    }
    let inside =
        settings.number("partial_rotary_factor")?.map(|part| (settings.path("partial_rotary_factor"), part));
    let outside =
        fields.number("partial_rotary_factor")?.map(|part| ("partial_rotary_factor".to_owned(), part));
    if let Some((field, part)) = inside.or(outside).filter(|(_, part)| *part != 1.0) {
        let supported = "1 is: positions turn whole heads";
        return Err(ConfigError::unsupported(FAMILY, field, &part.into(), supported));
    }
    let theta = match settings.number("rope_theta")? {
        Some(theta) => check(settings.path("rope_theta"), theta, theta > 1.0, "a number above 1")?,
        None => {
            let theta = fields.number("rope_theta")?.unwrap_or(DEFAULT_THETA);
            check("rope_theta".into(), theta, theta > 1.0, "a number above 1")?
        }
    };
    let scaling =
        Reader { fields, settings: &settings, context: context as f64, pairs: head_dim / 2 }.scaling()?;
    Ok(Rope { theta, scaling })
}

/// The fields of `config.json` that express `rope` for every version of transformers: version 4 reads `rope_theta`
/// and `rope_scaling`, version 5 writes `rope_parameters`; with all three, their meaning is the same.
pub fn rope_settings(rope: &Rope) -> Map<String, Value> {
    let mut fields = Map::new();
    let scaling = match rope.scaling {
        RopeScaling::Default => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": whole(original_context),
        }),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_context, attention_factor } => {
            json!({
                "rope_type": "yarn",
                "factor": factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "original_max_position_embeddings": whole(original_context),
                "attention_factor": attention_factor,
            })
        }
        RopeScaling::LongRope { ref short_factor, ref long_factor, original_context, attention_factor } => {
            // Version 4 expects it here.
            fields.insert("original_max_position_embeddings".into(), original_context.into());
            json!({
                "rope_type": "longrope",
                "short_factor": short_factor,
                "long_factor": long_factor,
                "original_max_position_embeddings": original_context,
                "attention_factor": attention_factor,
            })
        }
    };
    let mut parameters = match &scaling {
        Value::Object(scaling) => scaling.clone(),
        _ => Map::from_iter([("rope_type".to_owned(), "default".into())]),
    };
    parameters.insert("rope_theta".into(), rope.theta.into());
    fields.insert("rope_theta".into(), rope.theta.into());
    fields.insert("rope_scaling".into(), scaling);
    fields.insert("rope_parameters".into(), parameters.into());
    fields
}

/// A number as an integer if it is one, the form that transformers uses for lengths.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < MAX_CONTEXT { (number as i64).into() } else { number.into() }
}

fn check(field: String, value: f64, is_allowed: bool, allowed: &str) -> Result<f64, ConfigError> {
    if is_allowed && value.is_finite() && (value as f32).is_finite() {
        return Ok(value);
    }
    Err(ConfigError::out_of_range(field, value, allowed))
}

/// Whether a number is positive as an F32, and can be a divisor.
fn is_positive(number: f64) -> bool {
    number as f32 >= f32::MIN_POSITIVE
}

/// Reads the settings of RoPE scaling.
struct Reader<'a> {
    fields: &'a ConfigFields,
    /// `rope_scaling` or `rope_parameters`.
    settings: &'a ConfigFields,
    context: f64,
    pairs: usize,
}

impl Reader<'_> {
    fn scaling(&self) -> Result<RopeScaling, ConfigError> {
        let kind = match self.settings.string("rope_type")? {
            Some(kind) => kind,
            None => self.settings.string("type")?.unwrap_or_else(|| "default".into()),
        };
        match kind.as_str() {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: self.required("factor")? }),
            "dynamic" => Ok(RopeScaling::Dynamic { factor: self.required("factor")? }),
            "llama3" => self.llama3(),
            "yarn" => self.yarn(),
            "longrope" => self.longrope(),
            _ => {
                let supported = "default, linear, dynamic, llama3, yarn and longrope are";
                let field = match self.settings.get("rope_type") {
                    Some(_) => self.settings.path("rope_type"),
                    None => self.settings.path("type"),
                };
                Err(ConfigError::unsupported(FAMILY, field, &kind.into(), supported))
            }
        }
    }

    fn llama3(&self) -> Result<RopeScaling, ConfigError> {
        let (low, high) = (self.required("low_freq_factor")?, self.required("high_freq_factor")?);
        let field = self.settings.path("high_freq_factor");
        Ok(RopeScaling::Llama3 {
            factor: self.required("factor")?,
            low_freq_factor: low,
            high_freq_factor: check(field, high, high > low, "a number above low_freq_factor")?,
            original_context: self.original_context()?,
        })
    }

    fn yarn(&self) -> Result<RopeScaling, ConfigError> {
        let original_context = self.original_context()?;
        let factor = self.positive("factor")?.unwrap_or(self.context / original_context);
        // Zero means absent in the reference, here and below.
        let number = |name| Ok::<_, ConfigError>(self.settings.number(name)?.filter(|number| *number != 0.0));
        let beta = |name: &'static str, default| {
            let beta = number(name)?.unwrap_or(default);
            check(self.settings.path(name), beta, is_positive(beta), "a positive number")
        };
        let attention_factor = match self.settings.number("attention_factor")? {
            Some(factor) => factor,
            None => {
                let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                match (number("mscale")?, number("mscale_all_dim")?) {
                    (Some(mscale), Some(all_dim)) => scale(mscale) / scale(all_dim),
                    _ => scale(1.0),
                }
            }
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: beta("beta_fast", 32.0)?,
            beta_slow: beta("beta_slow", 1.0)?,
            truncate: self.settings.boolean("truncate")?.unwrap_or(true),
            original_context,
            attention_factor: self.attention_factor(attention_factor)?,
        })
    }

    fn longrope(&self) -> Result<RopeScaling, ConfigError> {
        let original_context = self.original_context()?;
        let attention_factor = match self.settings.number("attention_factor")? {
            Some(factor) => factor,
            None => {
                let factor = self.positive("factor")?.unwrap_or(self.context / original_context);
                if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_context.ln()).sqrt() }
            }
        };
        Ok(RopeScaling::LongRope {
            short_factor: self.table("short_factor")?,
            long_factor: self.table("long_factor")?,
            // The integer part of the context.
            original_context: original_context as usize,
            attention_factor: self.attention_factor(attention_factor)?,
        })
    }

    fn original_context(&self) -> Result<f64, ConfigError> {
        const NAME: &str = "original_max_position_embeddings";
        let (field, context) = match (self.fields.number(NAME)?, self.settings.number(NAME)?) {
            (Some(context), _) => (NAME.to_owned(), context),
            (None, inside) => (self.settings.path(NAME), inside.unwrap_or(self.context)),
        };
        check(field, context, (1.0..=MAX_CONTEXT).contains(&context), "1 to 16777216")
    }

    fn attention_factor(&self, factor: f64) -> Result<f64, ConfigError> {
        check(self.settings.path("attention_factor"), factor, true, "a number that an F32 can be")
    }

    fn table(&self, name: &'static str) -> Result<Vec<f64>, ConfigError> {
        let path = self.settings.path(name);
        let allowed = || format!("a list of {} positive numbers, one for each pair of a head", self.pairs);
        let Some(table) = self.settings.numbers(name)? else {
            return Err(ConfigError::out_of_range(path, "absent", allowed()));
        };
        if table.len() != self.pairs {
            return Err(ConfigError::out_of_range(path, format!("a list of {}", table.len()), allowed()));
        }
        for factor in &table {
            check(path.clone(), *factor, is_positive(*factor), &allowed())?;
        }
        Ok(table)
    }

    fn positive(&self, name: &'static str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.settings.number(name)? else { return Ok(None) };
        check(self.settings.path(name), value, is_positive(value), "a positive number").map(Some)
    }

    fn required(&self, name: &'static str) -> Result<f64, ConfigError> {
        self.positive(name)?
            .ok_or_else(|| ConfigError::out_of_range(self.settings.path(name), "absent", "a positive number"))
    }
}
