//! Multinomial logistic regression.

use candle_core::{DType, Device, Tensor};
use mim_core::{Error, Result};
use rayon::prelude::*;

use crate::lbfgs::{History, add, dot, line_search};

/// Rows per task; sums are formed block by block, in order, for any number of threads.
const BLOCK: usize = 256;
/// Relative decrease of the objective below which it counts as minimal, as in scikit-learn.
const LEAST_DECREASE: f64 = 64. * f64::EPSILON;

/// Minimises `mean cross entropy + penalty / 2 * ||weight||^2` in double precision, starting from zero.
///
/// With `penalty = 1 / (C * rows)` and an intercept, this is scikit-learn's `LogisticRegression(C)`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogisticRegression {
    /// Weight of the squared norm; the intercept is not penalised.
    pub penalty: f64,
    /// Whether each class has an intercept.
    pub intercept: bool,
    /// Maximum number of steps.
    pub max_iter: usize,
    /// Gradient elements up to this value count as zero.
    pub tolerance: f64,
}

/// A fitted classifier.
#[derive(Debug, Clone)]
pub struct Logistic {
    /// `[classes, dim]`, double precision.
    pub weight: Tensor,
    /// `[classes]`, double precision; zero without an intercept.
    pub bias: Tensor,
    /// The final value of the objective.
    pub objective: f64,
    /// Steps taken.
    pub iterations: usize,
    /// Whether the gradient or the decrease vanished within the allowed steps.
    pub converged: bool,
}

impl LogisticRegression {
    /// Fits rows `xs` `[rows, dim]` (double precision, CPU) to `targets` below `classes`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if rows and targets do not match, or a target is not below `classes`.
    pub fn fit(&self, xs: &Tensor, targets: &[u32], classes: usize) -> Result<Logistic> {
        let (rows, dim) = xs.dims2()?;
        if rows != targets.len() || rows == 0 || targets.iter().any(|t| *t as usize >= classes) {
            return Err(Error::shape(
                "targets of a logistic regression",
                format!("{rows} > 0 classes below {classes}"),
                format!("{} targets up to {:?}", targets.len(), targets.iter().max()),
                "pass one class below `classes` per row",
            ));
        }
        let problem = Problem {
            xs: xs.to_dtype(DType::F64)?.contiguous()?,
            targets,
            classes,
            penalised: classes * dim,
            penalty: self.penalty,
            intercept: self.intercept,
        };
        self.minimise(&problem, classes * (dim + 1), (classes, dim))
    }

    /// A step costs two products with the data: one for the logits along the direction, one for the gradient.
    /// The line search between them uses only the logits.
    fn minimise(
        &self,
        problem: &Problem<'_>,
        count: usize,
        shape: (usize, usize),
    ) -> Result<Logistic> {
        let mut parameters = vec![0.; count];
        let mut logits = vec![0.; problem.targets.len() * problem.classes];
        let mut residual = logits.clone();
        let still = vec![0.; logits.len()];
        let (mut objective, _) = problem.cross_entropy(&logits, &still, 0., &mut residual);
        let mut gradient = problem.gradient(&residual, &parameters)?;
        let (mut history, mut iterations, mut converged) = (History::default(), 0, false);
        loop {
            converged |= gradient.iter().all(|g| g.abs() <= self.tolerance);
            if converged || iterations == self.max_iter {
                break;
            }
            let direction = history.direction(&gradient);
            let change = problem.logits(&direction)?;
            let line = problem.line(&parameters, &direction);
            let start = (objective, dot(&gradient, &direction));
            let found = line_search(start, |step| {
                let (value, slope) = problem.cross_entropy(&logits, &change, step, &mut residual);
                let (penalty, rise) = line(step);
                (value + penalty, slope + rise)
            });
            let Some((step, value)) = found else {
                converged = true;
                break;
            };
            let moved: Vec<f64> = direction.iter().map(|d| step * d).collect();
            add(&mut parameters, 1., &moved);
            add(&mut logits, step, &change);
            let previous = gradient;
            gradient = problem.gradient(&residual, &parameters)?;
            let bend = gradient.iter().zip(&previous).map(|(g, p)| g - p).collect();
            history.push(moved, bend);
            converged = objective - value <= LEAST_DECREASE * objective.abs().max(1.);
            objective = value;
            iterations += 1;
        }
        let bias = parameters.split_off(problem.penalised);
        Ok(Logistic {
            weight: Tensor::from_vec(parameters, shape, &Device::Cpu)?,
            bias: Tensor::from_vec(bias, shape.0, &Device::Cpu)?,
            objective,
            iterations,
            converged,
        })
    }
}

