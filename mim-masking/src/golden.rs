//! Reading of reference values in tests.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

/// A case: its JSON and its tensors.
pub(crate) struct Case {
    pub(crate) json: serde_json::Value,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    /// The case `<folder>/<stem>`: committed in this crate, or among the shared reference values.
    pub(crate) fn load(folder: &str, stem: &str) -> Option<Self> {
        let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens"));
        let shared = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/goldens"));
        let Some(base) = [own, shared.join(folder)]
            .into_iter()
            .find(|base| base.join(format!("{stem}.json")).is_file())
        else {
            eprintln!("SKIPPED: no reference values {folder}/{stem}");
            return None;
        };
        let text = std::fs::read_to_string(base.join(format!("{stem}.json"))).unwrap();
        let tensors = base.join(format!("{stem}.safetensors"));
        Some(Self {
            json: serde_json::from_str(&text).unwrap(),
            tensors: if tensors.is_file() {
                candle_core::safetensors::load(tensors, &Device::Cpu).unwrap()
            } else {
                HashMap::new()
            },
        })
    }

    pub(crate) fn dims(&self, name: &str) -> &[usize] {
        self.tensors[name].dims()
    }

    /// All values of a tensor, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        let xs = self.tensors[name].to_dtype(DType::F64).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let xs = self.tensors[name].to_dtype(DType::F32).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        let xs = self.tensors[name].to_dtype(DType::U32).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn bits(&self, name: &str) -> Vec<u8> {
        let xs = self.tensors[name].to_dtype(DType::U8).unwrap();
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// Statistics of many sampled masks, for comparison with recorded ones.
pub(crate) struct Statistics {
    pub(crate) counts: Vec<f64>,
    /// How often each patch is hidden.
    pub(crate) rate: Vec<f64>,
    /// Share of horizontally adjacent pairs with equal bits, and of vertically adjacent ones.
    pub(crate) adjacent_equal: f64,
}

impl Statistics {
    pub(crate) fn of(mask: &mim_core::Mask) -> Self {
        let (grid, rows) = (mask.grid(), mask.rows());
        let bits = mask.to_bits();
        let mut rate = vec![0.; grid.len()];
        let (mut equal, mut pairs) = (0., 0.);
        for row in bits.chunks(grid.len()) {
            for (id, &bit) in row.iter().enumerate() {
                rate[id] += f64::from(bit) / rows as f64;
                let right = (id % grid.cols + 1 < grid.cols).then_some(id + 1);
                let below = (id + grid.cols < row.len()).then_some(id + grid.cols);
                for other in [right, below].into_iter().flatten() {
                    equal += f64::from(u8::from(row[other] == bit));
                    pairs += 1.;
                }
            }
        }
        Self {
            counts: (0..rows).map(|row| mask.hidden(row).len() as f64).collect(),
            rate,
            adjacent_equal: equal / pairs,
        }
    }

    pub(crate) fn mean(&self) -> f64 {
        self.counts.iter().sum::<f64>() / self.counts.len() as f64
    }

    pub(crate) fn std(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.counts.iter().map(|c| (c - mean).powi(2)).sum();
        (squares / self.counts.len() as f64).sqrt()
    }

    pub(crate) fn share(&self, count: f64) -> f64 {
        self.counts.iter().filter(|c| **c == count).count() as f64 / self.counts.len() as f64
    }
}

/// Asserts that two sampled means agree within 5 standard errors (5e-7 of false alarm).
#[track_caller]
pub(crate) fn assert_mean(got: f64, want: f64, std: f64, draws: f64) {
    let error = 5. * std * (2. / draws).sqrt() + 1e-4;
    assert!(
        (got - want).abs() < error,
        "{got} against {want} +- {error}"
    );
}

pub(crate) fn request(
    step: &mim_core::StepContext,
    images: usize,
    grid: mim_core::PatchGrid,
) -> crate::MaskRequest<'_> {
    crate::MaskRequest {
        images,
        grid,
        guide: crate::Guide::None,
        step,
    }
}
