//! The output of our parts for a case, and its comparison with the recorded values.

use candle_core::{DType, Device, Tensor};

use super::super::compare::{Rule, Worst};
use super::super::run::rule;
use super::super::{Case, Problem, Report, Result, Tolerance};

/// The output of our parts for a case of a component.
#[derive(Debug, Default)]
pub struct Given {
    entries: Vec<Entry>,
    lacking: Vec<(String, String)>,
    passed_over: Vec<String>,
}

/// How far a number may be off.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// As the case says.
    OfCase,
    /// By this much.
    Absolute(f64),
    /// Both are frequencies in a sample, the recorded one with this many draws: six standard deviations.
    Sampled(f64),
}

#[derive(Debug)]
struct Entry {
    /// With its prefix.
    name: String,
    ours: Tensor,
    /// `None` for the recorded tensor of this name.
    theirs: Option<Tensor>,
    bound: Bound,
}

impl Given {
    fn add(&mut self, name: String, ours: Tensor, theirs: Option<Tensor>, bound: Bound) {
        self.entries.push(Entry {
            name,
            ours,
            theirs,
            bound,
        });
    }

    /// Adds a value for `expect.<name>`, within the case's tolerance.
    pub fn expect(&mut self, name: &str, ours: Tensor) {
        self.add(format!("expect.{name}"), ours, None, Bound::OfCase);
    }

    /// Adds a value for `expect.<name>`, each element within `atol`.
    pub fn within(&mut self, name: &str, ours: Tensor, atol: f64) {
        self.add(format!("expect.{name}"), ours, None, Bound::Absolute(atol));
    }

    /// Adds frequencies for `expect.<name>`, which come from this many draws; ours come from at least as many.
    pub fn sampled(&mut self, name: &str, ours: Tensor, draws: usize) {
        let bound = Bound::Sampled(draws as f64);
        self.add(format!("expect.{name}"), ours, None, bound);
    }

    /// Adds gradients for `grad.<name>`.
    pub fn grad(&mut self, name: &str, ours: Tensor) {
        self.add(format!("grad.{name}"), ours, None, Bound::OfCase);
    }

    /// Adds a value for another recorded tensor; the name has its prefix.
    pub fn recorded(&mut self, name: &str, ours: Tensor) {
        self.add(name.to_owned(), ours, None, Bound::OfCase);
    }

    /// Adds a tensor for `expect.<name>`, where both are converted to another form.
    pub fn same(&mut self, name: &str, ours: Tensor, theirs: Tensor) {
        let bound = Bound::Absolute(0.);
        self.add(format!("expect.{name}"), ours, Some(theirs), bound);
    }

    /// Adds numbers that are recorded elsewhere, under `name`, within the case's tolerance.
    ///
    /// # Errors
    ///
    /// Fails only if memory runs out.
    pub fn numbers(&mut self, name: &str, ours: &[f64], theirs: &[f64]) -> Result<()> {
        let tensor = |xs: &[f64]| Tensor::new(xs, &Device::Cpu);
        let (ours, theirs) = (tensor(ours)?, tensor(theirs)?);
        self.add(name.to_owned(), ours, Some(theirs), Bound::OfCase);
        Ok(())
    }

    /// Adds one number that is recorded elsewhere, under `name`, within `atol`.
    ///
    /// # Errors
    ///
    /// Fails only if memory runs out.
    pub fn number(&mut self, name: &str, ours: f64, theirs: f64, atol: f64) -> Result<()> {
        let tensor = |x: f64| Tensor::new(x, &Device::Cpu);
        let (ours, theirs) = (tensor(ours)?, tensor(theirs)?);
        self.add(name.to_owned(), ours, Some(theirs), Bound::Absolute(atol));
        Ok(())
    }

    /// Notes that names starting with `name` (prefix included) are not compared, because mim has no `what`.
    pub fn lacks(&mut self, name: &str, what: &str) {
        self.lacking.push((name.to_owned(), what.to_owned()));
    }

    /// Skips `expect.<name>`, which mim computes on the way to compared values, but does not return.
    pub fn passes_over(&mut self, name: &str) {
        self.passed_over.push(format!("expect.{name}"));
    }

