//! GGUF files: equal to llama.cpp's own package, read strictly, and written as they are read.

mod blocks;
mod damage;
mod hostile;
mod kinds;
mod round_trip;
mod sentencepiece;
mod support;
mod tokenizer;
mod types;
