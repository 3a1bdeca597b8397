//! Values of a store from weights, or from another store.

use std::collections::HashMap;

use super::ParamStore;
use crate::weights::{LoadReport, WeightMap};
use crate::{Error, Result};

impl ParamStore {
    /// Sets every entry from `weights`, or changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] that lists all missing, unexpected and mis-shaped entries.
    pub fn load(&self, weights: &WeightMap) -> Result<LoadReport> {
        self.load_allowing(weights, |_| false)
    }

    /// As [`ParamStore::load`]; names that satisfy `optional` may be missing or unexpected.
    ///
    /// # Errors
    ///
    /// [`Error::Weights`] that lists all missing, unexpected and mis-shaped entries.
    pub fn load_allowing(
        &self,
        weights: &WeightMap,
        optional: impl Fn(&str) -> bool,
    ) -> Result<LoadReport> {
        let mut report = LoadReport::default();
        let vars = self.vars();
        for (name, var) in &vars {
            match weights.get(name) {
                None => report.missing.push(name.clone()),
                Some(value) if value.dims() != var.dims() => {
                    report.misshaped.push((
                        name.clone(),
                        var.dims().to_vec(),
                        value.dims().to_vec(),
                    ));
                }
                Some(_) => report.loaded.push(name.clone()),
            }
        }
        let known: HashMap<_, _> = vars
            .iter()
            .map(|(name, var)| (name.as_str(), var))
            .collect();
        report.unexpected.extend(
            weights
                .names()
                .filter(|name| !known.contains_key(name))
                .map(str::to_owned),
        );
        let strict = |names: &[String]| names.iter().any(|name| !optional(name));
        if !report.misshaped.is_empty() || strict(&report.missing) || strict(&report.unexpected) {
            let fix = "use weights of this method and size, or name their source so that they are renamed";
            return Err(Error::Weights(Box::new(report), fix.into()));
        }
        for name in &report.loaded {
            if let (Some(var), Some(value)) = (known.get(name.as_str()), weights.get(name)) {
                var.set(&value.to_device(self.device())?.to_dtype(var.dtype())?)?;
            }
        }
        Ok(report)
    }

    /// Copies the values of all entries of `other` that this store has, too; returns their number.
    ///
    /// # Errors
    ///
    /// If a shape differs.
    pub fn copy_from(&self, other: &ParamStore) -> Result<usize> {
        let mut copied = 0;
        for (name, var) in other.vars() {
            if let Some(own) = self.var(&name) {
                own.set(&var.as_detached_tensor())?;
                copied += 1;
            }
        }
        Ok(copied)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn a_failed_load_lists_all_mismatches_and_changes_nothing() {
        let store = ParamStore::cpu(0);
        let kept = store.root().weight(&[2], "norm.bias").unwrap();
        store.root().weight(&[2], "cls_token").unwrap();
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let pairs = [
            ("norm.bias", tensor(&[1., 2.])),
            ("cls_token", tensor(&[1.])),
            ("head", tensor(&[1.])),
        ];
        let weights: WeightMap = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let error = store.load(&weights).unwrap_err().to_string();
        assert!(
            error.contains("head") && error.contains("[2], the weights [1]"),
            "{error}"
        );
        assert_eq!(kept.to_vec1::<f32>().unwrap(), [0., 0.]);
    }
}
