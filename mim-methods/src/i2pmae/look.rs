//! Features of a frozen 2D network for point clouds.

use candle_core::Tensor;
use mim_core::points::{DepthMaps, DepthMapsConfig};
use mim_core::{EncodeOptions, Encoder, Error, Masking, PatchGrid, Result, StepContext, ops};

/// A frozen 2D network that sees depth maps of clouds.
pub(super) struct Teacher {
    network: Box<dyn Encoder>,
    maps: DepthMapsConfig,
}

/// Its output for a batch of clouds.
pub(super) struct Look {
    maps: DepthMaps,
    grid: PatchGrid,
    /// `[views * batch, tokens, dim]`.
    features: Tensor,
    /// `[views * batch, tokens, 1]`, if requested.
    attention: Option<Tensor>,
}

impl Teacher {
    pub(super) fn new(network: Box<dyn Encoder>, maps: DepthMapsConfig) -> Self {
        Self { network, maps }
    }

    /// Runs the network on clouds `[batch, points, 3]`. Traces `images`, and with the teacher's names `features` and
    /// `attention`.
    pub(super) fn look(
        &self,
        points: &Tensor,
        attention: bool,
        step: &StepContext,
    ) -> Result<Look> {
        let maps = DepthMaps::new(points, &self.maps)?;
        step.trace("images", || Ok(maps.images().clone()))?;
        for (name, frame) in ["least", "grid_size", "offsets"].iter().zip(maps.frames()?) {
            step.trace(name, || Ok(frame))?;
        }
        // The network is never trained: its batch norms keep their statistics.
        let inference = StepContext {
            training: false,
            ..step.teacher()
        };
        let want = EncodeOptions {
            cls_attention: attention,
            ..EncodeOptions::default()
        };
        let network = &self.network;
        let encoded = network.encode(maps.images(), Masking::None, &want, &inference)?;
        let features = encoded.patches()?.detach().contiguous()?;
        step.teacher().trace("features", || Ok(features.clone()))?;
        let attention = match encoded.cls_attention {
            Some(heads) => Some(heads.detach().mean(1)?.unsqueeze(2)?),
            None if attention => {
                return Err(Error::unsupported(
                    "masks guided by attention",
                    "the 2D network has no attention",
                    "use a network with a class token, or set guided = false",
                ));
            }
            None => None,
        };
        if let Some(attention) = &attention {
            step.teacher()
                .trace("attention", || Ok(attention.squeeze(2)?))?;
        }
        Ok(Look {
            maps,
            grid: encoded.grid,
            features,
            attention,
        })
    }
}

impl Look {
    /// The features at points `[total, 3]` of the clouds `cloud_of`, view by view, `[total, views * dim]`.
    pub(super) fn features(&self, points: &Tensor, cloud_of: &[u32]) -> Result<Tensor> {
        let seen = self
            .maps
            .read(&self.features, self.grid, points, cloud_of)?;
        Ok(seen.flatten_from(1)?)
    }

    /// Attention to the points `[batch, count, 3]`, averaged over views, `[batch, count]`; `None` if it was not
    /// requested.
    pub(super) fn saliency(&self, points: &Tensor) -> Result<Option<Tensor>> {
        let Some(attention) = &self.attention else {
            return Ok(None);
        };
        let (batch, count, _) = points.dims3()?;
        let clouds = (0u32..).take(batch);
        let cloud_of: Vec<u32> = clouds.flat_map(|cloud| vec![cloud; count]).collect();
        let seen = self
            .maps
            .read(attention, self.grid, &points.flatten_to(1)?, &cloud_of)?;
        Ok(Some(seen.squeeze(2)?.mean(1)?.reshape((batch, count))?))
    }
}

/// Sampling weights of `[batch, count]` from their saliency, or uniform ones without it; on the host.
pub(super) fn chances(saliency: Option<Tensor>, count: usize) -> Result<Vec<f32>> {
    match saliency {
        // Parity: attention is used without scaling; its values are small, so the weights are nearly uniform.
        Some(saliency) => Ok(ops::softmax(&saliency)?.flatten_all()?.to_vec1()?),
        None => Ok(vec![1.; count]),
    }
}
