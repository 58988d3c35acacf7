//! Ids, names and sizes of element types.

use aibit_gguf::{GgmlType, UnsupportedType};

#[test]
fn every_type_is_found_by_its_id() {
    for dtype in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(dtype.id()), Ok(dtype));
    }
    let ids = GgmlType::ALL.map(GgmlType::id);
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

#[test]
fn every_other_id_is_refused_and_ggml_s_types_by_name() {
    let read = GgmlType::ALL.map(GgmlType::id);
    for id in (0..=41).filter(|id| !read.contains(id)) {
        let message = GgmlType::from_id(id).expect_err("not read").to_string();
        assert!(message.starts_with(&format!("type {id} (")), "{message}");
    }
    for id in [42, 255, u32::MAX] {
        assert_eq!(GgmlType::from_id(id), Err(UnsupportedType::Unknown { id }));
    }
    let message = |id| GgmlType::from_id(id).expect_err("not read").to_string();
    assert_eq!(
        message(10),
        "type 10 (Q2_K) is not supported; supported are \
         F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16"
    );
    assert_eq!(message(31), "type 31 (Q4_0_4_4) was removed from ggml; convert the model again");
    assert_eq!(message(255), "type 255 is not one of ggml's");
}

#[test]
fn bytes_are_those_of_whole_blocks() {
    assert_eq!(GgmlType::F32.bytes(5), Some(20));
    assert_eq!(GgmlType::Q8_0.bytes(64), Some(68));
    assert_eq!(GgmlType::Q4K.bytes(512), Some(288));
    assert_eq!(GgmlType::Q6K.bytes(0), Some(0));
    assert_eq!(GgmlType::Q8_0.bytes(63), None);
    assert_eq!(GgmlType::Q4K.bytes(32), None);
    assert_eq!(GgmlType::F32.bytes(usize::MAX / 2), None);
    assert_eq!(GgmlType::Q8_0.bytes(usize::MAX / 32 * 32), None);
}
