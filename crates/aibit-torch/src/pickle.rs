//! The pickle inside a torch checkpoint, read as data.
//!
//! A pickle is a program for a stack machine that may import and call anything. This machine runs
//! only the opcodes that a state dict needs, and no instruction reaches code: a global is looked up
//! in a fixed table of enum values, and the few permitted calls build plain records. Every length is
//! proved to lie in the pickle before it is used, and the machine's memory is bounded by constants.
//!
//! Containers live in arenas and refer to each other by index, so neither deep nesting nor a value
//! that contains itself can overflow the call stack.

use std::collections::HashSet;

use crate::{TorchDtype, TorchError};

/// Values on the stack at once. A pickler writes a dict in batches of 1000 pairs.
const MAX_STACK: usize = 1 << 16;
/// Values remembered for later use; a tensor takes about eight.
const MAX_MEMO: usize = 1 << 20;
/// Values held in containers; a tensor takes about thirty.
const MAX_VALUES: usize = 1 << 21;
/// Tensors in one checkpoint.
const MAX_TENSORS: usize = 1 << 17;
/// Dimensions of one tensor.
const MAX_RANK: usize = 16;
/// Bytes of one string. Tensor names are far shorter.
const MAX_TEXT: usize = 1 << 16;
/// Bytes of one line of a `GLOBAL`: a module path or a class name.
const MAX_GLOBAL: usize = 256;

/// A tensor as the pickle describes it: types are checked, numbers are not.
pub(super) struct RawTensor<'a> {
    pub(super) name: &'a str,
    pub(super) storage: RawStorage<'a>,
    pub(super) offset: i64,
    pub(super) size: Vec<i64>,
    pub(super) stride: Vec<i64>,
}

/// A persistent id: `('storage', class, key, location, numel)`.
#[derive(Clone, Copy)]
pub(super) struct RawStorage<'a> {
    pub(super) dtype: TorchDtype,
    pub(super) key: &'a str,
    pub(super) numel: i64,
}

/// Returns the tensors of the state dict that `pickle` describes, in its order.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<RawTensor<'_>>, TorchError> {
    let mut machine = Machine::new(pickle);
    let top = machine.run()?;
    machine.tensors_of(top)
}

/// Everything that a global may name. There is no way from a name to code.
#[derive(Clone, Copy, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(TorchDtype),
}

impl Global {
    fn resolve(module: &[u8], name: &[u8]) -> Option<Self> {
        Some(match (module, name) {
            (b"collections", b"OrderedDict") => Self::OrderedDict,
            (b"torch._utils", b"_rebuild_tensor_v2") => Self::RebuildTensor,
            (b"torch._utils", b"_rebuild_parameter") => Self::RebuildParameter,
            (b"torch", b"FloatStorage") => Self::Storage(TorchDtype::F32),
            (b"torch", b"HalfStorage") => Self::Storage(TorchDtype::F16),
            (b"torch", b"BFloat16Storage") => Self::Storage(TorchDtype::Bf16),
            (b"torch", b"DoubleStorage") => Self::Storage(TorchDtype::F64),
            (b"torch", b"CharStorage") => Self::Storage(TorchDtype::I8),
            (b"torch", b"ByteStorage") => Self::Storage(TorchDtype::U8),
            (b"torch", b"ShortStorage") => Self::Storage(TorchDtype::I16),
            (b"torch", b"IntStorage") => Self::Storage(TorchDtype::I32),
            (b"torch", b"LongStorage") => Self::Storage(TorchDtype::I64),
            (b"torch", b"BoolStorage") => Self::Storage(TorchDtype::Bool),
            _ => return None,
        })
    }
}

/// A value; containers are indices into the machine's arenas.
#[derive(Clone, Copy)]
enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(usize),
    Tuple(usize),
    /// A list's items are never needed, so they are not kept.
    List,
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

