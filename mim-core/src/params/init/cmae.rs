//! CMAE's initialisation.

use super::{Draw, InitScheme, MaeInit};

/// CMAE's scheme: MAE's, but the linear layers of `projector` and `predictor` have PyTorch's default, uniform within
/// `1 / sqrt(inputs)`, also for biases.
///
/// ZhichengHuang/CMAE @ e786a52, `necks/nonlinear_neck.py`.
#[derive(Debug, Clone, Copy)]
pub struct CmaeInit {
    /// Pixel values per patch: `patch_size^2 * in_channels`.
    pub patch_values: usize,
    /// Input width of the projector.
    pub projector_inputs: usize,
    /// Input width of the predictor.
    pub predictor_inputs: usize,
}

impl InitScheme for CmaeInit {
    fn draw(&self, name: &str, shape: &[usize]) -> Draw {
        let head = name.starts_with("projector.") || name.starts_with("predictor.");
        let inputs = match (name, shape) {
            ("projector.fc0.bias", _) => self.projector_inputs,
            ("predictor.fc0.bias", _) => self.predictor_inputs,
            (_, &[_, inputs]) if head => inputs,
            _ => {
                let patch_values = self.patch_values;
                return MaeInit { patch_values }.draw(name, shape);
            }
        };
        Draw::Uniform {
            bound: 1. / (inputs as f32).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_pytorchs_default() {
        let init = CmaeInit {
            patch_values: 48,
            projector_inputs: 16,
            predictor_inputs: 8,
        };
        let bound = |inputs: f32| Draw::Uniform {
            bound: 1. / inputs.sqrt(),
        };
        assert_eq!(init.draw("projector.fc0.weight", &[12, 16]), bound(16.));
        assert_eq!(init.draw("projector.fc0.bias", &[12]), bound(16.));
        assert_eq!(init.draw("predictor.fc0.bias", &[6]), bound(8.));
        assert_eq!(init.draw("predictor.fc1.weight", &[8, 6]), bound(6.));
        assert_eq!(init.draw("projector.bn0.weight", &[12]), Draw::Const(1.));
        assert_eq!(
            init.draw("feature.decoder_embed.weight", &[8, 16]),
            Draw::xavier(8, 16)
        );
    }
}
