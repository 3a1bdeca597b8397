//! Learned parts.

use candle_core::{D, DType, Tensor};
use mim_core::nn::Linear;
use mim_core::ops::softmax;
use mim_core::params::Params;
use mim_core::{Error, Result};

/// Part tokens, computed from an image's class token; each attends to the patches of its part.
///
/// The learned stage of SemMAE, by the paper's text (Li et al., NeurIPS 2022, figure 2: class token, part tokens,
/// correlation with patch tokens, argmax). The paper does not say how the maps are normalised: here the maps of each
/// patch sum to one over the parts.
#[derive(Debug, Clone)]
pub struct PartTokens {
    embed: Linear,
    parts: usize,
}

impl PartTokens {
    /// Parameters `part_tokens.weight` `[parts * dim, dim]`, `part_tokens.bias`, for tokens of width `dim`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if there are fewer than two parts.
    pub fn new(params: &Params, dim: usize, parts: usize) -> Result<Self> {
        if parts < 2 {
            let why = "parts must distinguish patches";
            return Err(Error::config(
                "part tokens",
                "num_parts",
                parts,
                why,
                "use 6",
            ));
        }
        Ok(Self {
            embed: Linear::new(&params.pp("part_tokens"), dim, parts * dim)?,
            parts,
        })
    }

    /// The maps `[batch, tokens, parts]` for class tokens `[batch, dim]` and patches `[batch, tokens, dim]`: the softmax
    /// over parts of their dot products, divided by `sqrt(dim)`.
    ///
    /// # Errors
    ///
    /// If tokens have another width.
    pub fn maps(&self, cls: &Tensor, patches: &Tensor) -> Result<Tensor> {
        let (batch, _, dim) = patches.dims3()?;
        let parts = self.embed.forward(cls)?.reshape((batch, self.parts, dim))?;
        let parts = parts.transpose(1, 2)?.contiguous()?;
        let products = patches.contiguous()?.matmul(&parts)?;
        Ok(softmax(&(products / (dim as f64).sqrt())?)?)
    }

    /// The part of each patch, `[batch, tokens]` u32.
    ///
    /// # Errors
    ///
    /// As [`PartTokens::maps`].
    pub fn parts(&self, cls: &Tensor, patches: &Tensor) -> Result<Tensor> {
        let maps = self.maps(cls, patches)?;
        Ok(maps.argmax(D::Minus1)?.to_dtype(DType::U32)?)
    }
}

/// The overlap of the maps of parts: the mean cosine between two parts of an image, over all pairs.
///
/// For maps `[batch, tokens, parts]`. It is 0 if no two parts share a patch. A scalar with gradient.
///
/// # Errors
///
/// Fails only if the device does.
pub fn overlap(maps: &Tensor) -> Result<Tensor> {
    let (batch, _, parts) = maps.dims3()?;
    let lengths = maps.sqr()?.sum_keepdim(1)?.sqrt()?;
    let unit = maps.broadcast_div(&lengths.maximum(1e-12)?)?;
    let cosines = unit.transpose(1, 2)?.contiguous()?.matmul(&unit)?;
    // The cosine of a part with itself is 1.
    let others = (cosines.sum_all()? - (batch * parts) as f64)?;
    Ok((others / (batch * parts * (parts - 1)) as f64)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::ParamStore;

    #[test]
    fn a_patch_belongs_to_the_part_with_the_most_similar_token() {
        let store = ParamStore::cpu(0);
        let tokens = PartTokens::new(&store.root(), 2, 2).unwrap();
        // Part tokens (1, 0) and (0, 1) for any image.
        for (name, values) in [
            ("part_tokens.weight", vec![0f32; 8]),
            ("part_tokens.bias", vec![1., 0., 0., 1.]),
        ] {
            let var = store.var(name).unwrap();
            let value = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
            var.set(&value).unwrap();
        }
        let patches = Tensor::new(&[[[3f32, 1.], [-2., 0.], [0., 5.]]], &Device::Cpu).unwrap();
        let cls = Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap();
        let parts = tokens.parts(&cls, &patches).unwrap();
        assert_eq!(parts.to_vec2::<u32>().unwrap(), [[0, 1, 1]]);
        assert!(PartTokens::new(&ParamStore::cpu(0).root(), 2, 1).is_err());
    }

    #[test]
    fn overlap_is_the_cosine_of_the_maps() {
        let value = |maps: [[f32; 2]; 2]| {
            let maps = Tensor::new(&[maps], &Device::Cpu).unwrap();
            overlap(&maps).unwrap().to_scalar::<f32>().unwrap()
        };
        assert!(value([[1., 0.], [0., 1.]]).abs() < 1e-6);
        assert!((value([[0.5, 0.5], [0.5, 0.5]]) - 1.).abs() < 1e-6);
        assert!((value([[1., 0.6], [0., 0.8]]) - 0.6).abs() < 1e-6);
    }
}