impl Value {
    fn kind(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool => "a bool",
            Self::Int(_) => "an integer",
            Self::Float => "a float",
            Self::Text(_) => "a string",
            Self::Tuple(_) => "a tuple",
            Self::List => "a list",
            Self::Dict(_) => "a dict",
            Self::Global(Global::Storage(_)) => "a storage class",
            Self::Global(_) => "a function",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

struct Item {
    dict: usize,
    key: Value,
    value: Value,
}

struct BuiltTensor {
    storage: usize,
    offset: i64,
    /// Tuples of integers.
    size: usize,
    stride: usize,
}

struct Machine<'a> {
    pickle: &'a [u8],
    /// Next byte to read.
    at: usize,
    /// Where the current opcode is, and its name, for messages.
    offset: usize,
    opcode: &'static str,
    stack: Vec<Value>,
    /// Stack heights at which a mark stands.
    marks: Vec<usize>,
    memo: Vec<Value>,
    texts: Vec<&'a str>,
    /// Start and length of each tuple in `tuple_items`.
    tuples: Vec<(usize, usize)>,
    tuple_items: Vec<Value>,
    /// Whether each dict is an `OrderedDict`.
    dicts: Vec<bool>,
    /// The items of all dicts, in the order of insertion.
    items: Vec<Item>,
    storages: Vec<RawStorage<'a>>,
    tensors: Vec<BuiltTensor>,
    /// Values held in all arenas together.
    held: usize,
}

impl<'a> Machine<'a> {
    fn new(pickle: &'a [u8]) -> Self {
        Self {
            pickle,
            at: 0,
            offset: 0,
            opcode: "PROTO",
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            texts: Vec::new(),
            tuples: Vec::new(),
            tuple_items: Vec::new(),
            dicts: Vec::new(),
            items: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
            held: 0,
        }
    }

