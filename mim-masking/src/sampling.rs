//! Statistics of sampled masks, for tests.

/// Statistics of many sampled masks, to compare with recorded ones.
pub(crate) struct Statistics {
    pub(crate) counts: Vec<f64>,
    /// How often each patch is hidden.
    pub(crate) rate: Vec<f64>,
    /// Share of adjacent pairs with equal bits, horizontal and vertical.
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
