//! What is written is read back.

use aibit_gguf::{Array, GgmlType, Gguf, GgufLayout, Metadata, Value};
use proptest::collection::vec;
use proptest::prelude::*;

type Planned = (String, GgmlType, Vec<usize>);

/// Not NaN, which equals nothing.
fn value() -> impl Strategy<Value = Value> {
    let array = prop_oneof![
        vec(any::<u8>(), 0..5).prop_map(Array::U8),
        vec(any::<i8>(), 0..5).prop_map(Array::I8),
        vec(any::<u16>(), 0..5).prop_map(Array::U16),
        vec(any::<i16>(), 0..5).prop_map(Array::I16),
        vec(any::<u32>(), 0..5).prop_map(Array::U32),
        vec(any::<i32>(), 0..5).prop_map(Array::I32),
        vec(any::<f32>(), 0..5).prop_map(Array::F32),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        vec(any::<String>(), 0..5).prop_map(Array::String),
        vec(any::<u64>(), 0..5).prop_map(Array::U64),
        vec(any::<i64>(), 0..5).prop_map(Array::I64),
        vec(any::<f64>(), 0..5).prop_map(Array::F64),
    ];
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        array.prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let alignment = prop::option::of((3_u32..10).prop_map(|power| Value::U32(1 << power)));
    (vec((".{1,20}", value()), 0..12), alignment).prop_map(|(entries, alignment)| {
        let mut metadata = Metadata::default();
        for (key, value) in entries {
            metadata.set(key, value);
        }
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", alignment);
        }
        metadata
    })
}

fn tensors() -> impl Strategy<Value = Vec<Planned>> {
    let tensor = (prop::sample::select(&GgmlType::ALL), vec(1..4_usize, 1..=4));
    vec((".{1,15}", tensor), 0..8).prop_map(|tensors| {
        let tensors = tensors.into_iter().enumerate();
        let tensors = tensors.map(|(index, (name, (dtype, mut shape)))| {
            *shape.last_mut().expect("a dimension") *= dtype.block_len();
            (format!("{index}{name}"), dtype, shape)
        });
        tensors.collect()
    })
}

/// The file of a layout, with each tensor's bytes counting on from its index.
fn assemble(layout: &GgufLayout) -> Vec<u8> {
    let mut file = layout.header().to_vec();
    for (index, tensor) in layout.tensors().iter().enumerate() {
        file.resize(tensor.range.start, 0);
        file.extend(tensor.range.clone().map(|at| (at + index) as u8));
    }
    file.resize(layout.file_bytes(), 0);
    file
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(metadata in metadata(), tensors in tensors()) {
        let layout = GgufLayout::new(&metadata, &tensors).expect("a layout");
        let file = assemble(&layout);
        let gguf = Gguf::parse(&file).expect("a sound file");
        prop_assert_eq!(gguf.version(), 3);
        prop_assert_eq!(gguf.metadata(), &metadata);
        prop_assert_eq!(gguf.tensors(), layout.tensors());
        let alignment = metadata.integer("general.alignment").expect("an integer").unwrap_or(32) as usize;
        prop_assert_eq!(file.len() % alignment, 0);
        for (index, (tensor, planned)) in gguf.tensors().iter().zip(&tensors).enumerate() {
            prop_assert_eq!((&tensor.name, tensor.dtype, &tensor.shape), (&planned.0, planned.1, &planned.2));
            prop_assert_eq!(tensor.range.start % alignment, 0);
            prop_assert_eq!(tensor.dtype.bytes(tensor.elements()), Some(tensor.range.len()));
            let want: Vec<u8> = tensor.range.clone().map(|at| (at + index) as u8).collect();
            prop_assert_eq!(tensor.bytes(&file), want);
        }
        // The padding after the last tensor may be missing.
        if let Some(last) = gguf.tensors().last() {
            prop_assert_eq!(Gguf::parse(&file[..last.range.end]).expect("a sound file"), gguf);
        }
    }
}

#[test]
fn bits_of_nan_and_zero_are_kept() {
    let mut metadata = Metadata::default();
    let (f32s, f64s) =
        ([0x7fc0_1234, 0x8000_0000, 0xff80_0000], [0x7ff8_0000_0000_0001, 0x8000_0000_0000_0000]);
    metadata.set("f32", Value::Array(Array::F32(f32s.map(f32::from_bits).to_vec())));
    metadata.set("f64", Value::Array(Array::F64(f64s.map(f64::from_bits).to_vec())));
    let layout = GgufLayout::new(&metadata, &[]).expect("a layout");
    let gguf = Gguf::parse(&assemble(&layout)).expect("a sound file");
    let Some(Value::Array(Array::F32(read))) = gguf.metadata().get("f32") else { panic!("an array") };
    assert_eq!(read.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), f32s);
    let Some(Value::Array(Array::F64(read))) = gguf.metadata().get("f64") else { panic!("an array") };
    assert_eq!(read.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), f64s);
}

#[track_caller]
fn check_refused(metadata: &[(&str, Value)], tensors: &[(&str, GgmlType, &[usize])], fragments: &[&str]) {
    let mut all = Metadata::default();
    metadata.iter().for_each(|(key, value)| all.set(*key, value.clone()));
    let tensors: Vec<Planned> = tensors.iter().map(|(n, d, s)| ((*n).to_owned(), *d, s.to_vec())).collect();
    let message = GgufLayout::new(&all, &tensors).expect_err("not possible").to_string();
    for fragment in fragments {
        assert!(message.contains(fragment), "`{fragment}` is not in: {message}");
    }
}

#[test]
fn what_would_not_be_read_is_not_planned() {
    use GgmlType::{F32, Q4K, Q8_0};
    let long = "n".repeat(64); // the format allows it, ggml does not read it
    check_refused(&[], &[("", F32, &[1])], &["tensor ``: a name of 0 bytes, allowed are 1 to 63"]);
    check_refused(&[], &[(&long, F32, &[1])], &["a name of 64 bytes, allowed are 1 to 63"]);
    check_refused(&[], &[("a", F32, &[1]), ("a", F32, &[1])], &["tensor `a`: is given twice"]);
    check_refused(&[], &[("a", F32, &[])], &["tensor `a`: 0 dimensions, allowed are 1 to 4"]);
    check_refused(&[], &[("a", F32, &[1; 5])], &["5 dimensions"]);
    check_refused(&[], &[("a", F32, &[3, 0])], &["shape [3, 0] has no elements"]);
    check_refused(&[], &[("a", Q8_0, &[32, 48])], &["rows of 48 elements, Q8_0 needs a multiple of 32"]);
    check_refused(&[], &[("a", Q4K, &[128])], &["rows of 128 elements, Q4_K needs a multiple of 256"]);
    check_refused(&[], &[("a", F32, &[usize::MAX])], &["shape [18446744073709551615] as F32 has more than"]);
    let huge: &[usize] = &[usize::MAX / 4];
    check_refused(&[], &[("a", F32, huge), ("b", F32, huge)], &["tensor `", "where no file does"]);
    check_refused(&[("", Value::U8(1))], &[], &["metadata `` has a name of 0 bytes"]);
    check_refused(&[(&"k".repeat(65_536), Value::U8(1))], &[], &["has a name of 65536 bytes"]);
    check_refused(&[("general.alignment", Value::U32(24))], &[], &["is 24, must be a power of two"]);
    check_refused(&[("general.alignment", Value::U64(32))], &[], &["must be of type u32"]);
}