    /// Compares everything recorded. If mim lacks something and the rest agrees, the case counts as unknown to parity.
    pub(super) fn compare(&self, case: &Case, tolerance: &Tolerance) -> Result<Report> {
        let (mut forward, mut grad) = (Worst::default(), Worst::default());
        for name in case.recorded() {
            if self.passed_over.contains(&name) {
                continue;
            }
            let lacking = || {
                self.lacking
                    .iter()
                    .any(|(start, _)| name.starts_with(start))
            };
            let known = self.entries.iter().any(|entry| {
                let inside = entry.name.strip_prefix(&name);
                inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            if !known && !lacking() && tolerance.ignored(&name, 1).is_empty() {
                forward.fail(&name, "mim has no value to compare with it");
            }
        }
        for entry in &self.entries {
            let of_gradient = entry.name.starts_with("grad");
            let (worst, pair) = match of_gradient {
                true => (&mut grad, (tolerance.grad_rtol, tolerance.grad_atol)),
                false => (&mut forward, (tolerance.rtol, tolerance.atol)),
            };
            let theirs = match &entry.theirs {
                Some(theirs) => theirs,
                None => case.required(&entry.name)?,
            };
            entry.compare(theirs, pair, tolerance, worst)?;
        }
        let report = Report::of(case.name(), forward, grad, Worst::default());
        match self.lacking.first() {
            Some((_, what)) if report.reason.is_none() => Err(Problem::unknown(what.as_str())),
            _ => Ok(report),
        }
    }
}

impl Entry {
    fn compare(
        &self,
        theirs: &Tensor,
        pair: (f64, f64),
        tolerance: &Tolerance,
        worst: &mut Worst,
    ) -> Result<()> {
        let draws = match self.bound {
            Bound::OfCase => {
                let ignored = tolerance.ignored(&self.name, theirs.elem_count());
                let skip = |index| ignored.iter().any(|range| range.contains(&index));
                return Ok(worst.tensor(&self.name, &self.ours, theirs, &rule(pair, &skip))?);
            }
            Bound::Absolute(atol) => {
                let rule = Rule {
                    rtol: 0.,
                    atol,
                    floor: 0.,
                    skip: &|_| false,
                };
                // Bytes may differ, too.
                let [ours, theirs] = [&self.ours, theirs].map(|xs| xs.to_dtype(DType::F64));
                return Ok(worst.tensor(&self.name, &ours?, &theirs?, &rule)?);
            }
            Bound::Sampled(draws) => draws,
        };
        let values = |xs: &Tensor| -> Result<Vec<f64>> {
            Ok(xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        };
        let (ours, theirs) = (values(&self.ours)?, values(theirs)?);
        if ours.len() != theirs.len() {
            let why = format!("{} frequencies, recorded are {}", ours.len(), theirs.len());
            worst.fail(&self.name, why);
            return Ok(());
        }
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let allowed = 6. * (theirs * (1. - theirs) / draws).sqrt() + 1e-9;
            worst.relative(&self.name, (ours - theirs).abs(), allowed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(entry: &Entry, theirs: &[f64]) -> Option<String> {
        let tolerance: Tolerance = serde_json::from_str(
            r#"{"rtol": 0, "atol": 0, "grad_rtol": 0, "grad_atol": 0, "step_atol": 0,
                "step_min_abs_grad": 0, "ignore": []}"#,
        )
        .unwrap();
        let theirs = Tensor::new(theirs, &Device::Cpu).unwrap();
        let mut worst = Worst::default();
        entry
            .compare(&theirs, (0., 0.), &tolerance, &mut worst)
            .unwrap();
        worst.failure.map(|(_, why)| why)
    }

    #[test]
    fn frequencies_may_be_off_by_six_deviations() {
        let entry = |ours: f64, bound| Entry {
            name: "expect.rate".to_owned(),
            ours: Tensor::new(&[ours, 0.], &Device::Cpu).unwrap(),
            theirs: None,
            bound,
        };
        // A deviation is 0.05.
        let sampled = Bound::Sampled(100.);
        assert_eq!(compared(&entry(0.79, sampled), &[0.5, 0.]), None);
        assert!(compared(&entry(0.81, sampled), &[0.5, 0.]).is_some());
        assert!(compared(&entry(0.5, sampled), &[0.5]).is_some());
        assert!(compared(&entry(f64::NAN, sampled), &[0.5, 0.]).is_some());
        let absolute = Bound::Absolute(0.1);
        assert_eq!(compared(&entry(0.59, absolute), &[0.5, 0.]), None);
        assert!(compared(&entry(0.61, absolute), &[0.5, 0.]).is_some());
        assert!(compared(&entry(0.5, Bound::OfCase), &[0.5, 0.1]).is_some());
    }
}
