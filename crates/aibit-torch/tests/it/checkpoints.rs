//! Torch checkpoints: two that torch wrote, and many that nobody should read.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;

use aibit_torch::{TorchCheckpoint, TorchDtype, TorchError, TorchTensor};
use half::f16;
use safetensors::{Dtype, SafeTensors};

// ---------------------------------------------------------------------------------------------
// Files that torch wrote.

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/tiny-gpt2").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn safetensors_dtype(dtype: TorchDtype) -> Dtype {
    match dtype {
        TorchDtype::F32 => Dtype::F32,
        TorchDtype::F16 => Dtype::F16,
        TorchDtype::I8 => Dtype::I8,
        TorchDtype::U8 => Dtype::U8,
        other => panic!("no golden tensor is {other}"),
    }
}

#[test]
fn int8_state_dict_equals_the_safetensors_file() {
    let file = golden("int8_state_dict.pt");
    let reference = golden("int8/model.safetensors");
    let reference = SafeTensors::deserialize(&reference).unwrap();
    let checkpoint = TorchCheckpoint::parse(&file).unwrap();
    let mut compared = 0;
    for tensor in checkpoint.tensors() {
        let bytes = checkpoint.bytes(&file, tensor).unwrap();
        assert!(matches!(bytes, Cow::Borrowed(_)), "{}", tensor.name);
        let Ok(want) = reference.tensor(&tensor.name) else {
            // safetensors drops the second name of a tied tensor.
            assert_eq!(tensor.name, "lm_head.weight");
            continue;
        };
        assert_eq!(safetensors_dtype(tensor.dtype), want.dtype(), "{}", tensor.name);
        assert_eq!(tensor.shape, want.shape(), "{}", tensor.name);
        assert_eq!(bytes, want.data(), "{}", tensor.name);
        compared += 1;
    }
    assert_eq!(compared, reference.names().len());
    TorchCheckpoint::verify(&file).unwrap();
}

#[test]
fn fp16_state_dict_holds_the_same_codes_and_rounded_floats() {
    let file = golden("int8_fp16_state_dict.pt");
    let reference = golden("int8/model.safetensors");
    let reference = SafeTensors::deserialize(&reference).unwrap();
    let checkpoint = TorchCheckpoint::parse(&file).unwrap();
    let (mut equal, mut rounded) = (0, 0);
    for want_name in reference.names() {
        let want = reference.tensor(want_name).unwrap();
        let tensor = checkpoint.tensor(want_name).unwrap();
        let bytes = checkpoint.bytes(&file, tensor).unwrap();
        assert_eq!(tensor.shape, want.shape(), "{want_name}");
        if tensor.dtype == TorchDtype::F16 {
            assert_eq!(want.dtype(), Dtype::F32);
            let (floats, _) = want.data().as_chunks::<4>();
            let want: Vec<u8> = floats
                .iter()
                .flat_map(|&float| f16::from_f32(f32::from_le_bytes(float)).to_le_bytes())
                .collect();
            assert_eq!(bytes, want, "{want_name}");
            rounded += 1;
        } else {
            assert_eq!(safetensors_dtype(tensor.dtype), want.dtype(), "{want_name}");
            assert_eq!(bytes, want.data(), "{want_name}");
            equal += 1;
        }
    }
    // Codes, scales and formats of 8 layers; embeddings, norms and biases.
    assert_eq!((equal, rounded), (24, 20));
    TorchCheckpoint::verify(&file).unwrap();
}

#[test]
fn tied_tensors_share_a_storage_and_order_is_kept() {
    let file = golden("int8_state_dict.pt");
    let checkpoint = TorchCheckpoint::parse(&file).unwrap();
    let names: Vec<_> = checkpoint.tensors().iter().map(|t| &t.name).collect();
    assert_eq!(names[0], "transformer.wte.weight");
    assert_eq!(names[1], "transformer.wpe.weight");
    assert_eq!(*names[names.len() - 1], "lm_head.weight");
    let (wte, head) = (&checkpoint.tensors()[0], checkpoint.tensor("lm_head.weight").unwrap());
    assert_eq!(wte.storage, head.storage);
    assert_eq!(wte.byte_offset, head.byte_offset);
    assert_eq!(wte.byte_offset % 64, 0);
    assert_eq!(wte.storage_bytes, 512 * 64 * 4);
}

// ---------------------------------------------------------------------------------------------
// Files built by hand.

