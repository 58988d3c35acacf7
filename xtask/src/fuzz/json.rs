//! Mutations of JSON that keep it valid, and mutations of its text.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;
use serde_json::{Value, json};

/// Maximum length of mutated JSON.
const MOST_BYTES: usize = 8 << 20;

/// A number below `limit`.
pub(super) fn below(rng: &mut ChaCha8Rng, limit: usize) -> usize {
    (rng.next_u64() % limit.max(1) as u64) as usize
}

/// One of `choices`.
pub(super) fn pick<'a, T>(rng: &mut ChaCha8Rng, choices: &'a [T]) -> &'a T {
    &choices[below(rng, choices.len())]
}

/// Changes one to three places of a JSON text, or the text itself. `parts` are values to insert anywhere.
pub(super) fn mutate_text(rng: &mut ChaCha8Rng, text: &[u8], parts: &[Value]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else { return mutate_bytes(rng, text) };
    match below(rng, 8) {
        0 => mutate_bytes(rng, text),
        1 => text[..below(rng, text.len())].to_vec(),
        _ => {
            for _ in 0..=below(rng, 3) {
                mutate(rng, &mut value, parts);
            }
            let mutated = value.to_string().into_bytes();
            // Nested repetitions would exceed the memory limit by the size of the input alone.
            if mutated.len() > MOST_BYTES { mutate_bytes(rng, text) } else { mutated }
        }
    }
}

/// Flips bits and inserts extreme numbers in arbitrary bytes.
pub(super) fn mutate_bytes(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=below(rng, 6) {
        if bytes.is_empty() {
            break;
        }
        // Headers come first, and small numbers matter more than data.
        let reach = *pick(rng, &[64, 1024, 16 * 1024, usize::MAX]);
        let at = below(rng, bytes.len().min(reach));
        match below(rng, 5) {
            0 => bytes[at] ^= 1 << below(rng, 8),
            1 => bytes[at] = *pick(rng, &[0, 1, 0x7f, 0x80, 0xff, b'"', b'}', b'0']),
            2 => {
                let number = *pick(rng, &[0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, 1 << 24]);
                put(&mut bytes, at, &number.to_le_bytes());
            }
            3 => {
                let number =
                    *pick(rng, &[0, 1, 1 << 31, 1 << 32, 1 << 40, u64::MAX / 2, u64::MAX - 7, u64::MAX]);
                put(&mut bytes, at, &number.to_le_bytes());
            }
            _ => {
                let end = (at + 1 + below(rng, 32)).min(bytes.len());
                let run = bytes[at..end].to_vec();
                if below(rng, 2) == 0 {
                    bytes.splice(at..at, run);
                } else {
                    bytes.drain(at..end);
                }
            }
        }
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, number: &[u8]) {
    let end = bytes.len().min(at + number.len());
    bytes[at..end].copy_from_slice(&number[..end - at]);
}

/// Changes one place.
fn mutate(rng: &mut ChaCha8Rng, value: &mut Value, parts: &[Value]) {
    let mut places = Vec::new();
    collect(value, String::new(), &mut places);
    let (place, other) = (pick(rng, &places).clone(), pick(rng, &places).clone());
    let other = value.pointer(&other).cloned().unwrap_or_default();
    let Some(target) = value.pointer_mut(&place) else { return };
    match below(rng, 10) {
        0..=2 => *target = extreme(rng),
        3 => *target = other,
        4 | 5 if !parts.is_empty() => *target = pick(rng, parts).clone(),
        6 => match target {
            Value::Array(items) if !items.is_empty() => {
                let item = pick(rng, items).clone();
                let times = *pick(rng, &[1, 2, 100, 5000]);
                items.extend(std::iter::repeat_n(item, times));
            }
            Value::String(text) => *text = text.repeat(*pick(rng, &[0, 2, 50, 3000])),
            _ => *target = extreme(rng),
        },
        7 => match target {
            Value::Array(items) if !items.is_empty() => _ = items.remove(below(rng, items.len())),
            Value::Object(map) if !map.is_empty() => {
                let key = map.keys().nth(below(rng, map.len())).cloned().unwrap_or_default();
                map.remove(&key);
            }
            _ => *target = Value::Null,
        },
        8 => match target {
            Value::Number(number) => {
                let by = *pick(rng, &[-1.0, 1.0, 0.5, 1e6]);
                let number = number.as_f64().unwrap_or_default();
                *target = if number.fract() == 0.0 && number.abs() < 1e15 {
                    json!(number as i64 + by as i64)
                } else {
                    json!(number * by)
                };
            }
            Value::Array(items) => {
                let (a, b) = (below(rng, items.len()), below(rng, items.len()));
                if !items.is_empty() {
                    items.swap(a, b);
                }
            }
            Value::Bool(is_so) => *is_so = !*is_so,
            _ => *target = extreme(rng),
        },
        _ => match target {
            Value::Object(map) => {
                let key = *pick(rng, &["", "type", "version", "x", "__metadata__", "\u{202e}"]);
                map.insert(key.to_owned(), extreme(rng));
            }
            _ => *target = extreme(rng),
        },
    }
}

/// JSON pointers of the values; of many similar ones, such as a vocabulary, only some.
fn collect(value: &Value, place: String, places: &mut Vec<String>) {
    let few = |length: usize| if length > 50 { 8 } else { length };
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().take(few(items.len())) {
                collect(item, format!("{place}/{index}"), places);
            }
        }
        Value::Object(map) => {
            for (key, item) in map.iter().take(few(map.len())) {
                collect(item, format!("{place}/{}", key.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        _ => {}
    }
    places.push(place);
}

/// A value that code may have overlooked.
fn extreme(rng: &mut ChaCha8Rng) -> Value {
    match below(rng, 22) {
        0 => json!(0),
        1 => json!(1),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(i64::MIN),
        5 => json!(u32::MAX),
        6 => json!(1_u64 << 31),
        7 => json!(1_u64 << 24),
        8 => json!((1_u64 << 24) + 1),
        9 => json!(1_u64 << 53),
        10 => json!(1e308),
        11 => json!(0.5),
        12 => json!(-0.0),
        13 => json!(5e-324),
        14 => Value::Null,
        15 => json!(""),
        16 => json!([]),
        17 => json!({}),
        18 => json!(true),
        19 => json!("\u{1b}]0;x\u{7}\u{0}\u{10ffff}"),
        20 => json!("x".repeat(1 << 16)),
        _ => (0..100).fold(json!(0), |inner, _| json!([inner])),
    }
}
