//! Settings of the Hub from the environment, by the rules of Python's `huggingface_hub`.

use std::path::{Path, PathBuf};
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";

/// Address, cache and token of the Hub.
#[derive(Clone)]
#[non_exhaustive]
pub struct HubSettings {
    /// Address of the Hub or of a mirror. `HF_ENDPOINT`, or `https://huggingface.co`.
    pub endpoint: String,
    /// The cache. `HF_HUB_CACHE` or `HUGGINGFACE_HUB_CACHE`, or `hub` in `HF_HOME`, or `huggingface/hub` in
    /// `XDG_CACHE_HOME` or `~/.cache`.
    pub cache: PathBuf,
    /// The token for private and gated repositories. `HF_TOKEN`, or the content of the file `HF_TOKEN_PATH`, or of `token` in
    /// `HF_HOME`; `None` if `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set.
    pub token: Option<String>,
    /// Whether files come only from the cache, without any request. `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// A PEM file of certificates to trust instead of the usual authorities. `SSL_CERT_FILE`.
    pub certificates: Option<PathBuf>,
    /// What brings the bytes of files: `own`, or `hf-hub` in a build with that feature, which is then the default.
    /// `MIM_HUB_TRANSPORT`.
    pub transport: Option<String>,
    /// The wait before the first repeated attempt; it doubles each time. 1 s.
    pub first_wait: Duration,
    /// The longest time without progress, which is an answer or 1 MiB of a file: all attempts and waits together. A single
    /// connection gets half of it. 600 s.
    pub longest_stall: Duration,
}

impl HubSettings {
    /// Defaults for a Hub at `endpoint` and a cache.
    pub fn new(endpoint: impl Into<String>, cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.into().trim_end_matches('/').to_owned(),
            cache: cache.into(),
            token: None,
            offline: false,
            certificates: None,
            transport: None,
            first_wait: Duration::from_secs(1),
            longest_stall: Duration::from_secs(600),
        }
    }

    /// The settings of the environment.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        Self::resolve(&variable, std::env::home_dir(), &read)
    }

    /// The settings for these variables, home folder and files.
    fn resolve(
        variable: &dyn Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Self {
        // Without a home folder, the cache goes to the current folder.
        let home = home.unwrap_or_default();
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let folder = |name: &str| set(name).map(|value| at_home(&value, &home));
        let is_true = |name: &str| {
            let value = set(name).unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let hf_home = folder("HF_HOME").unwrap_or_else(|| {
            folder("XDG_CACHE_HOME")
                .unwrap_or_else(|| home.join(".cache"))
                .join("huggingface")
        });
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| hf_home.join("hub"));
        let token = || {
            let file = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
            set("HF_TOKEN")
                .or_else(|| set("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| read(&file))
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty())
        };
        let mut settings = Self::new(
            set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()),
            cache,
        );
        if !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            settings.token = token();
        }
        settings.offline = is_true("HF_HUB_OFFLINE");
        settings.certificates = folder("SSL_CERT_FILE");
        settings.transport = set("MIM_HUB_TRANSPORT").map(|name| name.trim().to_owned());
        settings
    }
}

/// `path` with a leading `~` replaced by the home folder.
fn at_home(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with(['/', '\\']) => home.join(&rest[1..]),
        _ => path.into(),
    }
}

impl std::fmt::Debug for HubSettings {
    /// Hides the token, and a password in the address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &super::address::public(&self.endpoint))
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("offline", &self.offline)
            .field("certificates", &self.certificates)
            .field("transport", &self.transport)
            .field("first_wait", &self.first_wait)
            .field("longest_stall", &self.longest_stall)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(variables: &[(&str, &str)], files: &[(&str, &str)]) -> HubSettings {
        let find = |pairs: &[(&str, &str)], name: &str| {
            let pair = pairs.iter().find(|pair| pair.0 == name);
            pair.map(|pair| pair.1.to_owned())
        };
        HubSettings::resolve(
            &|name| find(variables, name),
            Some("/home/me".into()),
            &|path| find(files, path.to_str().unwrap()),
        )
    }

    #[test]
    fn the_cache_is_where_python_looks_for_it() {
        for (variables, cache) in [
            (vec![], "/home/me/.cache/huggingface/hub"),
            (vec![("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (
                vec![("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")],
                "/home/me/hf/hub",
            ),
            (
                vec![("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/hf")],
                "/old",
            ),
            (
                vec![("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/new",
            ),
            (
                vec![("HF_HUB_CACHE", " ")],
                "/home/me/.cache/huggingface/hub",
            ),
        ] {
            assert_eq!(
                resolved(&variables, &[]).cache,
                Path::new(cache),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn the_token_is_the_one_python_would_send() {
        let files = [
            ("/home/me/.cache/huggingface/token", "stored\n"),
            ("/t", "other"),
        ];
        for (variables, token) in [
            (vec![], Some("stored")),
            (vec![("HF_TOKEN", " given\n")], Some("given")),
            (vec![("HF_TOKEN_PATH", "/t")], Some("other")),
            (vec![("HF_HOME", "/hf")], None),
            (
                vec![
                    ("HF_TOKEN", "given"),
                    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes"),
                ],
                None,
            ),
        ] {
            let settings = resolved(&variables, &files);
            assert_eq!(settings.token.as_deref(), token, "{variables:?}");
            assert!(!format!("{settings:?}").contains("given"));
        }
    }

    #[test]
    fn address_and_offline_are_taken_over() {
        let settings = resolved(
            &[("HF_ENDPOINT", "http://hub/"), ("HF_HUB_OFFLINE", "on")],
            &[],
        );
        assert_eq!(settings.endpoint, "http://hub");
        assert!(settings.offline);
        let settings = resolved(&[("HF_HUB_OFFLINE", "0")], &[]);
        assert_eq!(settings.endpoint, ENDPOINT);
        assert!(!settings.offline);
    }
}
