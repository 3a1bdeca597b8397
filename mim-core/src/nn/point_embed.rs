//! Embeds groups of points as tokens.

use candle_core::Tensor;

use super::{BatchNorm, Linear};
use crate::params::Params;
use crate::{Result, StepContext, ops};

/// Epsilon of the batch norms: PyTorch's default.
const EPS: f64 = 1e-5;

/// A small PointNet over the members of a group (Qi et al., CVPR 2017): map each member, append the group's maximum to
/// each of them, map again, and take the maximum.
///
/// `conv, batch norm, ReLU, conv; max; [max, member]; conv, batch norm, ReLU, conv; max`, as in Point-BERT.
#[derive(Debug, Clone)]
pub struct PointEmbed {
    first: Maps,
    second: Maps,
}

/// A linear layer, a batch norm, and, after ReLU, another linear layer.
type Maps = (Linear, BatchNorm, Linear);

impl PointEmbed {
    /// Parameters `first_conv.{0,1,3}`, `second_conv.{0,1,3}`; `hidden` holds the widths of all layers but the last.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, inputs: usize, hidden: [usize; 3], dim: usize) -> Result<Self> {
        let half = |name: &str, inputs: usize, hidden: usize, outputs: usize| -> Result<Maps> {
            let params = params.pp(name);
            Ok((
                Linear::new(&params.pp(0), inputs, hidden)?,
                BatchNorm::new(&params.pp(1), hidden, EPS)?,
                Linear::new(&params.pp(3), hidden, outputs)?,
            ))
        };
        let [narrow, wide, joined] = hidden;
        Ok(Self {
            first: half("first_conv", inputs, narrow, wide)?,
            second: half("second_conv", 2 * wide, joined, dim)?,
        })
    }

    /// Maps `[groups, members, inputs]` to `[groups, dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`](crate::Error::Shape) if a member has another width, or a training batch has only one member in total.
    pub fn forward(&self, members: &Tensor, step: &StepContext) -> Result<Tensor> {
        let (enter, norm, leave) = &self.first;
        let xs = norm.forward(&enter.forward(members)?, step)?.relu()?;
        let xs = leave.forward(&xs)?;
        let largest = ops::group_max(&xs)?;
        let (enter, norm, leave) = &self.second;
        let xs = enter.forward_joined(&largest, &xs)?;
        let xs = norm.forward(&xs, step)?.relu()?;
        Ok(ops::group_max(&leave.forward(&xs)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn member_order_does_not_matter_and_gradients_arrive() {
        let store = ParamStore::cpu(1);
        let embed = PointEmbed::new(&store.root(), 3, [4, 5, 6], 7).unwrap();
        let members = noise(&[9, 4, 3], 1);
        let step = StepContext::new(0);
        let tokens = embed.forward(&members, &step).unwrap();
        assert_eq!(tokens.dims(), [9, 7]);
        let turned = embed.forward(&members.flip(&[1]).unwrap(), &step).unwrap();
        let apart = (&tokens - turned).unwrap().abs().unwrap();
        let apart = apart.flatten_all().unwrap().max(0).unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() < 1e-5);
        let grads = tokens.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in store.trainable() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
    }
}