impl Logistic {
    /// Logits `[rows, classes]` of rows `xs` `[rows, dim]` in double precision.
    ///
    /// # Errors
    ///
    /// Fails if the width differs.
    pub fn logits(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(xs.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?)
    }
}

/// The data and the shape of the parameters: weights `[classes, dim]`, then intercepts `[classes]`.
struct Problem<'a> {
    xs: Tensor,
    targets: &'a [u32],
    classes: usize,
    penalised: usize,
    penalty: f64,
    intercept: bool,
}

impl Problem<'_> {
    /// `xs . weight^T + bias`, `[rows, classes]`.
    fn logits(&self, parameters: &[f64]) -> Result<Vec<f64>> {
        let (weight, bias) = parameters.split_at(self.penalised);
        let dim = self.penalised / self.classes;
        let weight = Tensor::from_slice(weight, (self.classes, dim), &Device::Cpu)?;
        let mut logits: Vec<f64> = self.xs.matmul(&weight.t()?)?.flatten_all()?.to_vec1()?;
        for row in logits.chunks_exact_mut(self.classes) {
            add(row, 1., bias);
        }
        Ok(logits)
    }

    /// The gradient, given `residual` `[rows, classes]`, the derivative with respect to the logits.
    fn gradient(&self, residual: &[f64], parameters: &[f64]) -> Result<Vec<f64>> {
        let shape = (self.targets.len(), self.classes);
        let rows = Tensor::from_slice(residual, shape, &Device::Cpu)?;
        let mut gradient: Vec<f64> = rows.t()?.matmul(&self.xs)?.flatten_all()?.to_vec1()?;
        add(&mut gradient, self.penalty, &parameters[..self.penalised]);
        let mut bias = vec![0.; self.classes];
        if self.intercept {
            for row in residual.chunks_exact(self.classes) {
                add(&mut bias, 1., row);
            }
        }
        gradient.extend(bias);
        Ok(gradient)
    }

    /// Value and slope of the penalty along `direction`, as a function of the step.
    fn line(&self, parameters: &[f64], direction: &[f64]) -> impl Fn(f64) -> (f64, f64) + use<> {
        let (weight, change) = (&parameters[..self.penalised], &direction[..self.penalised]);
        let (square, cross, bend) = (
            dot(weight, weight),
            dot(weight, change),
            dot(change, change),
        );
        let penalty = self.penalty;
        move |step| {
            let value = square + step * (2. * cross + step * bend);
            (penalty / 2. * value, penalty * (cross + step * bend))
        }
    }

    /// Mean cross entropy of `logits + step * change` and its slope in `step`; fills `residual` with the derivative
    /// with respect to the logits.
    fn cross_entropy(
        &self,
        logits: &[f64],
        change: &[f64],
        step: f64,
        residual: &mut [f64],
    ) -> (f64, f64) {
        let (classes, size) = (self.classes, BLOCK * self.classes);
        let scale = 1. / self.targets.len() as f64;
        let blocks = residual
            .par_chunks_mut(size)
            .zip(logits.par_chunks(size))
            .zip(change.par_chunks(size))
            .zip(self.targets.par_chunks(BLOCK));
        let sums = blocks.map(|(((residual, logits), change), targets)| {
            residual.copy_from_slice(logits);
            add(residual, step, change);
            let rows = residual.chunks_exact_mut(classes).zip(targets);
            let loss: f64 = rows
                .map(|(row, target)| to_derivative(row, *target as usize, scale))
                .sum();
            (loss, dot(residual, change))
        });
        let sums: Vec<(f64, f64)> = sums.collect();
        let (losses, slopes): (Vec<f64>, Vec<f64>) = sums.into_iter().unzip();
        (scale * losses.iter().sum::<f64>(), slopes.iter().sum())
    }
}

