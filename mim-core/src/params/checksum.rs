//! Whether a store holds the values that another one held.

use candle_core::Device;
use safetensors::View;

use super::ParamStore;
use crate::Result;

impl ParamStore {
    /// A CRC-32 of the names, shapes and values of all entries, in order.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn checksum(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        for (name, var) in self.vars() {
            let values = var.as_detached_tensor().to_device(&Device::Cpu)?;
            hasher.update(format!("{name} {:?} ", values.dims()).as_bytes());
            hasher.update(&View::data(&values));
        }
        Ok(hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor};

    use super::super::MaeInit;
    use super::*;

    #[test]
    fn names_shapes_and_values_count() {
        let sum = |name: &str, shape: &[usize], seed| {
            let store = ParamStore::new(&Device::Cpu, seed, MaeInit { patch_values: 8 });
            store.root().weight(shape, name).unwrap();
            store.checksum().unwrap()
        };
        let first = sum("a.weight", &[2, 3], 0);
        assert_eq!(sum("a.weight", &[2, 3], 0), first);
        assert_ne!(sum("b.weight", &[2, 3], 0), first);
        assert_ne!(sum("a.weight", &[3, 2], 0), first);
        assert_ne!(sum("a.weight", &[2, 3], 1), first);
        let store = ParamStore::teacher(&Device::Cpu);
        let counts = Tensor::zeros(3, DType::U32, &Device::Cpu).unwrap();
        let counts = store.root().buffer("counts", counts).unwrap();
        let zero = store.checksum().unwrap();
        counts.set(&counts.ones_like().unwrap()).unwrap();
        assert_ne!(store.checksum().unwrap(), zero);
    }
}
