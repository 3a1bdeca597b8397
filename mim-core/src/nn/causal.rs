//! Causal attention in an individual patch order per image.

use candle_core::{Device, Tensor};

use crate::{Error, Mask, Result, ops};

/// Attention bias that lets each patch see the patches before it in the mask's order, and itself
/// if `itself`; `[mask rows, 1, tokens, tokens]`, 0 or -inf.
///
/// The `prefix` class tokens come first. All tokens see them, and they see only themselves. XLNet's two streams
/// (Yang et al., NeurIPS 2019) for patches: SAIM (Qi et al., AAAI 2023), section 3.2.
///
/// # Errors
///
/// [`Error::Shape`] if the mask does not list every patch; [`Error::Unsupported`] without a class token if the first
/// patch would see nothing.
pub fn causal_bias(mask: &Mask, prefix: usize, itself: bool, device: &Device) -> Result<Tensor> {
    let patches = mask.grid().len();
    if mask.width() != patches {
        return Err(Error::shape(
            "order of the patches",
            format!("a mask over all {patches} patches"),
            mask.width(),
            "use a masker that lists every patch, such as permutation",
        ));
    }
    if prefix == 0 && !itself {
        return Err(Error::unsupported(
            "autoregressive prediction without a class token",
            "the first patch would have nothing to attend to",
            "set encoder.class_token = true",
        ));
    }
    let tokens = prefix + patches;
    let mut bias = vec![f32::NEG_INFINITY; mask.rows() * tokens * tokens];
    for (row, bias) in bias.chunks_mut(tokens * tokens).enumerate() {
        for token in 0..tokens {
            bias[token * tokens..][..prefix].fill(0.);
        }
        let order = mask.visible(row).iter().chain(mask.hidden(row));
        let order: Vec<usize> = order.map(|id| prefix + *id as usize).collect();
        for (place, &token) in order.iter().enumerate() {
            let seen = &order[..place + usize::from(itself)];
            for &other in seen {
                bias[token * tokens + other] = 0.;
            }
        }
    }
    Ok(ops::upload(bias, (mask.rows(), 1, tokens, tokens), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchGrid;

    #[test]
    fn tokens_see_the_class_token_and_earlier_patches() {
        let mask = Mask::new(PatchGrid::new(1, 3), vec![2, 0, 1], vec![0]).unwrap();
        let seen = |itself: bool| -> Vec<Vec<u8>> {
            let bias = causal_bias(&mask, 1, itself, &Device::Cpu).unwrap();
            let rows: Vec<Vec<f32>> = bias
                .squeeze(0)
                .unwrap()
                .squeeze(0)
                .unwrap()
                .to_vec2()
                .unwrap();
            let seen = |row: &Vec<f32>| row.iter().map(|value| u8::from(*value == 0.)).collect();
            rows.iter().map(seen).collect()
        };
        assert_eq!(
            seen(true),
            [[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [1, 0, 0, 1]]
        );
        assert_eq!(
            seen(false),
            [[1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0]]
        );
        assert!(causal_bias(&mask, 0, false, &Device::Cpu).is_err());
        let part = Mask::new(PatchGrid::new(1, 3), vec![2, 0], vec![0]).unwrap();
        assert!(causal_bias(&part, 1, true, &Device::Cpu).is_err());
    }
}