/// One member of a zip archive, with every field that a test wants to be wrong.
#[derive(Clone)]
struct Member {
    name: Vec<u8>,
    content: Vec<u8>,
    method: u16,
    flags: u16,
    crc: u32,
    /// Name in the local header, if it differs.
    local_name: Option<Vec<u8>>,
    unix_mode: u32,
}

fn member(name: &str, content: &[u8]) -> Member {
    Member {
        name: name.into(),
        content: content.into(),
        method: 0,
        flags: 0x0800,
        crc: crc32(content),
        local_name: None,
        unix_mode: 0o100_644,
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    !crc
}

fn zip(members: &[Member]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let offset = file.len() as u32;
        let size = (member.content.len() as u32).to_le_bytes();
        let mut common = Vec::new();
        common.extend_from_slice(&20_u16.to_le_bytes());
        common.extend_from_slice(&member.flags.to_le_bytes());
        common.extend_from_slice(&member.method.to_le_bytes());
        common.extend_from_slice(&[0; 4]); // time and date
        common.extend_from_slice(&member.crc.to_le_bytes());
        common.extend_from_slice(&size);
        common.extend_from_slice(&size);

        let local_name = member.local_name.as_ref().unwrap_or(&member.name);
        file.extend_from_slice(b"PK\x03\x04");
        file.extend_from_slice(&common);
        file.extend_from_slice(&(local_name.len() as u16).to_le_bytes());
        file.extend_from_slice(&[0; 2]); // extra field
        file.extend_from_slice(local_name);
        file.extend_from_slice(&member.content);

        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&(member.name.len() as u16).to_le_bytes());
        directory.extend_from_slice(&[0; 8]); // extra field, comment, disk, internal attributes
        directory.extend_from_slice(&(member.unix_mode << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(&member.name);
    }
    let start = file.len() as u32;
    let count = (members.len() as u16).to_le_bytes();
    file.extend_from_slice(&directory);
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    file.extend_from_slice(&count);
    file.extend_from_slice(&count);
    file.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    file.extend_from_slice(&start.to_le_bytes());
    file.extend_from_slice(&[0; 2]); // comment
    file
}

/// The members of a checkpoint with one storage, `data/0`, of the bytes 0 to 23.
fn members(pickle: &[u8]) -> Vec<Member> {
    let storage: Vec<u8> = (0..24).collect();
    vec![
        member("model/data.pkl", pickle),
        member("model/byteorder", b"little"),
        member("model/data/0", &storage),
        member("model/version", b"3\n"),
    ]
}

fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    zip(&members(pickle))
}

/// A pickle under construction.
#[derive(Clone)]
struct Pickle(Vec<u8>);

fn pickle() -> Pickle {
    Pickle(b"\x80\x02".into())
}

impl Pickle {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }
    fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }
    fn int(self, value: i64) -> Self {
        self.raw(b"\x8a\x08").raw(&value.to_le_bytes())
    }
    fn ints(mut self, values: &[i64]) -> Self {
        self = self.raw(b"(");
        for &value in values {
            self = self.int(value);
        }
        self.raw(b"t")
    }
    fn ordered_dict(self) -> Self {
        self.global("collections", "OrderedDict").raw(b")R")
    }
    /// Pushes a tensor over the storage `key` of `numel` elements of `class`.
    fn tensor(self, class: &str, key: &str, numel: i64, view: &View<'_>) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .raw(b"((")
            .text("storage")
            .global("torch", class)
            .text(key)
            .text("cpu")
            .int(numel)
            .raw(b"tQ")
            .int(view.offset)
            .ints(view.size)
            .ints(view.stride)
            .raw(b"\x89")
            .ordered_dict()
            .raw(b"tR")
    }
    fn file(self) -> Vec<u8> {
        checkpoint(&self.0)
    }
}

struct View<'a> {
    offset: i64,
    size: &'a [i64],
    stride: &'a [i64],
}

const ALL: View<'_> = View { offset: 0, size: &[24], stride: &[1] };

/// A checkpoint of one tensor `w` over the 24 bytes of storage `0`.
fn one_tensor(class: &str, numel: i64, view: &View<'_>) -> Vec<u8> {
    pickle().raw(b"}").text("w").tensor(class, "0", numel, view).raw(b"s.").file()
}

