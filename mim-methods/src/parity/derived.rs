//! Cases derived from others: a step of a trajectory, other names of settings.

use candle_core::Tensor;
use mim_core::Result;
use mim_core::weights::WeightMap;

use super::{Case, Problem};

impl Case {
    /// The inputs of one step of a trajectory, counted from 0: the draws of that step, and of values recorded per image
    /// the rows of its batch.
    pub(super) fn at_step(&self, index: usize) -> Result<Self> {
        let steps = self.required("expect.loss")?.elem_count();
        let rows: usize = self.setting_or("batch_size", 4)?;
        let mut tensors = WeightMap::default();
        for (name, all) in self.group("input.").iter() {
            let first = all.dim(0)?;
            let own = if first == steps {
                all.get(index)?
            } else {
                let ids = (0..rows).map(|row| ((rows * index + row) % first) as i64);
                let ids = Tensor::from_iter(ids, all.device())?;
                all.index_select(&ids, 0)?
            };
            tensors.insert(format!("input.{name}"), own);
        }
        let mut own = self.clone();
        own.tensors = tensors;
        Ok(own)
    }

    /// The same case whose settings are those of one of its tables.
    ///
    /// # Errors
    ///
    /// If there is no such table.
    pub(crate) fn table(&self, key: &str) -> super::Result<Self> {
        let unknown = || Problem::unknown(format!("a case without the setting `{key}`"));
        let mut own = self.clone();
        own.header.config = self.setting(key)?.ok_or_else(unknown)?;
        own.read = Default::default();
        Ok(own)
    }

    /// The same case with some settings under other names, which count as read.
    pub(super) fn renamed(&self, names: &[(&str, &str)]) -> Self {
        let mut renamed = self.clone();
        for (theirs, ours) in names {
            self.informs(&[theirs]);
            if let Some(value) = renamed.header.config.remove(*theirs) {
                renamed.header.config.insert((*ours).to_owned(), value);
            }
        }
        renamed
    }
}