    /// Runs the whole program and returns the one value it leaves.
    fn run(&mut self) -> Result<Value, TorchError> {
        let [code, protocol] = self.array()?;
        if code != 0x80 || protocol != 2 {
            return Err(TorchError::Protocol { code, protocol });
        }
        loop {
            self.offset = self.at;
            let [code] = self.array()?;
            self.opcode = opcode_name(code);
            match code {
                b'.' => return self.stop(),
                b'(' => {
                    self.limit("marks", self.marks.len() + 1, MAX_STACK)?;
                    self.marks.push(self.stack.len());
                }
                b'N' => self.push(Value::None)?,
                0x88 | 0x89 => self.push(Value::Bool)?,
                b'K' => {
                    let [value] = self.array()?;
                    self.push(Value::Int(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()))?;
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()))?;
                }
                0x8a => self.long()?,
                b'G' => {
                    self.array::<8>()?;
                    self.push(Value::Float)?;
                }
                b'X' => self.text()?,
                b')' => self.tuple(0)?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let count = self.since_mark()?;
                    self.tuple(count)?;
                }
                b']' => self.push(Value::List)?,
                b'a' => {
                    self.pop()?;
                    self.expect_list()?;
                }
                b'e' => {
                    let count = self.since_mark()?;
                    self.stack.truncate(self.stack.len() - count);
                    self.expect_list()?;
                }
                b'}' => self.new_dict(false)?,
                b's' => self.set_items(2)?,
                b'u' => {
                    let count = self.since_mark()?;
                    self.set_items(count)?;
                }
                b'q' => {
                    let [index] = self.array()?;
                    self.put(index.into())?;
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.put(index)?;
                }
                b'h' => {
                    let [index] = self.array()?;
                    self.get(index.into())?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.get(index)?;
                }
                b'c' => self.global()?,
                b'Q' => self.persistent_id()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                _ => {
                    return Err(TorchError::Opcode { name: self.opcode, code, offset: self.offset });
                }
            }
        }
    }

    fn stop(&mut self) -> Result<Value, TorchError> {
        let left = self.pickle.len() - self.at;
        if left != 0 {
            return Err(TorchError::AfterStop { offset: self.at, left });
        }
        match (self.stack.as_slice(), self.marks.as_slice()) {
            ([value], []) => Ok(*value),
            (stack, marks) => Err(TorchError::Unfinished { values: stack.len(), marks: marks.len() }),
        }
    }

    // Reading bytes.

    fn take(&mut self, count: usize) -> Result<&'a [u8], TorchError> {
        let rest = &self.pickle[self.at..];
        let Some((taken, _)) = rest.split_at_checked(count) else {
            return Err(TorchError::Truncated { offset: self.at, needed: count, left: rest.len() });
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TorchError> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn line(&mut self) -> Result<&'a [u8], TorchError> {
        let rest = &self.pickle[self.at..];
        let window = &rest[..rest.len().min(MAX_GLOBAL + 1)];
        match window.iter().position(|&byte| byte == b'\n') {
            Some(length) => {
                self.at += length + 1;
                Ok(&window[..length])
            }
            None if rest.len() > MAX_GLOBAL => {
                Err(self.over("bytes of a global's name", rest.len(), MAX_GLOBAL))
            }
            None => Err(TorchError::Truncated { offset: self.at, needed: rest.len() + 1, left: rest.len() }),
        }
    }

    // The stack.

    fn limit(&self, what: &'static str, found: usize, limit: usize) -> Result<(), TorchError> {
        if found > limit {
            return Err(self.over(what, found, limit));
        }
        Ok(())
    }

    fn over(&self, what: &'static str, found: usize, limit: usize) -> TorchError {
        TorchError::Limit { what, found, limit, offset: self.offset }
    }

    fn hold(&mut self, count: usize) -> Result<(), TorchError> {
        self.held += count;
        self.limit("values", self.held, MAX_VALUES)
    }

    fn push(&mut self, value: Value) -> Result<(), TorchError> {
        self.limit("values on the stack", self.stack.len() + 1, MAX_STACK)?;
        self.stack.push(value);
        Ok(())
    }

    /// Values above the last mark: an opcode may not reach below it.
    fn above_mark(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn need(&self, count: usize) -> Result<(), TorchError> {
        if self.above_mark() < count {
            return Err(TorchError::Underflow {
                opcode: self.opcode,
                offset: self.offset,
                needed: count,
                found: self.above_mark(),
            });
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, TorchError> {
        self.need(1)?;
        Ok(self.stack.pop().unwrap_or(Value::None))
    }

    fn top(&self) -> Result<Value, TorchError> {
        self.need(1)?;
        Ok(self.stack.last().copied().unwrap_or(Value::None))
    }

    fn since_mark(&mut self) -> Result<usize, TorchError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.len() - mark),
            None => Err(TorchError::NoMark { opcode: self.opcode, offset: self.offset }),
        }
    }

    fn wrong(&self, expected: &'static str, found: Value) -> TorchError {
        TorchError::Value { opcode: self.opcode, offset: self.offset, expected, found: found.kind() }
    }

    // Opcodes.

    fn long(&mut self) -> Result<(), TorchError> {
        let [length] = self.array()?;
        self.limit("bytes of an integer", length.into(), 8)?;
        let bytes = self.take(length.into())?;
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut padded = [sign; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(padded)))
    }

    fn text(&mut self) -> Result<(), TorchError> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        self.limit("bytes of a string", length, MAX_TEXT)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| TorchError::NotUtf8 { offset: self.offset })?;
        self.hold(1)?;
        self.texts.push(text);
        self.push(Value::Text(self.texts.len() - 1))
    }

    fn tuple(&mut self, count: usize) -> Result<(), TorchError> {
        self.need(count)?;
        self.hold(count + 1)?;
        let start = self.tuple_items.len();
        let from = self.stack.len() - count;
        self.tuple_items.extend(self.stack.drain(from..));
        self.tuples.push((start, count));
        self.push(Value::Tuple(self.tuples.len() - 1))
    }

    fn expect_list(&self) -> Result<(), TorchError> {
        match self.top()? {
            Value::List => Ok(()),
            other => Err(self.wrong("a list", other)),
        }
    }

    fn new_dict(&mut self, ordered: bool) -> Result<(), TorchError> {
        self.hold(1)?;
        self.dicts.push(ordered);
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    /// Moves the top `count` values, key after value after key, into the dict below them.
    fn set_items(&mut self, count: usize) -> Result<(), TorchError> {
        self.need(count + 1)?;
        if !count.is_multiple_of(2) {
            return Err(TorchError::OddItems { offset: self.offset, count });
        }
        self.hold(count)?;
        let values = self.stack.split_off(self.stack.len() - count);
        let dict = match self.top()? {
            Value::Dict(dict) => dict,
            other => return Err(self.wrong("a dict", other)),
        };
        let pairs = values.chunks_exact(2);
        self.items.extend(pairs.map(|pair| Item { dict, key: pair[0], value: pair[1] }));
        Ok(())
    }

    /// Picklers number the memo from 0 without gaps, so an index past the end is not one of theirs.
    fn put(&mut self, index: u32) -> Result<(), TorchError> {
        let value = self.top()?;
        let at = index as usize;
        self.limit("memo entries", at.saturating_add(1), MAX_MEMO)?;
        if at < self.memo.len() {
            self.memo[at] = value;
        } else if at == self.memo.len() {
            self.memo.push(value);
        } else {
            return Err(self.memo_error(index));
        }
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<(), TorchError> {
        match self.memo.get(index as usize) {
            Some(&value) => self.push(value),
            None => Err(self.memo_error(index)),
        }
    }

    fn memo_error(&self, index: u32) -> TorchError {
        TorchError::Memo { opcode: self.opcode, offset: self.offset, index, stored: self.memo.len() }
    }

    fn global(&mut self) -> Result<(), TorchError> {
        let module = self.line()?;
        let name = self.line()?;
        match Global::resolve(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let global = printable(&[module, b".", name].concat());
                let offset = self.offset;
                Err(if self.creates_object() {
                    TorchError::PickledObject { class: global, offset }
                } else {
                    TorchError::Global { global, offset }
                })
            }
        }
    }

    /// Whether the next opcodes are `EMPTY_TUPLE NEWOBJ`, with which a pickle makes an instance of
    /// the class it just named. Only the wording of the refusal depends on it.
    fn creates_object(&self) -> bool {
        let rest = &self.pickle[self.at..];
        let rest = match rest {
            [b'q', _, rest @ ..] | [b'r', _, _, _, _, rest @ ..] => rest,
            rest => rest,
        };
        rest.starts_with(b")\x81")
    }

    fn persistent_id(&mut self) -> Result<(), TorchError> {
        const EXPECTED: &str = "a tuple ('storage', class, key, location, count)";
        let id = self.pop()?;
        let Value::Tuple(tuple) = id else {
            return Err(self.wrong(EXPECTED, id));
        };
        let &[
            Value::Text(tag),
            Value::Global(Global::Storage(dtype)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(numel),
        ] = self.tuple_at(tuple)
        else {
            return Err(self.wrong(EXPECTED, id));
        };
        if self.texts[tag] != "storage" {
            return Err(self.wrong(EXPECTED, id));
        }
        let key = self.texts[key];
        self.hold(2)?;
        self.storages.push(RawStorage { dtype, key, numel });
        self.push(Value::Storage(self.storages.len() - 1))
    }

    fn reduce(&mut self) -> Result<(), TorchError> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let Value::Tuple(tuple) = arguments else {
            return Err(self.wrong("a tuple of arguments", arguments));
        };
        match function {
            Value::Global(Global::OrderedDict) => match self.tuple_at(tuple) {
                [] => self.new_dict(true),
                _ => Err(self.wrong("no arguments to OrderedDict", arguments)),
            },
            Value::Global(Global::RebuildTensor) => self.rebuild_tensor(tuple),
            Value::Global(Global::RebuildParameter) => {
                match *self.tuple_at(tuple) {
                    [tensor @ Value::Tensor(_), Value::Bool, Value::Dict(_)] => self.push(tensor),
                    _ => Err(self
                        .wrong("arguments (tensor, requires_grad, hooks) to _rebuild_parameter", arguments)),
                }
            }
            other => Err(TorchError::Call { found: other.kind(), offset: self.offset }),
        }
    }

    fn rebuild_tensor(&mut self, arguments: usize) -> Result<(), TorchError> {
        const EXPECTED: &str =
            "arguments (storage, offset, size, stride, requires_grad, hooks) to _rebuild_tensor_v2";
        // A seventh argument, the tensor's Python attributes, is dropped.
        let required = match self.tuple_at(arguments) {
            [required @ .., Value::None | Value::Dict(_)] if required.len() == 6 => required,
            required => required,
        };
        let &[
            Value::Storage(storage),
            Value::Int(offset),
            Value::Tuple(size),
            Value::Tuple(stride),
            Value::Bool,
            Value::Dict(_),
        ] = required
        else {
            return Err(self.wrong(EXPECTED, Value::Tuple(arguments)));
        };
        for tuple in [size, stride] {
            let items = self.tuple_at(tuple);
            self.limit("dimensions of a tensor", items.len(), MAX_RANK)?;
            if let Some(&other) = items.iter().find(|item| !matches!(item, Value::Int(_))) {
                return Err(self.wrong("integers in a tensor's size and stride", other));
            }
        }
        self.hold(3)?;
        self.tensors.push(BuiltTensor { storage, offset, size, stride });
        self.push(Value::Tensor(self.tensors.len() - 1))
    }

    /// Accepts and drops the attributes of an `OrderedDict`: torch keeps module versions there.
    fn build(&mut self) -> Result<(), TorchError> {
        let state = self.pop()?;
        let target = self.top()?;
        match target {
            Value::Dict(dict) if self.dicts[dict] => {}
            other => {
                return Err(TorchError::Build { found: other.kind(), offset: self.offset });
            }
        }
        match state {
            Value::Dict(_) => Ok(()),
            other => Err(self.wrong("a dict of attributes", other)),
        }
    }

    // The result.

    fn tuple_at(&self, tuple: usize) -> &[Value] {
        let (start, length) = self.tuples[tuple];
        &self.tuple_items[start..start + length]
    }

    fn items_of(&self, dict: usize) -> impl Iterator<Item = (Value, Value)> {
        let items = self.items.iter().filter(move |item| item.dict == dict);
        items.map(|item| (item.key, item.value))
    }

    fn name_of(&self, key: Value) -> Result<&'a str, TorchError> {
        match key {
            Value::Text(text) => Ok(self.texts[text]),
            other => Err(TorchError::Key { found: other.kind() }),
        }
    }

    /// The dict that holds the tensors: the top-level one, or the one under `state_dict` or `model`.
    fn state_dict_of(&self, top: Value) -> Result<usize, TorchError> {
        let Value::Dict(top) = top else {
            return Err(TorchError::TopLevel { found: top.kind() });
        };
        if self.items_of(top).any(|(_, value)| matches!(value, Value::Tensor(_))) {
            return Ok(top);
        }
        let wrapped = |wrapper: &str| {
            self.items_of(top).find_map(|(key, value)| match (key, value) {
                (Value::Text(key), Value::Dict(dict)) if self.texts[key] == wrapper => Some((key, dict)),
                _ => None,
            })
        };
        let Some((wrapper, dict)) = wrapped("state_dict").or_else(|| wrapped("model")) else {
            return Ok(top);
        };
        for (key, value) in self.items_of(top) {
            if !matches!(key, Value::Text(key) if key == wrapper) {
                self.expect_plain(key, value)?;
            }
        }
        Ok(dict)
    }

    fn expect_plain(&self, key: Value, value: Value) -> Result<(), TorchError> {
        let name = self.name_of(key)?;
        match value {
            Value::None | Value::Bool | Value::Int(_) | Value::Float | Value::Text(_) => Ok(()),
            other => Err(TorchError::Entry { name: printable(name.as_bytes()), found: other.kind() }),
        }
    }

    fn tensors_of(&self, top: Value) -> Result<Vec<RawTensor<'a>>, TorchError> {
        let dict = self.state_dict_of(top)?;
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        for (key, value) in self.items_of(dict) {
            let name = self.name_of(key)?;
            if !names.insert(name) {
                return Err(TorchError::DuplicateName { name: printable(name.as_bytes()) });
            }
            let Value::Tensor(tensor) = value else {
                self.expect_plain(key, value)?;
                continue;
            };
            self.limit("tensors", tensors.len() + 1, MAX_TENSORS)?;
            let tensor = &self.tensors[tensor];
            tensors.push(RawTensor {
                name,
                storage: self.storages[tensor.storage],
                offset: tensor.offset,
                size: self.integers(tensor.size),
                stride: self.integers(tensor.stride),
            });
        }
        if tensors.is_empty() {
            return Err(TorchError::NoTensors);
        }
        Ok(tensors)
    }

    fn integers(&self, tuple: usize) -> Vec<i64> {
        let items = self.tuple_at(tuple).iter();
        items
            .filter_map(|item| match item {
                Value::Int(value) => Some(*value),
                _ => None,
            })
            .collect()
    }
}