fn check(file: &[u8], name: &str, dtype: TorchDtype, shape: &[usize], bytes: &[u8]) {
    let checkpoint = TorchCheckpoint::parse(file).unwrap();
    let tensor = checkpoint.tensor(name).unwrap();
    assert_eq!((tensor.dtype, tensor.shape.as_slice()), (dtype, shape));
    assert_eq!(checkpoint.bytes(file, tensor).unwrap(), bytes);
}

#[track_caller]
fn refuses(file: &[u8], needles: &[&str]) {
    let error = TorchCheckpoint::parse(file).unwrap_err();
    let message = error.to_string();
    for needle in needles {
        assert!(message.contains(needle), "{message:?} lacks {needle:?}");
    }
    assert!(!message.ends_with('.'), "{message:?}");
}

#[test]
fn every_dtype_and_a_scalar_are_read() {
    let all: Vec<u8> = (0..24).collect();
    for (class, dtype, numel) in [
        ("FloatStorage", TorchDtype::F32, 6),
        ("HalfStorage", TorchDtype::F16, 12),
        ("BFloat16Storage", TorchDtype::Bf16, 12),
        ("DoubleStorage", TorchDtype::F64, 3),
        ("CharStorage", TorchDtype::I8, 24),
        ("ByteStorage", TorchDtype::U8, 24),
        ("ShortStorage", TorchDtype::I16, 12),
        ("IntStorage", TorchDtype::I32, 6),
        ("LongStorage", TorchDtype::I64, 3),
        ("BoolStorage", TorchDtype::Bool, 24),
    ] {
        let size = [numel];
        let view = View { offset: 0, size: &size, stride: &[1] };
        let file = one_tensor(class, numel, &view);
        check(&file, "w", dtype, &[numel as usize], &all);
    }
    let scalar = View { offset: 2, size: &[], stride: &[] };
    let file = one_tensor("IntStorage", 6, &scalar);
    check(&file, "w", TorchDtype::I32, &[], &[8, 9, 10, 11]);
}

#[test]
fn strided_views_are_gathered_in_row_major_order() {
    // 3 x 4 shorts, transposed to 4 x 3.
    let transposed = View { offset: 0, size: &[4, 3], stride: &[1, 4] };
    let want: Vec<u8> = (0..4)
        .flat_map(|column| (0..3).flat_map(move |row| [row * 8 + column * 2, row * 8 + column * 2 + 1]))
        .collect();
    let file = one_tensor("ShortStorage", 12, &transposed);
    check(&file, "w", TorchDtype::I16, &[4, 3], &want);

    // The last two columns of 2 rows of 12 bytes, as a slice leaves them.
    let slice = View { offset: 10, size: &[2, 2], stride: &[12, 1] };
    let file = one_tensor("ByteStorage", 24, &slice);
    check(&file, "w", TorchDtype::U8, &[2, 2], &[10, 11, 22, 23]);

    // Rows that overlap: each starts at the second element of the one before.
    let windows = View { offset: 3, size: &[3, 2], stride: &[1, 1] };
    let file = one_tensor("ByteStorage", 24, &windows);
    check(&file, "w", TorchDtype::U8, &[3, 2], &[3, 4, 4, 5, 5, 6]);

    // Strides of dimensions of size 1 mean nothing, and an empty tensor has no bytes.
    let unit = View { offset: 4, size: &[1, 2], stride: &[999, 1] };
    let file = one_tensor("ByteStorage", 24, &unit);
    check(&file, "w", TorchDtype::U8, &[1, 2], &[4, 5]);
    let unit = View { offset: 4, size: &[2, 1, 2], stride: &[1, i64::MAX, 2] };
    let file = one_tensor("ByteStorage", 24, &unit);
    check(&file, "w", TorchDtype::U8, &[2, 1, 2], &[4, 6, 5, 7]);
    let empty = View { offset: 24, size: &[0, 5], stride: &[5, 1] };
    let file = one_tensor("ByteStorage", 24, &empty);
    check(&file, "w", TorchDtype::U8, &[0, 5], &[]);
}

