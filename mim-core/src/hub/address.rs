//! Addresses of the Hub.

use super::{HubPath, HubSettings, RepoKind};

/// The address of the file that `path` names, at `revision`.
pub(super) fn of(settings: &HubSettings, path: &HubPath, revision: &str) -> String {
    let kind = match path.kind() {
        RepoKind::Model => "",
        RepoKind::Dataset => "datasets/",
    };
    format!(
        "{}/{kind}{}/resolve/{}/{}",
        settings.endpoint,
        path.repository(),
        escaped(revision, ""),
        escaped(path.file().unwrap_or_default(), "/"),
    )
}

/// The address where the Hub lists the files of a repository.
pub(super) fn of_list(settings: &HubSettings, path: &HubPath) -> String {
    let kind = match path.kind() {
        RepoKind::Model => "models",
        RepoKind::Dataset => "datasets",
    };
    format!(
        "{}/api/{kind}/{}/revision/{}",
        settings.endpoint,
        path.repository(),
        escaped(path.revision(), ""),
    )
}

/// The address where the Hub gives leave to read the files of a commit from Xet.
#[cfg(feature = "hf-hub")]
pub(super) fn of_xet_token(settings: &HubSettings, path: &HubPath, commit: &str) -> String {
    let kind = match path.kind() {
        RepoKind::Model => "models",
        RepoKind::Dataset => "datasets",
    };
    let repository = path.repository();
    let endpoint = &settings.endpoint;
    format!("{endpoint}/api/{kind}/{repository}/xet-read-token/{commit}")
}

/// Escapes `text` for an address: everything except letters, digits, `-_.~` and the bytes in `keep` becomes `%XX`.
fn escaped(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        if is_plain || keep.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// An address without the user name and password that it may contain.
pub(super) fn public(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#', '\\']);
    let end = end.map_or(url.len(), |at| start + at);
    match url[start..end].rfind('@') {
        Some(at) => format!("{}{}", &url[..start], &url[start + at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_not_shown() {
        for (url, shown) in [
            ("http://me:secret@host:1/a@b", "http://host:1/a@b"),
            ("http://host/a", "http://host/a"),
            ("https://a@b@host", "https://host"),
            ("host", "host"),
        ] {
            assert_eq!(public(url), shown);
        }
    }

    #[test]
    fn addresses_are_those_of_the_hub() {
        let settings = HubSettings::new("http://hub/", "/cache");
        let path = HubPath::parse("hf:o/n@refs/pr/1/a b/c.bin", RepoKind::Dataset).unwrap();
        assert_eq!(
            of(&settings, &path, path.revision()),
            "http://hub/datasets/o/n/resolve/refs%2Fpr%2F1/a%20b/c.bin"
        );
        assert_eq!(
            of_list(&settings, &path),
            "http://hub/api/datasets/o/n/revision/refs%2Fpr%2F1"
        );
    }
}
