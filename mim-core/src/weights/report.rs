//! Reports on loading weights.

/// All names in a load: nothing is dropped silently.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters set from the weights.
    pub loaded: Vec<String>,
    /// Parameters that the weights lack.
    pub missing: Vec<String>,
    /// Names in the weights that the model lacks.
    pub unexpected: Vec<String>,
    /// Names with a different shape: (name, the model's shape, the weights' shape).
    pub misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl LoadReport {
    /// Whether every parameter was set and no weight was left over.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshaped.is_empty()
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} loaded", self.loaded.len())?;
        let mut list = |title: &str, lines: Vec<String>| -> std::fmt::Result {
            if !lines.is_empty() {
                write!(f, "\n{} {title}:", lines.len())?;
                for line in lines {
                    write!(f, "\n  {line}")?;
                }
            }
            Ok(())
        };
        list("missing from the weights", self.missing.clone())?;
        list("unexpected in the weights", self.unexpected.clone())?;
        let shapes = |(name, model, file): &(String, Vec<usize>, Vec<usize>)| {
            format!("{name}: the model has {model:?}, the weights {file:?}")
        };
        list(
            "of another shape",
            self.misshaped.iter().map(shapes).collect(),
        )
    }
}