#[test]
fn wrapped_state_dicts_parameters_and_plain_values_are_read() {
    for wrapper in ["state_dict", "model"] {
        let file = pickle()
            .raw(b"}(")
            .text("epoch")
            .raw(b"K\x03")
            .text("loss")
            .raw(b"G\0\0\0\0\0\0\0\0")
            .text("note")
            .text("plain")
            .text("best")
            .raw(b"N")
            .text(wrapper)
            .ordered_dict()
            .text("w")
            .global("torch._utils", "_rebuild_parameter")
            .raw(b"(")
            .tensor("ByteStorage", "0", 24, &ALL)
            .raw(b"\x88")
            .ordered_dict()
            .raw(b"tRsu.")
            .file();
        let checkpoint = TorchCheckpoint::parse(&file).unwrap();
        assert_eq!(checkpoint.tensors().len(), 1);
        assert_eq!(checkpoint.tensors()[0].name, "w");
    }
}

#[test]
fn bytes_of_another_file_are_an_error() {
    let file = one_tensor("ByteStorage", 24, &ALL);
    let checkpoint = TorchCheckpoint::parse(&file).unwrap();
    let tensor = &checkpoint.tensors()[0];
    let error = checkpoint.bytes(&file[..40], tensor).unwrap_err();
    assert!(error.to_string().contains("`w`") && error.to_string().contains("40 bytes"));
    for hostile in [
        TorchTensor { shape: vec![usize::MAX, 2], strides: vec![0, 0], ..tensor.clone() },
        TorchTensor { byte_offset: u64::MAX, ..tensor.clone() },
        TorchTensor { strides: vec![], ..tensor.clone() },
    ] {
        assert!(matches!(checkpoint.bytes(&file, &hostile), Err(TorchError::OutsideFile { .. })));
    }
}

