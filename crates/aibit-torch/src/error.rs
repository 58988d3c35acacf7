//! What can be wrong with a torch checkpoint.

use crate::TorchDtype;

/// Why a file is not a torch checkpoint that can be read.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum TorchError {
    /// The file is from before torch wrote zip archives.
    #[error(
        "saved by torch before 1.6 as bare pickles, not as a zip archive; load it with a newer \
         torch and re-save it with `torch.save`, or convert it to safetensors"
    )]
    Legacy,
    /// The file is something else.
    #[error(
        "not a torch checkpoint: it begins with `{found}`, not with a zip archive's `PK`; check \
         that the download is complete and the file is a `.bin` or `.pt`"
    )]
    NotZip {
        /// The first bytes.
        found: String,
    },
    /// The archive is inconsistent.
    #[error("the zip archive is damaged ({reason}); download or save the file again")]
    Zip {
        /// What the zip reader found.
        reason: String,
    },
    /// Two members have one name.
    #[error(
        "zip member `{member}` occurs twice, so it is unclear which one counts; save the file \
         again"
    )]
    DuplicateMember {
        /// The name.
        member: String,
    },
    /// There are more members than any real checkpoint has.
    #[error(
        "the zip archive has {found} members, the limit is {limit}; split the checkpoint into \
         shards"
    )]
    TooManyMembers {
        /// Members found.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A member's name is not a plain relative path.
    #[error("zip member `{member}` {problem}; torch.save writes no such name")]
    MemberName {
        /// The name.
        member: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A member is encrypted.
    #[error("zip member `{member}` is encrypted; save the file without a password")]
    Encrypted {
        /// The name.
        member: String,
    },
    /// A member is compressed.
    #[error(
        "zip member `{member}` is compressed (method: {method}); torch.save stores members as \
         they are, so save the file again without repacking it"
    )]
    Compressed {
        /// The name.
        member: String,
        /// The compression method.
        method: String,
    },
    /// A member that is not compressed has two sizes.
    #[error(
        "zip member `{member}` takes {stored} bytes and declares {declared}, though it is not \
         compressed; download or save the file again"
    )]
    StoredSize {
        /// The name.
        member: String,
        /// Bytes in the archive.
        stored: u64,
        /// Bytes declared.
        declared: u64,
    },
    /// A member reaches into the archive's directory or beyond the file.
    #[error(
        "zip member `{member}` of {length} bytes runs past byte {directory}, where the zip \
         directory begins; the file is truncated or damaged"
    )]
    MemberOutside {
        /// The name.
        member: String,
        /// Its length.
        length: u64,
        /// Where the members must end.
        directory: u64,
    },
    /// Nothing describes the tensors.
    #[error(
        "the zip archive has {members} members, but none is `data.pkl` in a folder: it was not \
         written by `torch.save`"
    )]
    NoPickle {
        /// Members found.
        members: usize,
    },
    /// The file is a compiled program.
    #[error(
        "zip member `{member}` shows a TorchScript archive, a compiled program; load it with \
         `torch.jit.load` and save its `state_dict()` with `torch.save`"
    )]
    TorchScript {
        /// The member that shows it.
        member: String,
    },
    /// The elements are not little-endian.
    #[error(
        "the file was saved with byte order `{found}`, only `little` is read; load it with \
         torch on a little-endian machine and save it again"
    )]
    ByteOrder {
        /// The byte order.
        found: String,
    },
    /// The pickle is larger than any real one.
    #[error("`data.pkl` has {found} bytes, the limit is {limit}; save the state dict alone")]
    PickleSize {
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A member's bytes are not those that were saved.
    #[error("zip member `{member}` is damaged ({reason}); download or save the file again")]
    Checksum {
        /// The name.
        member: String,
        /// What the zip reader found.
        reason: String,
    },
    /// The pickle does not begin as `torch.save` begins one.
    #[error(
        "`data.pkl` begins with byte {code:#04x} and {protocol}, not with pickle protocol 2 \
         (0x80 and 2); save it again without `pickle_protocol`"
    )]
    Protocol {
        /// The first byte.
        code: u8,
        /// The second.
        protocol: u8,
    },
    /// The pickle ends inside an instruction.
    #[error("`data.pkl` byte {offset}: {needed} bytes needed, {left} left; the pickle is truncated")]
    Truncated {
        /// Position.
        offset: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes left.
        left: usize,
    },
    /// The pickle holds an instruction that no state dict needs.
    #[error(
        "`data.pkl` byte {offset}: opcode {name} ({code:#04x}) is not allowed, because no state \
         dict needs it; save `model.state_dict()` with `torch.save`"
    )]
    Opcode {
        /// Its name.
        name: &'static str,
        /// Its code.
        code: u8,
        /// Position.
        offset: usize,
    },
    /// The pickle names something that no state dict needs.
    #[error(
        "`data.pkl` byte {offset}: global `{global}` is not allowed and nothing was loaded; it \
         may be an attack, so use a safetensors file of this model, or save \
         `model.state_dict()` from a source you trust"
    )]
    Global {
        /// Module and name.
        global: String,
        /// Position.
        offset: usize,
    },
    /// The pickle makes a Python object, for example a whole model.
    #[error(
        "`data.pkl` byte {offset}: the file holds a pickled python object of class `{class}`, \
         for example a whole model, and only state dicts are read; load it with torch and save \
         `model.state_dict()` instead"
    )]
    PickledObject {
        /// Module and name of the class.
        class: String,
        /// Position.
        offset: usize,
    },
    /// The pickle calls something that is not one of the permitted functions.
    #[error(
        "`data.pkl` byte {offset}: REDUCE calls {found}; only OrderedDict, _rebuild_tensor_v2 \
         and _rebuild_parameter may be called"
    )]
    Call {
        /// What is called.
        found: &'static str,
        /// Position.
        offset: usize,
    },
    /// The pickle sets attributes of something other than an `OrderedDict`.
    #[error(
        "`data.pkl` byte {offset}: BUILD sets attributes of {found}; only an OrderedDict may \
         have them"
    )]
    Build {
        /// What it is.
        found: &'static str,
        /// Position.
        offset: usize,
    },
    /// An instruction found a value of the wrong kind.
    #[error("`data.pkl` byte {offset}: {opcode} expects {expected}, found {found}")]
    Value {
        /// The instruction.
        opcode: &'static str,
        /// Position.
        offset: usize,
        /// What it needs.
        expected: &'static str,
        /// What it found.
        found: &'static str,
    },
    /// An instruction needs more values than there are.
    #[error(
        "`data.pkl` byte {offset}: {opcode} needs {needed} values above the last mark, the \
         stack has {found}"
    )]
    Underflow {
        /// The instruction.
        opcode: &'static str,
        /// Position.
        offset: usize,
        /// Values needed.
        needed: usize,
        /// Values found.
        found: usize,
    },
    /// An instruction needs a mark and there is none.
    #[error("`data.pkl` byte {offset}: {opcode} without a mark")]
    NoMark {
        /// The instruction.
        opcode: &'static str,
        /// Position.
        offset: usize,
    },
    /// A dict is given a key without a value.
    #[error("`data.pkl` byte {offset}: SETITEMS with {count} values, which are not pairs")]
    OddItems {
        /// Position.
        offset: usize,
        /// Values found.
        count: usize,
    },
    /// The memo is used out of order.
    #[error("`data.pkl` byte {offset}: {opcode} of memo entry {index}, {stored} are stored")]
    Memo {
        /// The instruction.
        opcode: &'static str,
        /// Position.
        offset: usize,
        /// The entry.
        index: u32,
        /// Entries stored so far.
        stored: usize,
    },
    /// A count is beyond what any real checkpoint has.
    #[error("`data.pkl` byte {offset}: {found} {what}, the limit is {limit}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// The count.
        found: usize,
        /// The limit.
        limit: usize,
        /// Position.
        offset: usize,
    },
    /// A string is not UTF-8.
    #[error("`data.pkl` byte {offset}: string is not UTF-8")]
    NotUtf8 {
        /// Position.
        offset: usize,
    },
    /// Something follows the end of the pickle.
    #[error("`data.pkl` byte {offset}: {left} bytes after STOP")]
    AfterStop {
        /// Position.
        offset: usize,
        /// Bytes left.
        left: usize,
    },
    /// The pickle does not end with one value.
    #[error(
        "`data.pkl` ends with {values} values and {marks} open marks on the stack, not with one \
         value"
    )]
    Unfinished {
        /// Values on the stack.
        values: usize,
        /// Marks without an end.
        marks: usize,
    },
    /// The checkpoint is not a dict.
    #[error(
        "the checkpoint holds {found}, not a dict of names to tensors; save \
         `model.state_dict()` with `torch.save`"
    )]
    TopLevel {
        /// What it holds.
        found: &'static str,
    },
    /// A dict of tensors has a key that is not a string.
    #[error("the state dict has {found} as a key; keys must be strings")]
    Key {
        /// What the key is.
        found: &'static str,
    },
    /// A state dict holds something besides tensors and plain values.
    #[error(
        "entry `{name}` of the checkpoint holds {found}, not a tensor or a plain value; save \
         `model.state_dict()` alone with `torch.save`"
    )]
    Entry {
        /// The key.
        name: String,
        /// What it holds.
        found: &'static str,
    },
    /// Two entries have one name.
    #[error("entry `{name}` occurs twice in the state dict")]
    DuplicateName {
        /// The key.
        name: String,
    },
    /// The state dict is empty.
    #[error(
        "the checkpoint holds no tensors: expected a dict of names to tensors at the top or \
         under `state_dict` or `model`"
    )]
    NoTensors,
    /// A tensor has no name.
    #[error("the state dict holds a tensor whose name is empty")]
    EmptyName,
    /// A storage's key could be a path.
    #[error("tensor `{tensor}`: storage key `{key}` is not a plain number or word")]
    StorageKey {
        /// The tensor.
        tensor: String,
        /// The key.
        key: String,
    },
    /// A storage is not in the archive.
    #[error("tensor `{tensor}`: the archive has no member `data/{key}`; the file is incomplete")]
    StorageMissing {
        /// The tensor.
        tensor: String,
        /// The key.
        key: String,
    },
    /// A storage has another size than the pickle says.
    #[error(
        "tensor `{tensor}`: storage `{storage}` is said to have {numel} elements of {dtype}, \
         its member has {found} bytes"
    )]
    StorageSize {
        /// The tensor.
        tensor: String,
        /// Key of the storage.
        storage: String,
        /// Elements according to the pickle.
        numel: i64,
        /// Their type.
        dtype: TorchDtype,
        /// Bytes in the archive.
        found: u64,
    },
    /// A size, stride or offset is negative.
    #[error("tensor `{tensor}`: {what} {value} is negative")]
    Negative {
        /// The tensor.
        tensor: String,
        /// Which number.
        what: &'static str,
        /// The number.
        value: i64,
    },
    /// Shape, strides and offset are of different ranks or too large to count.
    #[error(
        "tensor `{tensor}`: shape {shape:?}, strides {strides:?} and storage offset {offset} \
         differ in rank or overflow"
    )]
    Geometry {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its strides.
        strides: Vec<usize>,
        /// Its offset in elements.
        offset: usize,
    },
    /// A tensor reaches beyond its storage.
    #[error("tensor `{tensor}` ends at element {end} of storage `{storage}`, which has {elements}")]
    Extent {
        /// The tensor.
        tensor: String,
        /// Key of the storage.
        storage: String,
        /// One past its last element.
        end: usize,
        /// Elements in the storage.
        elements: usize,
    },
    /// A tensor repeats elements of its storage.
    #[error(
        "tensor `{tensor}` has {count} elements, its storage `{storage}` has {elements}: an \
         expanded view; call `.contiguous()` on it before saving"
    )]
    Expanded {
        /// The tensor.
        tensor: String,
        /// Key of the storage.
        storage: String,
        /// Elements of the tensor.
        count: usize,
        /// Elements in the storage.
        elements: usize,
    },
    /// A tensor's bytes are not in the file given.
    #[error(
        "tensor `{tensor}` at byte {offset} does not fit in this file of {file} bytes; pass the \
         file that was parsed"
    )]
    OutsideFile {
        /// The tensor.
        tensor: String,
        /// Where it begins.
        offset: u64,
        /// Size of the file.
        file: usize,
    },
}
