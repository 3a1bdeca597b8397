//! Files written by PyTorch, numpy and safetensors: whole, damaged, and of unsupported kinds.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/weights/formats")
        .join(name)
}

fn open(name: &str, key: Option<&str>) -> WeightFile {
    WeightFile::open(fixture(name), key).unwrap()
}

fn values(file: &WeightFile, name: &str) -> Vec<f64> {
    let tensor = file.weights.get(name).unwrap().to_dtype(DType::F64);
    tensor.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn counted(count: u8) -> Vec<f64> {
    (0..count).map(f64::from).collect()
}

#[test]
fn every_type_and_layout_of_a_checkpoint() {
    let file = open("plain.pth", None);
    assert_eq!(
        (file.format, file.key.as_deref()),
        (WeightFormat::Torch, None)
    );
    for (name, dtype) in [
        ("float64", DType::F64),
        ("float32", DType::F32),
        ("float16", DType::F16),
        ("bfloat16", DType::BF16),
        ("int64", DType::I64),
        ("int32", DType::I64),
        ("int16", DType::I64),
        ("int8", DType::I64),
        ("uint8", DType::U8),
    ] {
        let name = format!("type.{name}");
        assert_eq!(file.weights.get(&name).unwrap().dtype(), dtype, "{name}");
        assert_eq!(values(&file, &name), counted(6), "{name}");
    }
    assert_eq!(values(&file, "type.bool"), [1., 0., 1.]);
    assert_eq!(values(&file, "parameter"), counted(6));
    assert_eq!(values(&file, "transposed"), [0., 2., 4., 1., 3., 5.]);
    assert_eq!(
        values(&file, "strided"),
        [1., 2., 6., 7., 11., 12., 16., 17.]
    );
    assert_eq!(values(&file, "shared.whole"), counted(6));
    assert_eq!(values(&file, "shared.tail"), [4., 5.]);
    assert_eq!(values(&file, "scalar"), [7.]);
    assert_eq!(file.weights.get("scalar").unwrap().rank(), 0);
    assert_eq!(file.weights.get("empty").unwrap().dims(), [0, 3]);
    let skipped = file.skipped.join("\n");
    assert!(
        skipped.contains("metadata: it is text") && skipped.contains("count: it is a number"),
        "{skipped}"
    );
}

#[test]
fn usual_keys_are_tried_and_named() {
    for (name, key, others) in [
        ("model.pth", "model", &[][..]),
        (
            "two_levels.pth.tar",
            "state_dict.model",
            &["model_ema.state_dict"],
        ),
        ("student_teacher.pth", "teacher", &["student"]),
        ("protocol4.bin", "model", &[]),
        ("huge_int.pth", "model", &[]),
    ] {
        let file = open(name, None);
        assert_eq!(file.key.as_deref(), Some(key), "{name}");
        assert_eq!(file.other_keys, others, "{name}");
        assert_eq!(values(&file, "a"), counted(6), "{name}");
        assert_eq!(values(&file, "b"), counted(4), "{name}");
        assert!(
            file.to_string().contains(&format!("under the key `{key}`")),
            "{file}"
        );
    }
    assert_eq!(
        values(&open("student_teacher.pth", Some("student")), "a"),
        counted(2)
    );
    let other = fixture("other_key.pth");
    let error = WeightFile::open(&other, None).unwrap_err().to_string();
    assert!(
        error.contains("`weights` (a dict of 1)") && error.contains("name the key"),
        "{error}"
    );
    assert_eq!(
        values(&open("other_key.pth", Some("weights.net")), "a"),
        counted(6)
    );
    let error = WeightFile::open(&other, Some("weights.no"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no key `weights.no`"), "{error}");
    // All dicts at once, as needed for iBOT's full checkpoints.
    let all = open("student_teacher.pth", Some("."));
    let names: Vec<_> = all.weights.names().collect();
    assert_eq!(names, ["center", "student.a", "teacher.a", "teacher.b"]);
}

#[test]
fn unsupported_kinds_are_answered_with_lines_to_resave_them() {
    for (name, parts) in [
        (
            "legacy.pth",
            &["before version 1.6", "torch.load(path", "save_file"][..],
        ),
        (
            "script.pt",
            &["TorchScript", "torch.jit.load(path", "save_file"],
        ),
        (
            "module.pth",
            &["whole module", ".Module)", "state_dict()", "save_file"],
        ),
        ("bare.pkl", &["torch.save did not write", "save_file"]),
        ("list.pth", &["a list of 1"]),
        (
            "no_tensors.pth",
            &["there are no tensors", "`epoch` (a number)"],
        ),
    ] {
        let error = WeightFile::open(fixture(name), None)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{name}: `{part}` is not in: {error}");
        }
    }
    let sparse = open("sparse.pth", None);
    assert_eq!(values(&sparse, "a"), counted(6));
    assert!(
        sparse.skipped[0].contains("odd") && sparse.skipped[0].contains("not a dense"),
        "{:?}",
        sparse.skipped
    );
}

#[test]
fn numpy_archives_plain_and_compressed() {
    for name in ["arrays.npz", "compressed.npz"] {
        let file = open(name, None);
        assert_eq!(file.format, WeightFormat::Npz);
        for array in ["a", "f"] {
            assert_eq!(values(&file, array), counted(6), "{name} {array}");
            assert_eq!(file.weights.get(array).unwrap().dims(), [2, 3]);
        }
        assert_eq!(file.weights.get("h").unwrap().dtype(), DType::F16);
        assert_eq!(values(&file, "i"), counted(3));
        assert_eq!(values(&file, "flag"), [1., 0.]);
    }
    let file = open("arrays.npz", None);
    assert_eq!(values(&file, "scalar"), [7.]);
    assert!(file.skipped[0].contains("text"), "{:?}", file.skipped);
}

#[test]
fn shards_and_every_type_of_safetensors() {
    for path in [
        fixture("sharded"),
        fixture("sharded/model.safetensors.index.json"),
    ] {
        let file = WeightFile::open(path, None).unwrap();
        assert_eq!(
            (values(&file, "a"), values(&file, "b")),
            (counted(6), counted(4))
        );
    }
    let file = open("types.safetensors", None);
    assert_eq!(values(&file, "bool"), [1., 0.]);
    assert_eq!(values(&file, "i8"), [-1., 2.]);
    assert_eq!(values(&file, "i16"), [-3.]);
    assert_eq!(values(&file, "f"), [0., 1.]);

    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    for (text, part) in [
        ("{", "EOF"),
        (
            r#"{"weight_map": {"a": "../a.safetensors"}}"#,
            "not a file of weights in its folder",
        ),
        (r#"{"weight_map": {"a": ".."}}"#, "in its folder"),
        (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "in its folder"),
        (
            r#"{"weight_map": {"a": "model.safetensors.index.json"}}"#,
            "in its folder",
        ),
        (
            r#"{"weight_map": {"c": "one.safetensors"}}"#,
            "for instance `c`",
        ),
        (
            r#"{"weight_map": {"c": "two.safetensors"}}"#,
            "two.safetensors",
        ),
    ] {
        let shard = fixture("sharded/model-00001-of-00002.safetensors");
        fs::copy(shard, dir.path().join("one.safetensors")).unwrap();
        fs::write(&index, text).unwrap();
        let error = WeightFile::open(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn other_files_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let error = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        WeightFile::open(path, None).unwrap_err().to_string()
    };
    assert!(error("model.pth", b"<!DOCTYPE html>").contains("error page"));
    assert!(error("model.pth", b"").contains("neither"));
    assert!(error("a.safetensors", b"").contains("header"));
    assert!(
        error("a.zip", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")
            .contains("holds no weights")
    );
    let missing = WeightFile::open(dir.path().join("none.pth"), None).unwrap_err();
    assert!(missing.to_string().contains("none.pth"));
    let empty = tempfile::tempdir().unwrap();
    let error = WeightFile::open(empty.path(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("pytorch_model.bin"), "{error}");
    let error = WeightFile::open(fixture("types.safetensors"), Some("model")).unwrap_err();
    assert!(error.to_string().contains("no key `model`"));
}

/// All single-file fixtures.
const WHOLE: [&str; 8] = [
    "plain.pth",
    "model.pth",
    "protocol4.bin",
    "script.pt",
    "module.pth",
    "arrays.npz",
    "compressed.npz",
    "types.safetensors",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Truncated or corrupted files give a result or an error, never a panic.
    #[test]
    fn damaged_files_end_without_panic(
        which in 0..WHOLE.len(),
        cut in proptest::option::of(any::<Index>()),
        flips in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..20),
    ) {
        let mut bytes = fs::read(fixture(WHOLE[which])).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WHOLE[which]);
        fs::write(&path, bytes).unwrap();
        let opened = WeightFile::open(&path, None);
        if let (Ok(_), Some(_)) = (&opened, cut) {
            prop_assert!(false, "a truncated file was accepted");
        }
    }

    /// A corrupted pickle in an intact archive.
    #[test]
    fn damaged_pickles_end_without_panic(
        flips in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        use std::io::Write;
        let file = fs::File::open(fixture("plain.pth")).unwrap();
        let mut archive = ZipArchive::new(BufReader::new(file)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.pth");
        let mut out = zip::ZipWriter::new(fs::File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).unwrap();
            let name = entry.name().unwrap().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if name.ends_with("data.pkl") {
                for (at, byte) in &flips {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
            }
            out.start_file(name, options).unwrap();
            out.write_all(&bytes).unwrap();
        }
        out.finish().unwrap();
        let _ = WeightFile::open(&path, None);
    }
}

#[test]
fn pointers_and_web_pages_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["m.safetensors", "m.pth"] {
        let path = folder.path().join(name);
        for (text, what) in [
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n",
                "Git LFS pointer",
            ),
            ("<!DOCTYPE html><html></html>", "web page"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = WeightFile::open(&path, None).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

#[test]
fn headers_list_types_that_cannot_be_loaded_and_read_no_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let header = r#"{"b":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[16,20]},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 20]);
    std::fs::write(&path, &bytes).unwrap();
    let tensors = WeightFile::header(&path).unwrap().unwrap();
    let named: Vec<_> = tensors
        .iter()
        .map(|t| (t.name.as_str(), t.dtype.as_str(), t.shape.len()))
        .collect();
    assert_eq!(named, [("a", "F32", 2), ("b", "F8_E5M2", 1)]);
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = WeightFile::header(&path).unwrap_err().to_string();
    assert!(error.contains("header promises"), "{error}");
    let other = String::from_utf8_lossy(&bytes).replace("[2,2]", "[9,2]");
    std::fs::write(&path, other.as_bytes()).unwrap();
    let error = WeightFile::header(&path).unwrap_err().to_string();
    assert!(
        error.contains("`a` of shape [9, 2] needs 72 bytes"),
        "{error}"
    );
}

#[test]
fn values_other_than_numbers_are_named() {
    let tensor =
        |value: f32| candle_core::Tensor::new(&[1., value], &candle_core::Device::Cpu).unwrap();
    let weights = |value: f32| -> WeightMap {
        [("a", 2.), ("b", value)]
            .map(|(name, value)| (name.to_owned(), tensor(value)))
            .into_iter()
            .collect()
    };
    weights(3.).check_finite("this").unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let error = weights(bad).check_finite("this").unwrap_err().to_string();
        assert!(
            error.contains("1 tensors") && error.contains(": b;"),
            "{error}"
        );
    }
}
