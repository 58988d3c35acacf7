//! What is written is what is read, by this crate and by others.

use std::fs::File;
use std::io::Read;

use aibit_format::{Archive, Dtype, Scheme, WeightsIndex, WeightsLayout, check_values};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::support::{PAGE, Parts, Random, Stored, stored, weights_file};

/// Writes `parts`, and reads them back through this crate, `zip` and `safetensors`.
fn check(parts: &Parts, tensors: &[Stored]) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.aibit");
    let length = parts.write(&path);
    let file = std::fs::read(&path).expect("file");
    assert_eq!(file.len() as u64, length);

    let archive = Archive::open(&path).expect("open");
    assert_eq!((archive.path(), archive.file_bytes()), (path.as_path(), length));
    assert_eq!(*archive.manifest(), parts.full_manifest());
    let manifest = parts.full_manifest().to_json();
    let expected: Vec<_> = parts
        .entries
        .iter()
        .map(|(name, data)| (name.as_str(), data.as_slice()))
        .chain([("manifest.json", manifest.as_slice())])
        .collect();
    let found: Vec<_> = archive.entries().map(|entry| (entry.name, entry.data)).collect();
    assert_eq!(found, expected);
    for entry in archive.entries() {
        assert_eq!(entry.offset % PAGE as u64, 0, "{} starts at {}", entry.name, entry.offset);
        assert_eq!(&file[entry.offset as usize..][..entry.data.len()], entry.data);
        archive.verify_entry(entry.name).expect("verify");
    }
    check_values(archive.weights(), archive.manifest()).expect("values");

    assert_eq!(archive.weights().index().tensors().len(), tensors.len());
    for Stored { name, dtype, shape, data } in tensors {
        let tensor = archive.weights().get(name).expect("tensor");
        assert_eq!((tensor.info.dtype, &tensor.info.shape, tensor.data), (*dtype, shape, data.as_slice()));
        assert_eq!(tensor.info.elements(), shape.iter().product::<usize>());
        let offset = archive.weights().file_offset(tensor.info);
        assert_eq!(&file[offset as usize..][..data.len()], data);
        let line =
            if *dtype == Dtype::I8 && shape.len() > 1 && data.len().is_multiple_of(64) { 64 } else { 1 };
        assert_eq!(offset % (dtype.size().max(line)) as u64, 0, "{name} starts at {offset}");
    }
    assert!(archive.weights().get("no such tensor").is_none());

    let mut other = zip::ZipArchive::new(File::open(&path).expect("file")).expect("the zip crate's reader");
    assert_eq!(other.len(), expected.len());
    for (index, (name, data)) in expected.iter().enumerate() {
        let mut entry = other.by_index(index).expect("entry");
        assert_eq!(entry.name().expect("a name"), *name);
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
        assert_eq!(entry.unix_mode(), Some(0o100_644));
        let mut read = Vec::new();
        entry.read_to_end(&mut read).expect("data with the right checksum");
        assert_eq!(read, *data);
    }
    let weights = archive.entry("weights.safetensors").expect("entry").data;
    check_safetensors(weights, tensors);
}

fn check_safetensors(file: &[u8], tensors: &[Stored]) {
    let other = SafeTensors::deserialize(file).expect("the safetensors crate's reader");
    assert_eq!(other.len(), tensors.len());
    for Stored { name, dtype, shape, data } in tensors {
        let tensor = other.tensor(name).expect("tensor");
        assert_eq!(format!("{:?}", tensor.dtype()), dtype.name());
        assert_eq!((tensor.shape(), tensor.data()), (shape.as_slice(), data.as_slice()));
    }
}

const SAMPLE: [(&str, Scheme, &[usize]); 6] = [
    ("ln.weight", Scheme::F32, &[7]),
    ("h.0.weight", Scheme::Int8, &[16, 64]),
    ("wte.weight", Scheme::F16, &[5, 7]),
    ("h.1.weight", Scheme::Int8, &[3, 5]),
    ("wpe.weight", Scheme::F16, &[4, 8]),
    ("ln.bias", Scheme::Bf16, &[3]),
];

#[test]
fn this_crate_zip_and_safetensors_read_what_was_written() {
    check(&Parts::of(&SAMPLE), &stored(&SAMPLE));
}

#[test]
fn an_archive_without_tensors_is_read_back() {
    check(&Parts::of(&[]), &[]);
}

#[test]
fn the_test_builder_makes_the_bytes_that_the_writer_makes() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.aibit");
    Parts::sample().write(&path);
    assert!(std::fs::read(path).expect("file") == Parts::sample().zip().bytes());
}