/// The cross entropy of one row of logits, which are replaced by `scale` times its derivative.
fn to_derivative(row: &mut [f64], target: usize, scale: f64) -> f64 {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let wanted = row[target];
    let mut sum = 0.;
    for value in row.iter_mut() {
        *value = (*value - top).exp();
        sum += *value;
    }
    row.iter_mut().for_each(|value| *value *= scale / sum);
    row[target] -= scale;
    sum.ln() + top - wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGRESSION: LogisticRegression = LogisticRegression {
        penalty: 0.1,
        intercept: true,
        max_iter: 100,
        tolerance: 1e-10,
    };

    fn rows() -> Tensor {
        let values = [[1., 2.], [3., -1.], [0.5, 0.], [-2., 1.]];
        Tensor::new(&values, &Device::Cpu).unwrap()
    }

    fn problem(targets: &[u32]) -> Problem<'_> {
        Problem {
            xs: rows(),
            targets,
            classes: 3,
            penalised: 6,
            penalty: 0.1,
            intercept: true,
        }
    }

    #[test]
    fn slopes_and_gradients_are_differences_of_the_objective() {
        let problem = problem(&[0, 2, 2, 1]);
        let at: Vec<f64> = (0..9).map(|i| f64::from(i * 5 % 7) / 4. - 0.7).collect();
        let mut residual = vec![0.; 12];
        let logits = problem.logits(&at).unwrap();
        for index in 0..9 {
            let mut direction = vec![0.; 9];
            direction[index] = 1.;
            let change = problem.logits(&direction).unwrap();
            let line = problem.line(&at, &direction);
            let mut along = |step: f64| {
                let (loss, slope) = problem.cross_entropy(&logits, &change, step, &mut residual);
                (loss + line(step).0, slope + line(step).1)
            };
            let (before, after, (_, slope)) = (along(-1e-5), along(1e-5), along(0.));
            assert!(
                ((after.0 - before.0) / 2e-5 - slope).abs() < 1e-8,
                "{index}"
            );
            let gradient = problem.gradient(&residual, &at).unwrap();
            assert!((gradient[index] - slope).abs() < 1e-12, "{index}");
        }
    }

    #[test]
    fn without_information_the_intercepts_are_the_log_frequencies() {
        let xs = Tensor::zeros((4, 1), DType::F64, &Device::Cpu).unwrap();
        let fitted = REGRESSION.fit(&xs, &[0, 1, 1, 1], 2).unwrap();
        let bias: Vec<f64> = fitted.bias.to_vec1().unwrap();
        assert!(fitted.converged);
        assert!((bias[1] - bias[0] - 3f64.ln()).abs() < 1e-8, "{bias:?}");
        let entropy = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!((fitted.objective - entropy).abs() < 1e-12);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let mut row = [1000., -1000., 0.];
        assert_eq!(to_derivative(&mut row, 1, 0.5), 2000.);
        assert_eq!(row, [0.5, -0.5, 0.]);
    }

    #[test]
    fn reports_too_few_steps() {
        let short = LogisticRegression {
            max_iter: 2,
            ..REGRESSION
        };
        let fitted = short.fit(&rows(), &[0, 2, 2, 1], 3).unwrap();
        assert!(!fitted.converged && fitted.iterations == 2);
        let long = REGRESSION.fit(&rows(), &[0, 2, 2, 1], 3).unwrap();
        assert!(long.converged && long.objective < fitted.objective);
    }

    #[test]
    fn refuses_mismatched_targets() {
        for targets in [&[0, 1, 2][..], &[0, 1, 2, 3]] {
            let error = REGRESSION.fit(&rows(), targets, 3).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
        }
    }
}