#[test]
fn globals_that_run_code_are_refused_by_name() {
    let shell = pickle().global("os", "system").raw(b"(").text("touch /tmp/owned").raw(b"tR.");
    refuses(&shell.file(), &["`os.system`", "byte 2"]);
    for (module, name) in [
        ("builtins", "eval"),
        ("posix", "system"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2\u{1b}[2J"),
        ("torch.storage", "_load_from_bytes"),
    ] {
        let file = pickle().global(module, name).raw(b".").file();
        let shown = format!("{module}.{name}").replace('\u{1b}', "\\u{1b}");
        refuses(&file, &[&format!("`{shown}`"), "not allowed"]);
    }
}

#[test]
fn opcodes_outside_the_list_are_refused_by_name() {
    let stack_global = pickle().text("os").text("system").raw(b"\x93.");
    refuses(&stack_global.file(), &["STACK_GLOBAL (0x93)", "byte 20"]);
    for (code, name) in [
        (b"\x81" as &[u8], "NEWOBJ (0x81)"),
        (b"\x82\x01", "EXT1 (0x82)"),
        (b"ios\nsystem\n", "INST (0x69)"),
        (b"o", "OBJ (0x6f)"),
        (b"Pid\n", "PERSID (0x50)"),
        (b"2", "DUP (0x32)"),
        (b"\xff", "(unknown) (0xff)"),
    ] {
        refuses(&pickle().raw(code).raw(b".").file(), &[name, "byte 2"]);
    }
    refuses(&checkpoint(b"\x80\x04\x95"), &["protocol 2", "0x80 and 4"]);
}

#[test]
fn calls_and_attributes_are_only_for_the_listed_types() {
    let call_text = pickle().text("os.system").raw(b")R.");
    refuses(&call_text.file(), &["REDUCE calls a string"]);
    let call_class = pickle().global("torch", "FloatStorage").raw(b")R.");
    refuses(&call_class.file(), &["REDUCE calls a storage class"]);
    let arguments = pickle().global("collections", "OrderedDict").raw(b"]\x85R.");
    refuses(&arguments.file(), &["no arguments to OrderedDict"]);
    let not_tuple = pickle().global("collections", "OrderedDict").raw(b"NR.");
    refuses(&not_tuple.file(), &["REDUCE expects a tuple", "None"]);
    let build_dict = pickle().raw(b"}}b.");
    refuses(&build_dict.file(), &["BUILD sets attributes of a dict"]);
    let build_state = pickle().ordered_dict().raw(b"Nb.");
    refuses(&build_state.file(), &["BUILD expects a dict of attributes"]);
    let rebuild = pickle().global("torch._utils", "_rebuild_tensor_v2").raw(b"(NK\x00))\x89}tR.");
    refuses(&rebuild.file(), &["arguments (storage", "_rebuild_tensor_v2"]);
}

#[test]
fn whole_models_are_refused_with_advice() {
    let class = "transformers.models.gpt2.modeling_gpt2";
    let file = pickle().global(class, "GPT2LMHeadModel").raw(b"q\x00)\x81q\x01}b.").file();
    refuses(
        &file,
        &["transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel", "whole model", "state_dict()"],
    );
}

#[test]
fn stack_and_memo_are_bounded() {
    refuses(&pickle().raw(b"s.").file(), &["SETITEM needs 3 values", "has 0"]);
    refuses(&pickle().raw(b"NN(s.").file(), &["SETITEM needs 3 values"]);
    refuses(&pickle().raw(b"t.").file(), &["TUPLE without a mark"]);
    refuses(&pickle().raw(b"}(Nu.").file(), &["SETITEMS with 1 values"]);
    refuses(&pickle().raw(b"h\x07.").file(), &["BINGET of memo entry 7"]);
    let far = pickle().raw(b"Nr\xff\xff\xff\xff.");
    refuses(&far.file(), &["4294967296 memo entries", "limit"]);
    refuses(&pickle().raw(b"Nr\x05\0\0\0.").file(), &["memo entry 5, 0 are stored"]);
    refuses(&pickle().raw(b"NN.").file(), &["2 values"]);
    refuses(&pickle().raw(b"(N.").file(), &["1 open marks"]);
    refuses(&pickle().raw(b"N.N").file(), &["1 bytes after STOP"]);

    let deep_stack = pickle().raw(&vec![b'N'; 70_000]).raw(b".");
    refuses(&deep_stack.file(), &["65537 values on the stack"]);
    let deep_marks = pickle().raw(&vec![b'('; 70_000]).raw(b".");
    refuses(&deep_marks.file(), &["65537 marks"]);
    let nested = pickle().raw(b"N").raw(&vec![0x85; 2_000_000]).raw(b".");
    refuses(&nested.file(), &["values, the limit is 2097152"]);
    let nested = pickle().raw(b"N").raw(&vec![0x85; 1_000_000]).raw(b".");
    refuses(&nested.file(), &["holds a tuple"]);

    let mut memo = pickle().raw(b"}");
    for index in 0..=1_u32 << 20 {
        memo = memo.raw(b"r").raw(&index.to_le_bytes());
    }
    refuses(&memo.raw(b".").file(), &["1048577 memo entries"]);

    // Each tuple holds the one before it twice: 2^40 values, if anything ever expanded them.
    let mut doubling = pickle().raw(b"N");
    for index in 0..40 {
        doubling = doubling.raw(&[b'q', index, b'h', index, 0x86]);
    }
    refuses(&doubling.raw(b".").file(), &["holds a tuple"]);

    // A dict that contains itself, twice over.
    let cycle = pickle().raw(b"}q\x00").text("model").raw(b"h\x00s.").file();
    refuses(&cycle, &["entry `model`", "a dict"]);
}

#[test]
fn lengths_are_proved_before_use() {
    let text = pickle().raw(b"X\xff\xff\xff\xff.");
    refuses(&text.file(), &["4294967295 bytes of a string", "limit is 65536"]);
    let text = pickle().raw(b"X\x00\x01\0\0abc.");
    refuses(&text.file(), &["256 bytes needed, 4 left"]);
    let long = pickle().raw(b"\x8a\x09").raw(&[1; 9]).raw(b".");
    refuses(&long.file(), &["9 bytes of an integer"]);
    let global = pickle().raw(b"c").raw(&[b'a'; 5000]);
    refuses(&global.file(), &["bytes of a global's name"]);
    let binary = pickle().raw(b"X\x02\0\0\0\xc3\x28.");
    refuses(&binary.file(), &["not UTF-8", "byte 2"]);
}

#[test]
fn persistent_ids_must_name_a_plain_member_of_the_right_size() {
    for key in ["../../etc/passwd", "/etc/passwd", "a\\b", "", "0/../1", "."] {
        let file = pickle().raw(b"}").text("w").tensor("ByteStorage", key, 24, &ALL).raw(b"s.").file();
        let shown = key.replace('\\', "\\\\");
        refuses(&file, &[&format!("storage key `{shown}`"), "tensor `w`"]);
    }
    let absent = pickle().raw(b"}").text("w").tensor("ByteStorage", "7", 24, &ALL).raw(b"s.");
    refuses(&absent.file(), &["no member `data/7`"]);
    for numel in [23, 25, -1, 0, i64::MAX] {
        let file = one_tensor("ByteStorage", numel, &ALL);
        refuses(&file, &[&format!("{numel} elements of uint8"), "24 bytes"]);
    }
    refuses(&one_tensor("DoubleStorage", i64::MAX, &ALL), &["9223372036854775807 elements of float64"]);
    refuses(&one_tensor("HalfStorage", 24, &ALL), &["24 elements of float16"]);
    let not_tuple = pickle().text("storage").raw(b"Q.");
    refuses(&not_tuple.file(), &["BINPERSID expects a tuple", "a string"]);
    let wrong = pickle().raw(b"(").text("module").raw(b"tQ.");
    refuses(&wrong.file(), &["BINPERSID expects"]);
}

#[test]
fn views_must_lie_in_their_storage() {
    let view =
        |offset, size: &[i64], stride: &[i64]| one_tensor("ByteStorage", 24, &View { offset, size, stride });
    refuses(&view(0, &[25], &[1]), &["`w` ends at element 25", "has 24"]);
    refuses(&view(1, &[24], &[1]), &["ends at element 25"]);
    refuses(&view(0, &[2, 3], &[22, 1]), &["ends at element 25"]);
    refuses(&view(25, &[0], &[1]), &["ends at element 25"]);
    refuses(&view(0, &[24], &[-1]), &["stride -1 is negative"]);
    refuses(&view(0, &[-24], &[1]), &["size -24 is negative"]);
    refuses(&view(-1, &[24], &[1]), &["storage offset -1 is negative"]);
    refuses(&view(0, &[2, 12], &[1]), &["differ in rank", "[2, 12]"]);
    refuses(&view(0, &[1 << 32, 1 << 32], &[0, 0]), &["overflow"]);
    refuses(&view(0, &[0, 1 << 40, 1 << 40], &[0, 0, 0]), &["overflow"]);
    refuses(&view(0, &[3, 2], &[i64::MAX, 1]), &["overflow"]);
    refuses(&view(i64::MAX, &[2], &[i64::MAX]), &["element"]);
    refuses(&view(0, &[1 << 40], &[0]), &["1099511627776 elements", "expanded"]);
    refuses(&view(0, &[1; 17], &[1; 17]), &["17 dimensions", "limit is 16"]);
    let text_size = pickle()
        .global("torch._utils", "_rebuild_tensor_v2")
        .raw(b"((")
        .text("storage")
        .global("torch", "ByteStorage")
        .text("0")
        .text("cpu")
        .raw(b"K\x18tQK\x00N\x85K\x01\x85\x89}tR.");
    refuses(&text_size.file(), &["integers in a tensor's size", "None"]);
}

#[test]
fn state_dicts_hold_tensors_and_plain_values_only() {
    refuses(&pickle().raw(b"].").file(), &["holds a list"]);
    refuses(&pickle().raw(b"K\x01.").file(), &["holds an integer"]);
    refuses(&pickle().raw(b"}.").file(), &["no tensors"]);
    let listed = pickle().raw(b"}(").text("steps").raw(b"]");
    let listed = listed.text("w").tensor("ByteStorage", "0", 24, &ALL).raw(b"u.");
    refuses(&listed.file(), &["entry `steps`", "a list"]);
    let optimizer = pickle().raw(b"}(").text("optimizer").raw(b"}").text("model").raw(b"}u.");
    refuses(&optimizer.file(), &["entry `optimizer`", "a dict"]);
    let key = pickle().raw(b"}K\x01").tensor("ByteStorage", "0", 24, &ALL).raw(b"s.");
    refuses(&key.file(), &["an integer as a key"]);
    let twice = pickle().raw(b"}(").text("w").tensor("ByteStorage", "0", 24, &ALL).text("w").raw(b"Nu.");
    refuses(&twice.file(), &["entry `w` occurs twice"]);
    let unnamed = pickle().raw(b"}").text("").tensor("ByteStorage", "0", 24, &ALL).raw(b"s.");
    refuses(&unnamed.file(), &["name is empty"]);
}

// ---------------------------------------------------------------------------------------------
// The archive around the pickle.

fn good_pickle() -> Vec<u8> {
    pickle().raw(b"}").text("w").tensor("ByteStorage", "0", 24, &ALL).raw(b"s.").0
}

#[track_caller]
fn refuses_archive(change: impl Fn(&mut Vec<Member>), needles: &[&str]) {
    let mut members = members(&good_pickle());
    TorchCheckpoint::parse(&zip(&members)).unwrap();
    change(&mut members);
    refuses(&zip(&members), needles);
}

#[test]
fn files_that_are_no_torch_archive_say_what_they_are() {
    let legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    refuses(legacy, &["before 1.6", "re-save"]);
    refuses(b"", &["not a torch checkpoint"]);
    refuses(b"version https://git-lfs.github.com/spec/v1", &["version https:/"]);
    refuses(&b"PK\x03\x04"[..], &["zip archive is damaged"]);
    refuses_archive(|members| members[0].name = b"model/tensors.pkl".into(), &["4 members", "`data.pkl`"]);
    for extra in ["model/constants.pkl", "model/code/__torch__.py"] {
        refuses_archive(|members| members.push(member(extra, b"x")), &["TorchScript", extra]);
    }
}

#[test]
fn members_that_need_more_than_reading_are_refused_by_name() {
    refuses_archive(|members| members[2].method = 8, &["`model/data/0`", "compressed", "deflate"]);
    refuses_archive(|members| members[0].method = 12, &["`model/data.pkl`", "compressed"]);
    refuses_archive(|members| members[2].flags |= 1, &["`model/data/0` is encrypted"]);
    refuses_archive(|members| members[2].unix_mode = 0o120_777, &["`model/data/0`", "symbolic link"]);
    refuses_archive(|members| members[1] = member("model/byteorder", b"big"), &["byte order `big`"]);
    refuses_archive(|members| members[0].crc ^= 1, &["`model/data.pkl`", "damaged"]);
}

#[test]
fn names_must_be_unique_plain_and_in_one_folder() {
    refuses_archive(|members| members.push(members[2].clone()), &["`model/data/0` occurs twice"]);
    refuses_archive(
        |members| members.push(member("model/data.pkl", b"\x80\x02N.")),
        &["`model/data.pkl` occurs twice"],
    );
    for name in [
        "model/../data/1",
        "/model/data/1",
        "model//data/1",
        "model/./data/1",
        "C:/data/1",
        "model\\data/1",
        "model/data/",
        "model/data/\0",
        "model/\n",
        "..",
    ] {
        let shown: String = name.chars().flat_map(char::escape_debug).collect();
        refuses_archive(|members| members.push(member(name, b"x")), &[&format!("`{shown}`")]);
    }
    refuses_archive(
        |members| members.push(member(&format!("model/{}", "x".repeat(2000)), b"x")),
        &["longer than 1024 bytes"],
    );
    refuses_archive(|members| members[3].name = b"model/\xff\xfe".into(), &["not UTF-8"]);
    refuses_archive(
        |members| members.push(member("other/data/1", b"x")),
        &["`other/data/1` is outside the root folder"],
    );
    refuses_archive(|members| members[2].local_name = Some(b"model/data/9".into()), &["damaged", "mismatch"]);
}

#[test]
fn verify_names_the_damaged_storage() {
    let mut members = members(&good_pickle());
    members[2].crc ^= 1;
    let file = zip(&members);
    TorchCheckpoint::parse(&file).unwrap();
    let error = TorchCheckpoint::verify(&file).unwrap_err().to_string();
    assert!(error.contains("`model/data/0` is damaged"), "{error}");
}

// ---------------------------------------------------------------------------------------------
// Damage everywhere.

/// A small state dict that uses every opcode on the list.
fn pickle_with_everything() -> Vec<u8> {
    let view = View { offset: 1, size: &[2, 2], stride: &[2, 1] };
    pickle()
        .ordered_dict()
        .raw(b"q\x00(")
        .text("wte")
        .tensor("FloatStorage", "0", 6, &view)
        .raw(b"q\x01")
        .text("head")
        .raw(b"h\x01")
        .text("again")
        .raw(b"j\x01\0\0\0")
        .text("mask")
        .tensor("ByteStorage", "0", 24, &ALL)
        .text("flag")
        .raw(b"\x88")
        .text("step")
        .raw(b"J\x01\x02\x03\x04")
        .text("rate")
        .raw(b"G\0\0\0\0\0\0\0\0u}")
        .text("_metadata")
        .ordered_dict()
        .raw(b"r\x02\0\0\0")
        .text("")
        .raw(b"}")
        .text("version")
        .raw(b"M\x01\x00ss")
        .text("lists")
        .raw(b"](K\x01NeNa\x85N\x86NN\x87s")
        .raw(b"s")
        .raw(b"b.")
        .0
}

#[test]
fn every_opcode_on_the_list_is_read() {
    let file = checkpoint(&pickle_with_everything());
    check(&file, "head", TorchDtype::F32, &[2, 2], &(4..8).chain(8..12).chain(12..20).collect::<Vec<u8>>());
    let checkpoint = TorchCheckpoint::parse(&file).unwrap();
    let names: Vec<_> = checkpoint.tensors().iter().map(|t| &t.name).collect();
    assert_eq!(names, ["wte", "head", "again", "mask"]);
}

#[test]
fn a_pickle_cut_anywhere_is_an_error() {
    let whole = pickle_with_everything();
    for end in 0..whole.len() {
        assert!(TorchCheckpoint::parse(&checkpoint(&whole[..end])).is_err(), "cut at {end}");
    }
}

#[test]
fn a_golden_pickle_cut_anywhere_is_an_error() {
    let file = golden("int8_state_dict.pt");
    // The first member begins at 64; its length is in the directory only.
    let stop = b"sb.";
    let end = file.windows(3).position(|bytes| bytes == stop).unwrap() + 3;
    let whole = &file[64..end];
    assert!(matches!(
        TorchCheckpoint::parse(&checkpoint(whole)),
        Err(TorchError::StorageSize { .. } | TorchError::StorageMissing { .. })
    ));
    for end in 0..whole.len() {
        assert!(matches!(
            TorchCheckpoint::parse(&checkpoint(&whole[..end])),
            Err(TorchError::Truncated { .. })
        ));
    }
}

#[test]
fn an_archive_cut_anywhere_is_an_error() {
    let whole = checkpoint(&good_pickle());
    for end in 0..whole.len() {
        assert!(TorchCheckpoint::parse(&whole[..end]).is_err(), "cut at {end}");
    }
}

/// Parses a file that may be anything; whatever is accepted must be readable.
fn survive(file: &[u8]) {
    if let Ok(checkpoint) = TorchCheckpoint::parse(file) {
        for tensor in checkpoint.tensors() {
            checkpoint.bytes(file, tensor).unwrap();
        }
    }
}

/// A small generator: the damage need not be random, only varied and the same every time.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn every_byte_of_a_pickle_set_to_every_value_never_panics() {
    let whole = pickle_with_everything();
    for at in 0..whole.len() {
        for value in 0..=u8::MAX {
            let mut pickle = whole.clone();
            pickle[at] = value;
            survive(&checkpoint(&pickle));
        }
    }
}

#[test]
fn random_damage_never_panics() {
    let files = [checkpoint(&pickle_with_everything()), golden("int8_state_dict.pt")];
    let mut state = 1;
    for file in &files {
        let mut damaged = file.clone();
        for _ in 0..1000 {
            let flips: Vec<_> = (0..1 + next(&mut state) % 8)
                .map(|_| {
                    // Half of the damage at the ends, where the pickle and the directory are.
                    let at = match next(&mut state) % 4 {
                        0 => next(&mut state) % file.len().min(6000),
                        1 => file.len() - 1 - next(&mut state) % file.len().min(4000),
                        _ => next(&mut state) % file.len(),
                    };
                    (at, next(&mut state) as u8)
                })
                .collect();
            for &(at, value) in &flips {
                damaged[at] = value;
            }
            survive(&damaged);
            for &(at, _) in &flips {
                damaged[at] = file[at];
            }
        }
    }
}

#[test]
fn random_opcodes_never_panic() {
    let opcodes = b"(.NKMJGX)t]ae}suqrhjcQRb\x85\x86\x87\x88\x89\x8a\x00\x01\x02";
    let pieces = [
        b"ccollections\nOrderedDict\n)R".as_slice(),
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"X\x01\0\0\0w",
        b"(X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x18tQ",
        b"K\x02\x85",
    ];
    let mut state = 2;
    for _ in 0..20_000 {
        let mut built = pickle();
        for _ in 0..next(&mut state) % 40 {
            let choice = next(&mut state);
            built = match choice % 3 {
                0 => built.raw(pieces[(choice / 3) % pieces.len()]),
                _ => built.raw(&opcodes[(choice / 3) % opcodes.len()..][..1]),
            };
        }
        survive(&built.raw(b".").file());
    }
}
