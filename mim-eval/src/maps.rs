//! Views of an encoder as images: attention maps by head, and principal components of patch features as colours.

use candle_core::{DType, Device, Tensor};
use mim_core::{EncodeOptions, Encoder, Error, Masking, PatchGrid, Result, StepContext};
use nalgebra::{DMatrix, SymmetricEigen};

/// Attention of the class token in the last block, one map per head.
///
/// The images are `[batch, channels, height, width]`, normalised. A map is `[batch, 1, height, width]` in `[0, 1]`, in
/// the size of the images.
///
/// # Errors
///
/// [`Error::Unsupported`] if the encoder has no class token.
pub fn attention_maps(encoder: &dyn Encoder, images: &Tensor) -> Result<Vec<Tensor>> {
    let want = EncodeOptions {
        cls_attention: true,
        ..EncodeOptions::default()
    };
    let encoder = encoder.trunk();
    let encoded = encoder.encode(images, Masking::None, &want, &StepContext::inference())?;
    let attention = encoded.cls_attention.as_ref().ok_or_else(|| {
        Error::unsupported(
            "attention maps",
            "they show class-token attention, but the encoder has no class token",
            "use --what pca",
        )
    })?;
    let (batch, heads, _) = attention.dims3()?;
    let map = |head: usize| {
        let own = attention.narrow(1, head, 1)?.contiguous()?;
        // The most attended patch of an image is white.
        let own = own.broadcast_div(&own.max_keepdim(2)?.affine(1., 1e-12)?)?;
        enlarged(&own.reshape((batch, 1, ()))?, encoded.grid, images)
    };
    (0..heads).map(map).collect()
}

/// The first three principal components of the patch features of all images as red, green and blue:
/// `[batch, 3, height, width]`, in the size of the images.
///
/// Oquab et al., "DINOv2", 2023, figure 1, without its separation of foreground and background.
///
/// # Errors
///
/// If the images do not match the encoder.
pub fn pca_maps(encoder: &dyn Encoder, images: &Tensor) -> Result<Tensor> {
    let (encoder, want) = (encoder.trunk(), EncodeOptions::default());
    let encoded = encoder.encode(images, Masking::None, &want, &StepContext::inference())?;
    let patches = encoded.patches()?.to_device(&Device::Cpu)?;
    let (batch, tokens, dim) = patches.dims3()?;
    let values: Vec<f64> = patches.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let mut rows = DMatrix::from_row_slice(batch * tokens, dim, &values);
    for mut column in rows.column_iter_mut() {
        let mean = column.mean();
        column.add_scalar_mut(-mean);
    }
    let eigen = SymmetricEigen::new(rows.transpose() * &rows);
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let mut colours = vec![0f32; batch * 3 * tokens];
    for (channel, at) in order.into_iter().take(3).enumerate() {
        let scores = &rows * eigen.eigenvectors.column(at);
        let (low, high) = (scores.min(), scores.max());
        for (row, score) in scores.iter().enumerate() {
            let (image, token) = (row / tokens, row % tokens);
            let place = (image * 3 + channel) * tokens + token;
            #[expect(clippy::cast_possible_truncation, reason = "a share of the range")]
            let share = ((score - low) / (high - low).max(1e-12)) as f32;
            colours[place] = share;
        }
    }
    let colours = Tensor::from_vec(colours, (batch, 3, tokens), &Device::Cpu)?;
    enlarged(&colours, encoded.grid, images)
}

/// Token values `[batch, channels, tokens]` as images in the size of `images`.
fn enlarged(values: &Tensor, grid: PatchGrid, images: &Tensor) -> Result<Tensor> {
    let (batch, channels, _) = values.dims3()?;
    let (_, _, height, width) = images.dims4()?;
    let map = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let map = map.reshape((batch, channels, grid.rows, grid.cols))?;
    Ok(map.upsample_nearest2d(height, width)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::ParamStore;
    use mim_core::encoders::{Vit, VitConfig};

    fn vit(class_token: bool) -> Vit {
        let config = VitConfig {
            image_size: 16.into(),
            patch_size: 4,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            class_token,
            ..VitConfig::default()
        };
        Vit::new(&ParamStore::cpu(1).root(), &config).unwrap()
    }

    #[test]
    fn maps_have_the_image_size_and_fill_their_range() {
        let images = Tensor::rand(0f32, 1., (2, 3, 16, 16), &Device::Cpu).unwrap();
        let maps = attention_maps(&vit(true), &images).unwrap();
        assert_eq!(maps.len(), 2);
        for map in &maps {
            assert_eq!(map.dims(), [2, 1, 16, 16]);
            let most: f32 = map.max_all().unwrap().to_scalar().unwrap();
            assert!((most - 1.).abs() < 1e-6);
        }
        let colours = pca_maps(&vit(false), &images).unwrap();
        assert_eq!(colours.dims(), [2, 3, 16, 16]);
        for channel in 0..3 {
            let own = colours.narrow(1, channel, 1).unwrap();
            let range = [own.min_all().unwrap(), own.max_all().unwrap()];
            assert_eq!(
                range.map(|value| value.to_scalar::<f32>().unwrap()),
                [0., 1.]
            );
        }
        // A patch has one colour.
        let corner = colours.narrow(2, 0, 4).unwrap().narrow(3, 0, 4).unwrap();
        let spread = (corner.max_keepdim(3).unwrap() - corner.min_keepdim(3).unwrap()).unwrap();
        assert_eq!(spread.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.);
    }

    #[test]
    fn attention_maps_need_a_class_token() {
        let images = Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
        let error = attention_maps(&vit(false), &images)
            .unwrap_err()
            .to_string();
        assert!(error.contains("class token"), "{error}");
    }
}
