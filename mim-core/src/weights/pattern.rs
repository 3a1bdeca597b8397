//! Wildcard patterns of parameter names.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

/// A name in which `*` matches any characters, including dots: `decoder*`, `*.bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether the pattern matches all of `name`.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
            return false;
        };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            // The first match leaves most room for the rest.
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.is_empty() {
            true => Err(
                "a pattern must be a name, with * for any characters, such as decoder*".to_owned(),
            ),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_anything() {
        let fits = |pattern: &str, name: &str| Pattern::from_str(pattern).unwrap().matches(name);
        for (pattern, name) in [
            ("decoder*", "decoder_blocks.0.norm1.weight"),
            ("*.bias", "norm.bias"),
            ("*", ""),
            ("a*b*c", "a1b2b3c"),
            ("norm.bias", "norm.bias"),
            ("a*a", "aa"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("decoder*", "encoder.decoder"),
            ("*.bias", "norm.bias2"),
            ("a*a", "a"),
            ("norm", "norm.bias"),
            ("a*b*c", "ac"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        assert!(Pattern::from_str("").is_err());
    }
}