#[test]
fn names_of_every_length_keep_data_on_pages() {
    // Names of 1 to 255 bytes, and sizes that move the next header over every place around a page's end.
    let mut parts = Parts::of(&[]);
    for length in 1..=255_usize {
        let name =
            format!("{length}-").chars().chain(std::iter::repeat('x')).take(length).collect::<String>();
        let name = if length < 4 { "abc"[..length].to_owned() } else { name };
        parts.entries.push((name, vec![length as u8; PAGE - 300 + length]));
    }
    check(&parts, &[]);
}

#[test]
fn two_writes_give_the_same_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    let (first, second) = (folder.path().join("first.aibit"), folder.path().join("second.aibit"));
    Parts::sample().write(&first);
    Parts::sample().write(&second);
    assert!(std::fs::read(first).expect("file") == std::fs::read(second).expect("file"));
}

#[test]
fn the_layout_is_code_matrices_then_other_whole_lines_then_the_rest_by_element_size() {
    let tensors = stored(&SAMPLE);
    let index = WeightsIndex::parse(&weights_file(&tensors)).expect("parse");
    let order: Vec<_> = index.tensors().iter().map(|t| (t.name.as_str(), t.begin)).collect();
    assert_eq!(
        order,
        [
            ("h.0.weight", 0),
            ("wpe.weight", 1024),
            ("ln.weight", 1088),
            ("h.0.SCB", 1116),
            ("h.1.SCB", 1180),
            ("wte.weight", 1192),
            ("ln.bias", 1262),
            ("h.1.weight", 1268),
        ]
    );
    assert_eq!(index.data_start() % 64, 0);
}

#[test]
fn a_layout_refuses_a_name_that_stands_twice() {
    let twice = [("a".to_owned(), Dtype::F32, vec![1]), ("a".to_owned(), Dtype::I8, vec![2, 2])];
    let error = WeightsLayout::new(&twice).expect_err("twice").to_string();
    assert_eq!(error, "tensor `a`: is given twice");
}

fn schemes_and_shapes() -> impl Strategy<Value = Vec<(Scheme, Vec<usize>)>> {
    let dims = |rank| prop::collection::vec(1..20_usize, rank);
    let float = (prop::sample::select(vec![Scheme::F32, Scheme::F16, Scheme::Bf16]), dims(1..=4));
    let codes = (Just(Scheme::Int8), prop_oneof![dims(2..=2), Just(vec![8, 64]), Just(vec![3, 128])]);
    let blocks = (prop::sample::select(Scheme::ALL[4..].to_vec()), 1..9_usize, 1..4_usize)
        .prop_map(|(scheme, rows, blocks)| (scheme, vec![rows, blocks * scheme.block()]));
    prop::collection::vec(prop_oneof![float, codes, blocks], 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_parameters_are_read_back(list in schemes_and_shapes(), suffix in prop::sample::select(vec!["", ".weight", ".ä\"\\\n"])) {
        let names: Vec<_> = (0..list.len()).map(|i| format!("p.{i}{suffix}")).collect();
        let parameters: Vec<_> =
            list.iter().zip(&names).map(|((scheme, shape), name)| (name.as_str(), *scheme, shape.as_slice())).collect();
        check(&Parts::of(&parameters), &stored(&parameters));
    }
}

proptest! {
    #[test]
    fn any_tensor_list_is_laid_out_and_parsed_back(
        list in prop::collection::vec(
            (prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I8]), prop::collection::vec(1..9_usize, 1..=8)),
            0..20,
        ),
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let tensors: Vec<_> = list
            .into_iter()
            .enumerate()
            .map(|(i, (dtype, shape))| {
                // Products of eight dimensions would grow too large: cut them.
                let shape: Vec<_> = shape.iter().scan(1, |product, &d| {
                    let d = if *product * d > 4096 { 1 } else { d };
                    *product *= d;
                    Some(d)
                }).collect();
                let bytes = shape.iter().product::<usize>() * dtype.size();
                Stored { name: format!("t{i}"), dtype, shape, data: (0..bytes).map(|_| random.next() as u8).collect() }
            })
            .collect();
        let file = weights_file(&tensors);
        let index = WeightsIndex::parse(&file).expect("parse");
        prop_assert_eq!(index.data_start() % 64, 0);
        for tensor in &tensors {
            let info = index.get(&tensor.name).expect("tensor");
            prop_assert_eq!((info.dtype, &info.shape), (tensor.dtype, &tensor.shape));
            prop_assert_eq!(&file[index.data_start()..][info.begin..info.end], tensor.data.as_slice());
            prop_assert_eq!(info.begin % info.dtype.size(), 0);
            if info.dtype == Dtype::I8 && info.shape.len() > 1 && info.bytes().is_multiple_of(64) {
                prop_assert_eq!(info.begin % 64, 0);
            }
        }
        check_safetensors(&file, &tensors);
    }
}
