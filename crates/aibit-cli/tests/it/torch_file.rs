//! `pytorch_model.bin`, written like `torch.save` does.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use safetensors::tensor::Dtype;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::models::SourceTensor;

/// A state dict of `tensors`, each with its own storage.
pub(crate) fn state_dict(tensors: &BTreeMap<String, SourceTensor>) -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.global("collections", "OrderedDict").raw(b")R(");
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        assert_eq!(tensor.dtype, Dtype::F32);
        let elements: usize = tensor.shape.iter().product();
        let strides = (0..tensor.shape.len()).map(|axis| tensor.shape[axis + 1..].iter().product());
        pickle.text(name);
        pickle.global("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage");
        pickle.global("torch", "FloatStorage").text(&key.to_string()).text("cpu").int(elements).raw(b"tQ");
        pickle.int(0).ints(tensor.shape.iter().copied()).ints(strides);
        pickle.raw(b"\x89").global("collections", "OrderedDict").raw(b")RtR");
    }
    pickle.raw(b"u.");
    file(&pickle, tensors.values().map(|tensor| tensor.data.as_slice()))
}

/// A file that runs a command when Python unpickles it.
pub(crate) fn running_a_command() -> Vec<u8> {
    let mut pickle = Pickle::new();
    pickle.global("os", "system").raw(b"(").text("echo owned > owned.txt").raw(b"tR.");
    file(&pickle, [])
}

fn file<'a>(pickle: &Pickle, storages: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut member = |name: &str, content: &[u8]| {
        zip.start_file(name, options).expect("start a member");
        zip.write_all(content).expect("write a member");
    };
    member("model/data.pkl", &pickle.0);
    member("model/byteorder", b"little");
    for (key, storage) in storages.into_iter().enumerate() {
        member(&format!("model/data/{key}"), storage);
    }
    member("model/version", b"3\n");
    zip.finish().expect("finish").into_inner()
}

/// A pickle of protocol 2 under construction.
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(&mut self, value: usize) -> &mut Self {
        self.raw(b"J").raw(&(value as i32).to_le_bytes())
    }

    fn ints(&mut self, values: impl IntoIterator<Item = usize>) -> &mut Self {
        self.raw(b"(");
        for value in values {
            self.int(value);
        }
        self.raw(b"t")
    }
}
