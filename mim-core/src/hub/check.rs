//! Checks of downloaded files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata as Header;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::headers::Metadata;

/// The limit of the format.
const LONGEST_HEADER: u64 = 100_000_000;

/// What is wrong with a download of `name`.
pub(super) fn download(path: &Path, name: &str, metadata: &Metadata) -> Result<(), String> {
    let length = length(path)?;
    if length != metadata.size {
        return Err(format!(
            "the download has {length} bytes, but the Hub announced {}",
            metadata.size
        ));
    }
    let announced = &metadata.etag;
    // For large files, the Hub gives the SHA-256 of their bytes; for files stored in git itself, git's hash.
    let (kind, found) = match announced.len() {
        64 => ("SHA-256", hash(Sha256::new(), path)?),
        40 if announced.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            let blob = Sha1::new_with_prefix(format!("blob {length}\0"));
            ("git hash (SHA-1)", hash(blob, path)?)
        }
        // Another kind of server.
        _ => return readable(path, name),
    };
    match found.eq_ignore_ascii_case(announced) {
        true => readable(path, name),
        false => Err(format!(
            "the {kind} of the download is {found}, but the Hub announced {announced}"
        )),
    }
}

/// What is wrong with the header of a `.safetensors` file; other files are not checked.
pub(super) fn readable(path: &Path, name: &str) -> Result<(), String> {
    if !name.ends_with(".safetensors") {
        return Ok(());
    }
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut start = [0; 8];
    let broken = |error: &dyn std::fmt::Display| format!("it has no safetensors header ({error})");
    file.read_exact(&mut start)
        .map_err(|error| broken(&error))?;
    let header = u64::from_le_bytes(start);
    if header > LONGEST_HEADER {
        return Err(broken(&"it starts with something else"));
    }
    let mut json = Vec::new();
    file.take(header)
        .read_to_end(&mut json)
        .map_err(|error| broken(&error))?;
    let parsed: Header = serde_json::from_slice(&json).map_err(|error| broken(&error))?;
    // Several lengths that are possible one by one may have a sum that is not.
    let promised = (8 + header).saturating_add(parsed.data_len() as u64);
    let found = length(path)?;
    if promised == found {
        return Ok(());
    }
    Err(format!(
        "it has {found} bytes, but its header announces {promised}"
    ))
}

fn length(path: &Path) -> Result<u64, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    Ok(metadata.len())
}

/// Continues a hash by the bytes of a file; in hexadecimal digits.
fn hash(mut hash: impl Digest, path: &Path) -> Result<String, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut piece = vec![0; 1 << 18];
    loop {
        match file.read(&mut piece).map_err(|error| error.to_string())? {
            0 => break,
            bytes => hash.update(&piece[..bytes]),
        }
    }
    let hash = hash.finalize();
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_lengths_are_compared() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let metadata = |etag: &str, size| Metadata {
            commit: String::new(),
            etag: etag.to_owned(),
            size,
            xet: None,
        };
        assert_eq!(download(file.path(), "x.bin", &metadata(known, 3)), Ok(()));
        let wrong = download(file.path(), "x.bin", &metadata(known, 4)).unwrap_err();
        assert!(wrong.contains("3 bytes") && wrong.contains('4'), "{wrong}");
        let wrong = download(file.path(), "x.bin", &metadata(&known.replace('b', "c"), 3));
        assert!(wrong.unwrap_err().contains("SHA-256"));
        // `printf abc | git hash-object --stdin`
        let known = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        let git = metadata(known, 3);
        assert_eq!(download(file.path(), "x.bin", &git), Ok(()));
        let wrong = download(file.path(), "x.bin", &metadata(&known.replace('f', "0"), 3));
        assert!(wrong.unwrap_err().contains("git hash"));
        let other = metadata("0123456789abcdef0123456789abcdef", 3);
        assert_eq!(download(file.path(), "x.bin", &other), Ok(()));
        let wrong = download(file.path(), "x.safetensors", &git).unwrap_err();
        assert!(wrong.contains("safetensors header"), "{wrong}");
    }

    #[test]
    fn headers_must_fit_the_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let json = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json);
        bytes.extend([1, 2]);
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(readable(file.path(), "a.safetensors"), Ok(()));
        bytes.pop();
        std::fs::write(file.path(), &bytes).unwrap();
        let wrong = readable(file.path(), "a.safetensors").unwrap_err();
        assert!(wrong.contains("announces"), "{wrong}");
        std::fs::write(file.path(), br#"{"error": "no"}"#).unwrap();
        assert!(readable(file.path(), "a.safetensors").is_err());
        // Eight tensors that end just before the largest number.
        let size = (1u64 << 61) - 1;
        let entry = |at: u64| {
            let (start, end) = (at * size, (at + 1) * size);
            format!(r#""{at}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
        };
        let json = format!("{{{}}}", (0..8).map(entry).collect::<Vec<_>>().join(","));
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        std::fs::write(file.path(), &bytes).unwrap();
        let wrong = readable(file.path(), "a.safetensors").unwrap_err();
        assert!(wrong.contains("announces 18446744073709551615"), "{wrong}");
    }
}