/// Text from the file, safe to print: control characters escaped, long text cut.
pub(super) fn printable(bytes: &[u8]) -> String {
    const MAX_CHARS: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_CHARS)]);
    let mut shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if bytes.len() > 4 * MAX_CHARS || text.chars().nth(MAX_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The name of a pickle opcode, for messages.
fn opcode_name(code: u8) -> &'static str {
    match code {
        b'(' => "MARK",
        b'.' => "STOP",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'J' => "BININT",
        b'K' => "BININT1",
        b'L' => "LONG",
        b'M' => "BININT2",
        b'N' => "NONE",
        b'P' => "PERSID",
        b'Q' => "BINPERSID",
        b'R' => "REDUCE",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'X' => "BINUNICODE",
        b'a' => "APPEND",
        b'b' => "BUILD",
        b'c' => "GLOBAL",
        b'd' => "DICT",
        b'}' => "EMPTY_DICT",
        b'e' => "APPENDS",
        b'g' => "GET",
        b'h' => "BINGET",
        b'i' => "INST",
        b'j' => "LONG_BINGET",
        b'l' => "LIST",
        b']' => "EMPTY_LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        b'q' => "BINPUT",
        b'r' => "LONG_BINPUT",
        b's' => "SETITEM",
        b't' => "TUPLE",
        b')' => "EMPTY_TUPLE",
        b'u' => "SETITEMS",
        b'G' => "BINFLOAT",
        0x80 => "PROTO",
        0x81 => "NEWOBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x85 => "TUPLE1",
        0x86 => "TUPLE2",
        0x87 => "TUPLE3",
        0x88 => "NEWTRUE",
        0x89 => "NEWFALSE",
        0x8a => "LONG1",
        0x8b => "LONG4",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        0x8c => "SHORT_BINUNICODE",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x93 => "STACK_GLOBAL",
        0x94 => "MEMOIZE",
        0x95 => "FRAME",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => "(unknown)",
    }
}
