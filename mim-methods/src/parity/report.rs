//! The outcome of a case.

use std::fmt;

use super::Worst;

/// Whether a case agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything recorded agrees.
    Pass,
    /// Something differs, or nothing was compared.
    Fail,
    /// `mim parity` does not know the kind of case, the method or one of its settings.
    Unsupported,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unsupported => "UNSUPPORTED",
        })
    }
}

/// The outcome of a case.
#[derive(Debug, Clone)]
pub struct Report {
    /// `method/case`.
    pub case: String,
    /// Whether it agrees.
    pub verdict: Verdict,
    /// Outputs and losses.
    pub forward: Worst,
    /// Gradients.
    pub grad: Worst,
    /// Parameters after an optimizer step.
    pub step: Worst,
    /// Why it fails or is not supported: the worst tensor first.
    pub reason: Option<String>,
}

impl Report {
    /// A case that could not be compared.
    pub fn without_numbers(case: String, verdict: Verdict, reason: String) -> Self {
        let none = Worst::default;
        Self {
            case,
            verdict,
            forward: none(),
            grad: none(),
            step: none(),
            reason: Some(reason),
        }
    }

    /// Combines this report with that of another variant of the case.
    pub(super) fn and(self, other: Self) -> Self {
        Self::of(
            self.case,
            self.forward.and(other.forward),
            self.grad.and(other.grad),
            self.step.and(other.step),
        )
    }

    /// The verdict over what was compared.
    pub(super) fn of(case: String, forward: Worst, grad: Worst, step: Worst) -> Self {
        let failure = [&forward, &grad, &step]
            .into_iter()
            .find_map(|group| group.failure.clone());
        let compared = [&forward, &grad, &step]
            .into_iter()
            .any(|group| group.error.is_some());
        let verdict = if failure.is_some() || !compared {
            Verdict::Fail
        } else {
            Verdict::Pass
        };
        let reason = match (failure, compared) {
            (Some((tensor, why)), _) => Some(format!("{tensor} ({why})")),
            (None, false) => Some("nothing was compared".to_owned()),
            (None, true) => None,
        };
        Self {
            case,
            verdict,
            forward,
            grad,
            step,
            reason,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verdict, self.case)?;
        for (name, group) in [
            ("forward", &self.forward),
            ("grad", &self.grad),
            ("step", &self.step),
        ] {
            match group.error {
                Some(error) => write!(f, " {name}={error:.1e}")?,
                None => write!(f, " {name}=-")?,
            }
        }
        match &self.reason {
            Some(reason) => write!(f, " {reason}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_compared_is_a_failure() {
        let none = Worst::default;
        let report = Report::of("mae/empty".into(), none(), none(), none());
        assert_eq!(report.verdict, Verdict::Fail);
        assert!(report.to_string().contains("nothing was compared"));
    }
}
