//! Sampling settings that a GGUF file recommends, `general.sampling.*`, as fields of `generation_config.json`.

use aibit_gguf::{GgufError, Metadata, Value};
use serde_json::{Map, Value as Json, json};

/// llama.cpp's defaults for settings that a file with a recommended temperature does not give.
const DEFAULTS: [(&str, f64); 3] = [("top_k", 40.0), ("top_p", 0.95), ("min_p", 0.05)];
/// llama.cpp's default number of tokens that the penalty considers.
const PENALTY_LAST_N: i64 = 64;

/// The fields, empty if the file recommends nothing. Unsupported samplers keep the name of their key and are noted by
/// the reader of the settings.
///
/// # Errors
/// [`GgufError::Metadata`] for a value that is not a number.
pub(crate) fn generation_config(metadata: &Metadata) -> Result<Map<String, Json>, GgufError> {
    let mut fields = Map::new();
    let get = |name: &str| number(metadata, &format!("general.sampling.{name}"));
    let temperature = get("temp")?;
    let is_sampled = temperature.is_some_and(|temperature| temperature > 0.0);
    if let Some(temperature) = temperature {
        fields.insert("do_sample".into(), json!(is_sampled));
        fields.insert("temperature".into(), json!(temperature.max(0.0)));
    }
    for (name, default) in DEFAULTS {
        if let Some(value) = get(name)?.or(is_sampled.then_some(default)) {
            // Below 0 means off.
            fields.insert(name.into(), json!(value.max(0.0)));
        }
    }
    if let Some(penalty) = get("penalty_repeat")? {
        fields.insert("repetition_penalty".into(), json!(penalty));
        let last_n = get("penalty_last_n")?.unwrap_or(PENALTY_LAST_N as f64);
        fields.insert("repeat_last_n".into(), json!(last_n.max(-1.0)));
    }
    for name in ["mirostat", "xtc_probability"] {
        if let Some(value) = get(name)?.filter(|&value| value != 0.0) {
            fields.insert(format!("general.sampling.{name}"), json!(value));
        }
    }
    if let Some(sequence) = metadata.get("general.sampling.sequence") {
        let text = if let Value::String(text) = sequence { text.as_str() } else { "" };
        fields.insert("general.sampling.sequence".into(), json!(text));
    }
    Ok(fields)
}

/// A finite number of any type.
fn number(metadata: &Metadata, key: &str) -> Result<Option<f64>, GgufError> {
    let number = match metadata.get(key) {
        None => return Ok(None),
        Some(&Value::U8(v)) => f64::from(v),
        Some(&Value::U16(v)) => f64::from(v),
        Some(&Value::U32(v)) => f64::from(v),
        Some(&Value::U64(v)) => v as f64,
        Some(&Value::I8(v)) => f64::from(v),
        Some(&Value::I16(v)) => f64::from(v),
        Some(&Value::I32(v)) => f64::from(v),
        Some(&Value::I64(v)) => v as f64,
        Some(&Value::F32(v)) => f64::from(v),
        Some(&Value::F64(v)) => v,
        Some(_) => f64::NAN,
    };
    if number.is_finite() {
        Ok(Some(number))
    } else {
        Err(GgufError::Metadata { key: key.to_owned(), problem: "is not a finite number".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &[(&str, Value)], want: Json) {
        let mut metadata = Metadata::default();
        for (key, value) in keys {
            metadata.set(format!("general.sampling.{key}"), value.clone());
        }
        assert_eq!(Json::Object(generation_config(&metadata).expect("settings")), want);
    }

    #[test]
    fn recommendations_become_settings() {
        check(&[], json!({}));
        check(
            &[("top_k", Value::I32(-1)), ("min_p", Value::F32(0.25))],
            json!({ "top_k": 0.0, "min_p": 0.25 }),
        );
        check(
            &[("temp", Value::F32(0.5)), ("top_p", Value::F64(0.75))],
            json!({ "do_sample": true, "temperature": 0.5, "top_k": 40.0, "top_p": 0.75, "min_p": 0.05 }),
        );
        check(&[("temp", Value::F32(0.0))], json!({ "do_sample": false, "temperature": 0.0 }));
        check(
            &[("penalty_repeat", Value::F32(1.5))],
            json!({ "repetition_penalty": 1.5, "repeat_last_n": 64.0 }),
        );
        check(
            &[("penalty_repeat", Value::F32(1.5)), ("penalty_last_n", Value::I32(-1))],
            json!({ "repetition_penalty": 1.5, "repeat_last_n": -1.0 }),
        );
        check(
            &[("mirostat", Value::I32(2)), ("xtc_probability", Value::F32(0.0))],
            json!({ "general.sampling.mirostat": 2.0 }),
        );
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for value in [Value::Bool(true), Value::String("0.5".into()), Value::F32(f32::NAN)] {
            let mut metadata = Metadata::default();
            metadata.set("general.sampling.temp", value);
            let error = generation_config(&metadata).expect_err("refused");
            assert!(error.to_string().contains("general.sampling.temp"), "{error}");
        }
    }
}
