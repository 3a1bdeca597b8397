//! Golden cases of evaluation protocols, which mim-methods cannot see.

use candle_core::{DType, Device, Tensor};
use mim_eval::{Features, KnnConfig, LogisticRegression};
use mim_methods::parity::{Case, Given, Outputs, Result};

/// The protocols, by the `method` of their cases.
pub(super) const PROTOCOLS: &[(&str, Outputs)] =
    &[("knn", knn), ("logistic_regression", logistic_regression)];

/// The recorded features of a split, with their labels.
fn features(case: &Case, split: &str) -> Result<Features> {
    let name = format!("input.{split}_features");
    let (dim, labels) = (
        case.required(&name)?.dim(1)?,
        format!("input.{split}_labels"),
    );
    Ok(Features::new(case.flat(&name)?, dim, case.flat(&labels)?)?)
}

/// iBOT's classifier: votes and accuracies for each number of neighbours.
fn knn(case: &Case, device: &Device) -> Result<Given> {
    case.informs(&["num_classes"]);
    let (train, test) = (features(case, "train")?, features(case, "test")?);
    let mut given = Given::default();
    for k in case.needs::<Vec<usize>>("k")? {
        let config = KnnConfig {
            k,
            temperature: case.needs("temperature")?,
            ..KnnConfig::default()
        };
        let votes = config.votes(&train, &test)?;
        given.expect(&format!("votes_k{k}"), Tensor::new(votes, device)?);
        let accuracy = config.accuracy(&train, &test)?;
        for (name, percent) in [("top1", accuracy.top1), ("top5", accuracy.top5)] {
            given.expect(&format!("{name}_k{k}"), Tensor::new(percent, device)?);
        }
    }
    Ok(given)
}

/// The optimum of a regression without intercept.
fn logistic_regression(case: &Case, device: &Device) -> Result<Given> {
    let regression = LogisticRegression {
        penalty: case.needs("lam")?,
        intercept: case.needs("bias")?,
        max_iter: 1000,
        tolerance: 1e-9,
    };
    let rows = |split: &str| -> Result<Tensor> {
        let xs = case.required(&format!("input.{split}_features"))?;
        Ok(xs.to_dtype(DType::F64)?)
    };
    let targets: Vec<u32> = case.flat("input.train_labels")?;
    let fitted = regression.fit(&rows("train")?, &targets, case.needs("num_classes")?)?;
    if !fitted.converged {
        let what = format!("no optimum after {} steps", fitted.iterations);
        return Err(case.bad(what).into());
    }
    let logits = fitted.logits(&rows("test")?)?;
    let (predicted, labels) = (
        logits.argmax(1)?.to_vec1::<u32>()?,
        case.flat::<u32>("input.test_labels")?,
    );
    let right = predicted.iter().zip(&labels).filter(|(a, b)| a == b);
    let accuracy = 100. * right.count() as f64 / labels.len() as f64;
    let mut given = Given::default();
    given.expect("weight", fitted.weight.clone());
    given.expect("objective", Tensor::new(fitted.objective, device)?);
    given.expect("test_logits", logits);
    given.expect("accuracy", Tensor::new(accuracy, device)?);
    Ok(given)
}
