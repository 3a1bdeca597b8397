//! The trained mask token.

use candle_core::Tensor;

use crate::params::Params;
use crate::{Error, Mask, Result};

/// Replaces every hidden patch (BEiT, SimMIM).
#[derive(Debug, Clone)]
pub struct MaskToken(Tensor);

impl MaskToken {
    /// Parameter `mask_token` `[1, 1, dim]`.
    ///
    /// # Errors
    ///
    /// If a parameter with this name has another shape.
    pub fn new(params: &Params, dim: usize) -> Result<Self> {
        Ok(Self(params.weight(&[1, 1, dim], "mask_token")?))
    }

    /// The mask token of an encoder where it is optional.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there is none.
    pub fn required(token: Option<&Self>) -> Result<&Self> {
        token.ok_or_else(|| {
            Error::unsupported(
                "replacing hidden patches",
                "this encoder was built without a mask token",
                "set encoder.mask_token = true",
            )
        })
    }

    /// `x * (1 - w) + mask_token * w`, `w` = 1 for hidden patches: `[batch, tokens, dim]` to
    /// `[mask rows, tokens, dim]`, copy-major.
    ///
    /// # Errors
    ///
    /// If the mask belongs to another grid or batch.
    pub fn replace(&self, tokens: &Tensor, mask: &Mask) -> Result<Tensor> {
        let copies = mask.copies(tokens.dim(0)?)?;
        let tokens = if copies == 1 {
            tokens.clone()
        } else {
            Tensor::cat(&vec![tokens; copies], 0)?
        };
        let hidden = mask.bits(tokens.device())?.unsqueeze(2)?;
        let visible = tokens.broadcast_mul(&(1. - &hidden)?)?;
        Ok((visible + self.0.broadcast_mul(&hidden)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParamStore, PatchGrid};
    use candle_core::Device;

    #[test]
    fn replaces_hidden_tokens_of_every_copy() {
        let store = ParamStore::cpu(0);
        let token = MaskToken::new(&store.root(), 1).unwrap();
        let var = store.var("mask_token").unwrap();
        var.set(&Tensor::new(&[[[9f32]]], &Device::Cpu).unwrap())
            .unwrap();
        let tokens = Tensor::new(&[[[1f32], [2.]]], &Device::Cpu).unwrap();
        let mask = Mask::from_bits(PatchGrid::new(1, 2), &[0, 1, 1, 0]).unwrap();
        let ys = token.replace(&tokens, &mask).unwrap();
        assert_eq!(ys.to_vec3::<f32>().unwrap(), [[[1.], [9.]], [[9.], [2.]]]);
    }
}
