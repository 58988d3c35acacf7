//! `kinds.gguf`, written by llama.cpp's `gguf` package, against the list of what it holds.

use aibit_gguf::{Array, Gguf, GgufLayout, Value};
use serde_json::Value as Json;

use crate::support::golden;

fn kinds() -> (Vec<u8>, Json) {
    let list = serde_json::from_slice(&golden("kinds.json")).expect("JSON");
    (golden("kinds.gguf"), list)
}

fn list(json: &Json) -> &[Json] {
    json.as_array().expect("a list")
}

fn text(json: &Json) -> &str {
    json.as_str().expect("text")
}

fn integer<T: TryFrom<i128>>(json: &Json) -> T {
    let integer = json.as_u64().map(i128::from).or(json.as_i64().map(i128::from)).expect("an integer");
    T::try_from(integer).ok().expect("in range")
}

fn float(json: &Json) -> f64 {
    json.as_f64().expect("a number")
}

fn all<T>(json: &Json, of: impl Fn(&Json) -> T) -> Vec<T> {
    list(json).iter().map(of).collect()
}

fn value(kind: &str, json: &Json) -> Value {
    match kind {
        "UINT8" => Value::U8(integer(json)),
        "INT8" => Value::I8(integer(json)),
        "UINT16" => Value::U16(integer(json)),
        "INT16" => Value::I16(integer(json)),
        "UINT32" => Value::U32(integer(json)),
        "INT32" => Value::I32(integer(json)),
        "UINT64" => Value::U64(integer(json)),
        "INT64" => Value::I64(integer(json)),
        "FLOAT32" => Value::F32(float(json) as f32),
        "FLOAT64" => Value::F64(float(json)),
        "BOOL" => Value::Bool(json.as_bool().expect("a truth value")),
        "STRING" => Value::String(text(json).to_owned()),
        "ARRAY UINT8" => Value::Array(Array::U8(all(json, integer))),
        "ARRAY INT8" => Value::Array(Array::I8(all(json, integer))),
        "ARRAY UINT16" => Value::Array(Array::U16(all(json, integer))),
        "ARRAY INT16" => Value::Array(Array::I16(all(json, integer))),
        "ARRAY UINT32" => Value::Array(Array::U32(all(json, integer))),
        "ARRAY INT32" => Value::Array(Array::I32(all(json, integer))),
        "ARRAY UINT64" => Value::Array(Array::U64(all(json, integer))),
        "ARRAY INT64" => Value::Array(Array::I64(all(json, integer))),
        "ARRAY FLOAT32" => Value::Array(Array::F32(all(json, |v| float(v) as f32))),
        "ARRAY FLOAT64" => Value::Array(Array::F64(all(json, float))),
        "ARRAY BOOL" => Value::Array(Array::Bool(all(json, |v| v.as_bool().expect("a truth value")))),
        "ARRAY STRING" => Value::Array(Array::String(all(json, |v| text(v).to_owned()))),
        _ => panic!("type {kind}"),
    }
}

#[test]
fn metadata_of_every_type_is_read_in_file_order() {
    let (file, kinds) = kinds();
    let gguf = Gguf::parse(&file).expect("a sound file");
    assert_eq!(u64::from(gguf.version()), kinds["version"]);
    let want: Vec<(&str, Value)> = list(&kinds["metadata"])
        .iter()
        .map(|entry| (text(&entry[0]), value(text(&entry[1]), &entry[2])))
        .collect();
    let found: Vec<(&str, Value)> = gguf.metadata().iter().map(|(key, value)| (key, value.clone())).collect();
    assert_eq!(found, want);
    for (key, value) in &want {
        assert_eq!(gguf.metadata().get(key), Some(value), "{key}");
    }
    assert_eq!(gguf.metadata().get("kinds.none"), None);
}

#[test]
fn tensors_are_found_with_their_shapes_and_bytes() {
    let (file, kinds) = kinds();
    let gguf = Gguf::parse(&file).expect("a sound file");
    let want = list(&kinds["tensors"]);
    assert_eq!(gguf.tensors().len(), want.len());
    for (tensor, want) in gguf.tensors().iter().zip(want) {
        assert_eq!(tensor.name, text(&want["name"]));
        assert_eq!(tensor.dtype.name(), text(&want["dtype"]), "{}", tensor.name);
        assert_eq!(tensor.shape, all(&want["shape"], integer::<usize>), "{}", tensor.name);
        assert_eq!(tensor.range.start % 64, 0, "{}", tensor.name);
        assert_eq!(tensor.dtype.bytes(tensor.elements()), Some(tensor.range.len()), "{}", tensor.name);
        let bytes: String = tensor.bytes(&file).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, text(&want["bytes"]), "{}", tensor.name);
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
    }
    assert_eq!(gguf.tensor("none"), None);
}

#[test]
fn the_layout_of_the_same_metadata_and_tensors_is_the_same_file() {
    let (file, _) = kinds();
    let gguf = Gguf::parse(&file).expect("a sound file");
    let tensors: Vec<_> = gguf.tensors().iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect();
    let layout = GgufLayout::new(gguf.metadata(), &tensors).expect("a layout");
    assert_eq!(layout.header(), &file[..layout.header().len()]);
    assert_eq!(layout.tensors(), gguf.tensors());
    assert_eq!(layout.file_bytes(), file.len());
}
